"""Run folders: one per run, found by what decides its numbers.

A run's folder holds `config.json` (what was asked), `records.csv` (a row a round),
`provenance.json` (written last: where the finished run came from), TensorBoard's events and,
until the run is finished, its checkpoints.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from fedutils import provenance
from fedutils.errors import UsageError

DEFAULT_STORE = Path("results") / "runs"


class Run:
    """The folder of one run."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)

    records_path = property(lambda self: self.folder / "records.csv", doc="A row a round.")
    checkpoints = property(lambda self: self.folder / "checkpoints", doc="The server's states.")
    tensorboard = property(lambda self: self.folder / "tensorboard", doc="TensorBoard's events.")

    @property
    def config(self) -> dict:
        """What was asked for, as written by `open_run`."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def provenance(self) -> dict | None:
        """Where the finished run came from; None as long as it is not finished."""
        path = self.folder / "provenance.json"
        return json.loads(path.read_text()) if path.exists() else None

    def records(self) -> pd.DataFrame:
        """Returns the records: a row a round, round 0 being the state before training.

        Columns: `round`, training and test metrics, `broadcast_bits` and `aggregated_bits` of the
        round, summed over its clients, their cumulative sums (`cumulative_…`), and `seconds`.
        Rounds that were not evaluated have no test metrics.
        """
        return pd.read_csv(self.records_path)

    def finish(self, origin: dict) -> None:
        """Writes the provenance, which marks the run as finished, and drops its checkpoints."""
        write_json(self.folder / "provenance.json", origin)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process; waits, saying so, while another process holds it."""
        with (self.folder / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                print(f"{self.folder.name} is held by {lock.read().strip()}; waiting", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield
            lock.truncate(0)


def open_run(store: str | os.PathLike, name: str, config: dict, decides: dict) -> Run:
    """Returns the folder of a run, made if it does not exist.

    Args:
        store: Folder of run folders.
        name: Readable beginning of the folder's name.
        config: What was asked for.
        decides: What else decides the numbers: data fingerprint, code, versions.

    Raises:
        UsageError: If the folder cannot be written to.
    """
    folder = Path(store) / f"{name}-{provenance.digest(config, decides)[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config)
    except OSError as error:
        raise UsageError(
            f"the results folder {Path(store)} cannot be written to ({error.strerror}): "
            "choose another one (--out) or make it writable"
        ) from error
    return Run(folder)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file as text by column; none if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: str | os.PathLike, rows: list[dict]) -> None:
    """Writes rows as a CSV file, all of it or nothing; None and absent values stay empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(Path(path), text.getvalue())


def write_json(path: Path, value: object) -> None:
    """Writes a value as JSON, all of it or nothing."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, all of it or nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def publish(runs: Iterable[Run], folder: str | os.PathLike) -> None:
    """Copies the records of finished runs to where results are published.

    Writes `records/NAME.csv` for each run and enters its configuration and origin under NAME in
    `provenance.json`; entries of other runs stay.

    Args:
        runs: Finished runs.
        folder: For example `results/quick`.
    """
    folder = Path(folder)
    (folder / "records").mkdir(parents=True, exist_ok=True)
    origins_path = folder / "provenance.json"
    origins = json.loads(origins_path.read_text()) if origins_path.exists() else {}
    for run in runs:
        name = run.folder.name.rpartition("-")[0]
        write_text(folder / "records" / f"{name}.csv", run.records_path.read_text())
        origins[name] = {"config": run.config, **run.provenance}
    write_json(origins_path, dict(sorted(origins.items())))


def tidy(runs: Iterable[Run]) -> pd.DataFrame:
    """Returns the records of several runs under each other.

    Columns `recipe`, `dataset` and `seed` come before those of `Run.records`.
    """
    tables = []
    for run in runs:
        config = run.config
        table = run.records()
        for position, (column, value) in enumerate(
            {
                "recipe": config["recipe"],
                "dataset": config["data"]["name"],
                "seed": config["seed"],
            }.items()
        ):
            table.insert(position, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
