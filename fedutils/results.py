"""Run folders: one per run, found by what decides its numbers.

A run's folder holds `config.json` (what was asked), `records.csv` (one row per round),
`provenance.json` (written last: where the finished run came from), TensorBoard's events and,
until the run is finished, its checkpoints.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from fedutils import provenance
from fedutils.errors import UsageError

DEFAULT_STORE = Path("results") / "runs"
DEFAULT_RACE = Path("results") / "race"

_MAKE_SPACE = "make space, then give the same command again: it goes on where it stopped"


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
        try:
            return json.loads((self.folder / "provenance.json").read_text())
        except (FileNotFoundError, ValueError):  # a damaged one tells nothing
            return None

    def records(self) -> pd.DataFrame:
        """Returns the records: one row per round, round 0 being the state before training.

        Columns: `round`, training and test metrics, `broadcast_bits` and `aggregated_bits` of the
        round, summed over its clients, their cumulative sums (`cumulative_…`), and `seconds`.
        Rounds that were not evaluated have no test metrics.
        """
        return pd.read_csv(self.records_path)

    def recorded(self) -> int:
        """Returns the last round up to which every record is there, or -1.

        Rows behind one that is missing, cut short or damaged are removed.
        """
        try:
            rows = read_rows(self.records_path)
        except (ValueError, csv.Error):  # not even text
            self.records_path.unlink()
            return -1
        whole = []
        for number, row in enumerate(rows):
            if row.get("round") != str(number) or None in row.values():
                break
            whole.append(row)
        if len(whole) < len(rows):
            write_rows(self.records_path, whole)
        return len(whole) - 1

    def finish(self, origin: dict) -> None:
        """Writes the provenance, which marks the run as finished, and drops its checkpoints."""
        write_json(self.folder / "provenance.json", origin)
        self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Removes the checkpoints: a finished run needs none."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process; removes half-written files of one that was killed."""
        with locked(self.folder):
            for leftover in self.folder.rglob("*.partial"):  # only who holds the run writes here
                leftover.unlink(missing_ok=True)
            yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; waits, saying so, while another process holds it."""
    with (folder / ".lock").open("ab+", buffering=0) as lock:
        holder = _take(lock)
        if holder:
            print(f"{folder.name} is held by {holder}; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        with contextlib.suppress(OSError):  # a full disk can be locked, but not written to
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
        lock.truncate(0)


def _take(lock: BinaryIO) -> str:
    """Takes a lock that is free; returns who holds it, or nothing if this process does now."""
    for _ in range(20):  # who has just taken it is about to write its name
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            name = lock.read().decode()
            if name:
                return name
            time.sleep(0.05)
        else:
            return ""
    return "a process that could not write its name"


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
    run = Run(Path(store) / f"{name}-{provenance.digest(config, decides)[:12]}")
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        with run.locked():
            write_json(run.folder / "config.json", config)
    except OSError as error:
        raise not_written(Path(store), error) from error
    return run


def not_written(folder: Path, error: OSError) -> UsageError:
    """Returns the error that tells why a folder of results could not be written to."""
    advice = {
        errno.ENOSPC: _MAKE_SPACE,
        errno.EDQUOT: _MAKE_SPACE,
        errno.EFBIG: _MAKE_SPACE,
        errno.ENOENT: "if it was deleted meanwhile, the same command makes it anew; if not, choose "
        "another one (--out)",
    }
    return UsageError(
        f"the results folder {folder} cannot be written to ({os.strerror(error.errno)}): "
        + advice.get(error.errno, "choose another one (--out) or make it writable")
    )


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
    """Writes a text file in UTF-8, all of it or nothing; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, all of it or nothing: whatever happens, the one of before stays until then.

    Raises:
        UsageError: If it cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise not_written(path.parent, error) from error


def _own_name(run: Run) -> str:
    return run.folder.name.rpartition("-")[0]


def publish(
    runs: Iterable[Run],
    folder: str | os.PathLike,
    name_of: Callable[[Run], str] = _own_name,
) -> None:
    """Copies the records of finished runs to where results are published.

    Writes `records/NAME.csv` for each run and enters its configuration, origin and the records'
    digest under NAME in `provenance.json`; entries of other runs stay. Says so if it replaces the
    records of a run with other settings.

    Args:
        runs: Finished runs.
        folder: For example `results/quick`.
        name_of: A run's NAME, which may have folders in it; its folder's, without the key, if
            not given.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # notebooks that are executed at the same time publish here too
        origins = origins_of(folder)
        for run in runs:
            name = name_of(run)
            path = folder / "records" / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = run.records_path.read_text(encoding="utf-8")
            if changed := _changed(origins.get(name, {}).get("config", {}), run.config):
                print(f"{path} held a run with {changed}: it is replaced")
            write_text(path, text)
            digest = hashlib.sha256(text.encode()).hexdigest()
            origins[name] = {"config": run.config, **run.provenance, "records_sha256": digest}
        write_json(folder / "provenance.json", dict(sorted(origins.items())))


def _changed(before: dict, after: dict) -> str:
    """What a run was made with that another one was not, as text."""
    common = [key for key in before if key in after and before[key] != after[key]]
    return ", ".join(f"{key} {before[key]} (now {after[key]})" for key in common)


def origins_of(folder: str | os.PathLike) -> dict[str, dict]:
    """Returns the configuration and origin of each run published in a folder, by its name."""
    return read_json(Path(folder) / "provenance.json")


def read_json(path: Path) -> dict:
    """Returns the object in a file that is published; none if there is no file.

    Raises:
        UsageError: If it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UsageError(f"{path} is damaged: expected JSON ({error}); restore it") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged: expected a JSON object; restore it")
    return found


def published_in(folder: str | os.PathLike) -> dict[str, dict]:
    """Returns those of `origins_of` whose records are there."""
    records = Path(folder) / "records"
    origins = origins_of(folder)
    return {name: it for name, it in origins.items() if (records / f"{name}.csv").exists()}


def tidy(runs: Iterable[Run]) -> pd.DataFrame:
    """Returns the records of several runs under each other.

    Columns `recipe`, `model`, `dataset` and `seed` come before those of `Run.records`.
    """
    tables = []
    for run in runs:
        config = run.config
        table = run.records()
        for position, (column, value) in enumerate(
            {
                "recipe": config["recipe"],
                "model": config.get("model", "cnn"),  # there was no choice at first
                "dataset": config["data"]["name"],
                "seed": config["seed"],
            }.items()
        ):
            table.insert(position, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
