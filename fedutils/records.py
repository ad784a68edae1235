"""Records: what a run's rounds measured, one row each, and the bits they cost."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import ledger, results
from fedutils.errors import UsageError

STRINGS = {
    "model_payload_bits": (ledger.Direction.BROADCAST, "model"),
    "announcement_bits": (ledger.Direction.BROADCAST, "announcements"),
    "payload_bits_sum": (ledger.Direction.AGGREGATED, "updates"),
}
"""Measured lengths of strings, by their columns in the records: which way they went, what they are.

Every client of a round gets the same string, whose column is of one copy; what they send differs,
and its column is of all clients."""


class RecordKeeper(tff.program.ReleaseManager):
    """Turns what TFF's loop releases into a run's records: a CSV file, TensorBoard, progress.

    The loop measures times by the system's clock. That may be set back in a run, so the keeper is
    told when a round begins and when its training ends, and takes times itself.
    """

    def __init__(
        self,
        folder: results.Run,
        bill: ledger.Ledger,
        clients: int,
        shown: tff.program.ReleaseManager,
    ) -> None:
        """Prepares the files, or goes on with those of an interrupted run.

        Args:
            folder: The run's folder.
            bill: Ledger of one round.
            clients: Clients of a round.
            shown: Shows each record to the person who waits.

        Raises:
            UsageError: If they cannot be written.
        """
        self._folder, self._bill, self._clients = folder, bill, clients
        self._rows = results.read_rows(folder.records_path)
        with self._events_written():
            self._board = tff.program.TensorBoardReleaseManager(folder.tensorboard)
        self._shown = shown
        self._began = self._trained = time.monotonic()

    def begin_round(self) -> None:
        """Takes the time at which a round begins."""
        self._began = time.monotonic()

    def end_training(self) -> None:
        """Takes the time at which a round has trained and its evaluation, if any, begins."""
        self._trained = time.monotonic()

    async def release(self, value: Mapping[str, object], key: int) -> None:
        """Records the metrics that TFF's loop releases after round `key`.

        Raises:
            UsageError: If it cannot be written, or if the first round refused all clients.
            ValueError: If strings crossed whose lengths were not measured.
        """
        # A run that was killed between its record and its checkpoint repeats that round.
        self._rows = [row for row in self._rows if int(row["round"]) < key]
        row = self._row(value, key)
        if key == 1 and row.get("rejected_clients") == self._clients:
            raise UsageError(
                "the server refused what all clients of the first round sent, so nothing can be "
                "learned: the codec cannot encode such updates (`conformance.check` tries it), or "
                "they are not finite; try a smaller learning rate"
            )
        self._rows.append(row)
        results.write_rows(self._folder.records_path, self._rows)
        present = {name: number for name, number in row.items() if number is not None}
        with self._events_written():
            # As arrays: TensorFlow keeps every Python number of which it ever made a tensor.
            arrays = {name: np.asarray(number) for name, number in present.items()}
            await self._board.release(arrays, key)
        await self._shown.release(present, key)

    @contextlib.contextmanager
    def _events_written(self) -> Iterator[None]:
        """Raises UsageError if TensorFlow cannot write TensorBoard's events in the body."""
        try:
            yield
        except tf.errors.OpError as error:
            full = isinstance(error, tf.errors.ResourceExhaustedError)
            reason = OSError(errno.ENOSPC if full else errno.EIO, error.message)
            raise results.not_written(self._folder.tensorboard, reason) from error

    def _row(self, value: Mapping[str, object], key: int) -> dict[str, object]:
        train = value.get("client_work", {}).get("train", {})
        measured = measurements(value)
        row = {
            "round": key,
            "train_accuracy": _number(train.get("sparse_categorical_accuracy")),
            "train_loss": _number(train.get("loss")),
            "num_examples": _number(train.get("num_examples")),
            "num_batches": _number(train.get("num_batches")),
            "test_accuracy": _number(value.get("evaluation/test_accuracy")),
            "test_loss": _number(value.get("evaluation/test_loss")),
        }
        before = self._rows[-1] if self._rows else {}
        bits = {
            direction.value: self._round_bits(direction, measured) if train else 0
            for direction in ledger.Direction
        }
        for name, of_round in bits.items():
            row[f"{name}_bits"] = of_round
        for name, of_round in bits.items():
            row[f"cumulative_{name}_bits"] = of_round + int(
                before.get(f"cumulative_{name}_bits", 0)
            )
        ended = time.monotonic()
        row["seconds"] = round(self._trained - self._began, 3) if train else None
        row["evaluation_seconds"] = round(ended - self._trained, 3)
        if taken := sorted(row.keys() & measured.keys()):
            raise UsageError(
                f"a codec's parameter cannot be called {taken[0]!r}, which is a column of the "
                "records: rename it"
            )
        row.update((name, _number(v)) for name, v in measured.items())
        return row

    def _round_bits(self, direction: ledger.Direction, measured: Mapping[str, object]) -> int:
        names = [name for name, (way, _) in STRINGS.items() if way is direction]
        lengths = [int(measured[name]) for name in names if name in measured]
        strings = self._bill.measured_strings(direction)
        if len(lengths) != strings:
            raise ValueError(
                f"{strings} string(s) are {direction.value}, but {len(lengths)} measured: each "
                f"needs its length under one of the names {names}"
            )
        copies = self._clients if direction is ledger.Direction.BROADCAST else 1
        return self._clients * self._bill.bits(direction) + copies * sum(lengths)


def measurements(metrics: Mapping[str, object]) -> dict[str, object]:
    """Returns the named scalars that aggregator and distributor measured in a round."""
    return {
        **_flatten(metrics.get("aggregator", {})),
        **_flatten(metrics.get("distributor", {})),
    }


def _flatten(measurements: object) -> dict[str, object]:
    """Returns the named scalars of nested measurements, by the last part of their names."""
    if not isinstance(measurements, Mapping):
        return {}
    flat = {}
    for name, value in measurements.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value))
        elif np.ndim(value) == 0 and not isinstance(value, tuple):
            flat[name] = value
    return flat


def _number(value: object) -> int | float | None:
    """Returns a metric as a Python number; a float32 with the digits it has and no more."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype == np.float32:
        return float(str(value[()]))
    return round(value.item(), 9) if value.dtype.kind == "f" else value.item()
