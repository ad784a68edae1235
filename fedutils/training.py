"""Federated averaging, round by round: a run is a function of its configuration."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import (
    aggregators,
    backward,
    checkpoints,
    data,
    feedback,
    ledger,
    models,
    progress,
    provenance,
    recipes,
    records,
    results,
    runtime,
    seeds,
)
from fedutils.errors import UsageError


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What decides a run. The defaults are the study's, but for the data set.

    Attributes:
        recipe: Name of the recipe that compresses the communication, which may set parameters of
            it; see `recipes.get`.
        data: The federated data set.
        rounds: Number of rounds.
        clients_per_round: Size of the cohort, drawn anew each round without replacement.
        seed: Decides initial weights, cohorts, shuffles and the randomness of compression.
        batch_size: Examples a client uses a step.
        epochs: Passes a client makes over its examples each round.
        client_learning_rate: Of the clients' SGD.
        server_learning_rate: Of the server's SGD; 1.0 is plain averaging.
        eval_every: Rounds between evaluations on the test set; the last round is always evaluated.
        model: Name of the network (`models.MODELS`).
    """

    recipe: str = "none"
    data: data.DataConfig = dataclasses.field(default_factory=data.DataConfig)
    rounds: int = 10
    clients_per_round: int = 10
    seed: int = 1
    batch_size: int = 20
    epochs: int = 1
    client_learning_rate: float = 0.02
    server_learning_rate: float = 1.0
    eval_every: int = 5
    model: str = "cnn"

    def __post_init__(self) -> None:
        """Raises UsageError on values that no run can have."""
        object.__setattr__(self, "recipe", recipes.get(self.recipe).name)  # one spelling, one run
        models.get(self.model)
        for name in ("rounds", "clients_per_round", "batch_size", "epochs", "eval_every"):
            _require(self, name, lambda x: isinstance(x, int) and x > 0, "a positive integer")
        _require(self, "seed", lambda x: isinstance(x, int) and x >= 0, "an integer from 0 on")
        for name in ("client_learning_rate", "server_learning_rate"):
            _require(
                self,
                name,
                lambda x: isinstance(x, int | float) and 0 < x < float("inf"),
                "a positive number",
            )
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def task(self) -> str:
        """What is learned, for names of runs: the data set, and what is not as in the study."""
        classes = [str(self.data.classes)] * (self.data.classes != 10)
        return "-".join([self.data.name, *classes, *[self.model] * (self.model != "cnn")])


def _require(config: RunConfig, name: str, holds, expected: str) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not holds(value):
        raise UsageError(f"{name} must be {expected}, not {value!r}")


def build_process(config: RunConfig, classes: int) -> tff.learning.templates.LearningProcess:
    """Builds weighted federated averaging with the recipe's aggregation and distribution.

    Args:
        config: The run's configuration.
        classes: Number of labels.

    Returns:
        TFF's learning process for it.
    """
    recipe = recipes.get(config.recipe)

    def model() -> tff.learning.models.VariableModel:
        return models.tff_model(config.model, classes, config.seed)

    def initial() -> list[tf.Tensor]:
        return models.initial_weights(config.model, classes, config.seed)

    aggregator = recipe.aggregator(seeds.stream(config.seed, "compression"))
    if aggregators.derives(aggregator):
        build = functools.partial(backward.build_weighted_fed_avg, initial=initial)
    else:
        build = tff.learning.algorithms.build_weighted_fed_avg
        if recipe.distributor is not None:
            weights_type = tff.learning.models.weights_type_from_model(model)
            seed = seeds.stream(config.seed, "broadcast")
            distributor = recipe.distributor(weights_type, initial, seed)
            build = functools.partial(build, model_distributor=distributor)
    process = build(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(config.client_learning_rate),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(config.server_learning_rate),
        model_aggregator=aggregator,
        # The same weights, bit for bit, as with TFF's default loop over a client's batches, sooner.
        loop_implementation=tff.learning.LoopImplementation.DATASET_ITERATOR,
    )
    return feedback.fed_with_loss(process)


