"""Real client updates, saved to measure codecs on."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedutils import data, provenance, results, runtime, training
from fedutils.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Updates:
    """Updates of some clients in some rounds of plain federated averaging.

    Attributes:
        table: A row an update: `round`, `client`.
        vectors: float32[updates, parameters]; rows as in the table.
        layout: Shapes of the model's variables, in the order of the vector.
    """

    table: pd.DataFrame
    vectors: np.ndarray
    layout: list[tuple[int, ...]]


def collect(
    config: training.RunConfig,
    rounds: Sequence[int],
    clients: int = 2,
    store: str | Path = results.DEFAULT_STORE,
    data_dir: str | Path | None = None,
) -> Updates:
    """Trains plain federated averaging and keeps what some clients would send.

    Args:
        config: The run; its `rounds`, `recipe`, `eval_every` and `server_learning_rate` do not
            matter. The latter is 1 here: the model moves by the mean update.
        rounds: The rounds (from 1 on) whose updates are kept, in any order.
        clients: How many clients of each of those rounds, the first of the cohort.
        store: Folder of run folders; updates found there are not made again.
        data_dir: Folder of downloaded data.

    Returns:
        The updates, by round and client.

    Raises:
        UsageError: If no round or no client is asked for, or a round before the first; if the data
            does not have what is asked for, or the store cannot be written.
    """
    rounds = sorted(set(rounds))
    if not rounds or rounds[0] < 1 or clients < 1:
        raise UsageError(
            f"updates of {clients} clients in the rounds {rounds} cannot be kept: ask for one or "
            "more clients, and for rounds from 1 on"
        )
    fixed = {"recipe": "none", "eval_every": 1, "server_learning_rate": 1.0}
    config = dataclasses.replace(config, rounds=rounds[-1], **fixed)
    federated = data.load(config.data, data_dir)
    cohorts = training.Cohorts(config, federated)
    folder = results.open_run(
        store,
        f"updates-{config.task}-seed{config.seed}",
        {**dataclasses.asdict(config), "kept_rounds": rounds, "kept_clients": clients},
        {**training.decides(federated), "code": provenance.code_digest("fedutils.updates")},
    )
    path = folder.folder / "updates.npz"
    with folder.locked():
        if not path.exists():
            _write(path, config, federated, cohorts, rounds, clients)
    table = pd.DataFrame(
        [(r, client) for r in rounds for client in cohorts.clients(r)[:clients]],
        columns=["round", "client"],
    )
    with np.load(path, allow_pickle=False) as saved:
        layout = [tuple(int(size) for size in text.split("x")) for text in saved["layout"]]
        return Updates(table, saved["vectors"], layout)


def _write(path, config, federated, cohorts, rounds, clients) -> None:
    runtime.start()
    process = training.build_process(config, federated.classes)
    state = process.initialize()
    vectors = []
    for round_number in range(1, rounds[-1] + 1):
        datasets = cohorts.datasets(round_number)
        if round_number in rounds:
            before = process.get_model_weights(state).trainable
            for dataset in datasets[:clients]:
                # A round of one client moves the model by that client's update.
                after = process.get_model_weights(process.next(state, [dataset]).state).trainable
                vectors.append(
                    np.concatenate([np.ravel(a - b) for a, b in zip(after, before, strict=True)])
                )
        if round_number < rounds[-1]:
            state = process.next(state, datasets).state
    shapes = ["x".join(map(str, np.shape(v))) for v in process.get_model_weights(state).trainable]
    file = io.BytesIO()
    np.savez(file, vectors=np.stack(vectors), layout=np.array(shapes))
    results.write_bytes(path, file.getvalue())
    results.write_json(path.with_name("provenance.json"), provenance.describe())