class Cohorts:
    """The clients of each round and the batches each of them trains on."""

    def __init__(self, config: RunConfig, federated: data.FederatedData) -> None:
        """Prepares the choice.

        Raises:
            UsageError: If there are fewer clients than a round needs.
        """
        clients = federated.train.client_ids
        if config.clients_per_round > len(clients):
            raise UsageError(
                f"clients_per_round is {config.clients_per_round}, but {config.data.name} has "
                f"only {len(clients)} clients to train on"
            )
        self._config, self._federated = config, federated
        self._sample = tff.simulation.build_uniform_sampling_fn(
            clients, random_seed=seeds.stream(config.seed, "cohort")
        )

    def clients(self, round_number: int) -> list[str]:
        """Returns the ids of the clients of a round."""
        return list(self._sample(round_number, self._config.clients_per_round))

    def datasets(self, round_number: int) -> list:
        """Returns the training data of the clients of a round, preprocessed and shuffled."""
        config = self._config
        return [
            data.train_dataset(
                *self._federated.train_arrays(client),
                batch_size=config.batch_size,
                epochs=config.epochs,
                seed=seeds.stream(config.seed, "shuffle", round_number, client),
            )
            for client in self.clients(round_number)
        ]


def decides(federated: data.FederatedData) -> dict[str, object]:
    """Returns what decides a run's numbers beside its configuration."""
    return {
        "data": federated.fingerprint,
        "code": provenance.code_digest(),
        "versions": provenance.versions(),
    }


def run(
    config: RunConfig,
    store: str | Path = results.DEFAULT_STORE,
    data_dir: str | Path | None = None,
) -> results.Run:
    """Makes a run, resumes it, or finds it finished.

    Args:
        config: What to run.
        store: Folder of run folders.
        data_dir: Folder of downloaded data; see `data.data_folder`.

    Returns:
        The finished run's folder.

    Raises:
        UsageError: If the data does not have what is asked for, or the store cannot be written.
    """
    federated = data.load(config.data, data_dir)
    cohorts = Cohorts(config, federated)
    if federated.left_out:
        print(f"{config.data.name}: clients without examples, left out: {federated.left_out}")
    found = results.open_run(
        store,
        name=f"{config.recipe}-{config.task}-seed{config.seed}",
        config=dataclasses.asdict(config),
        decides={**decides(federated), "recipe": recipes.get(config.recipe).code},
    )
    with found.locked():
        if found.provenance is None or found.recorded() < config.rounds:
            runtime.start()
            _train(config, federated, cohorts, found)
        else:
            found.drop_checkpoints()  # it may have been killed before it did
    return found


def _train(
    config: RunConfig, federated: data.FederatedData, cohorts: Cohorts, folder: results.Run
) -> None:
    begin = time.monotonic()
    recorded = folder.recorded()
    process = build_process(config, federated.classes)
    evaluate = models.Evaluator(config.model, federated.classes, *federated.test_arrays())
    keeper = records.RecordKeeper(
        folder,
        ledger.of(process.next),
        config.clients_per_round,
        progress.Progress(config.recipe, config.rounds),
    )
    stop = threading.Event()

    def select(round_number: int) -> list:
        if stop.is_set():
            raise KeyboardInterrupt
        keeper.begin_round()
        return cohorts.datasets(round_number)

    def evaluation_is_due(round_number: int) -> bool:
        keeper.end_training()
        return round_number % config.eval_every == 0 or round_number == config.rounds

    def train() -> object:
        # TFF's loop awaits its managers on the event loop of its thread. A notebook's thread has
        # one that is already running, so it gets a thread of its own.
        asyncio.set_event_loop(asyncio.new_event_loop())
        runtime.start()
        return tff.simulation.run_training_process(
            process,
            training_selection_fn=select,
            total_rounds=config.rounds,
            evaluation_selection_fn=evaluation_is_due,
            evaluation_fn=lambda state, due: (
                evaluate(process.get_model_weights(state)) if due else {}
            ),
            # A state beyond the records is of no use: rounds would be missing from them.
            program_state_manager=checkpoints.CheckpointManager(folder.checkpoints, recorded),
            metrics_managers=[keeper],
        )

    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        try:
            state = thread.submit(train).result()
        except BaseException:  # Ctrl-C, or the SystemExit that a SIGTERM becomes
            stop.set()  # the round in progress ends, the next one does not begin
            raise
    weights = process.get_model_weights(state)
    folder.finish(
        {
            **provenance.describe(),
            "data_fingerprint": federated.fingerprint,
            "clients_left_out": federated.left_out,
            "final_weights_sha256": _digest_of_weights(weights),
            "wall_seconds": round(time.monotonic() - begin, 1),
        }
    )


def _digest_of_weights(weights: tff.learning.models.ModelWeights) -> str:
    digest = hashlib.sha256()
    for variable in (*weights.trainable, *weights.non_trainable):
        digest.update(np.asarray(variable).tobytes())
    return digest.hexdigest()
