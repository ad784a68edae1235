"""Records: what a run's rounds measured, one row each, and the bits they cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow_federated as tff

from fedutils import ledger, results

# Measurements of strings' lengths: of a string that every client gets, and of all clients' own.
_STRINGS = {
    ledger.Direction.BROADCAST: ("model_payload_bits", "announcement_bits"),
    ledger.Direction.AGGREGATED: ("payload_bits_sum",),
}


class RecordKeeper(tff.program.ReleaseManager):
    """Turns what TFF's loop releases into a run's records: a CSV file, TensorBoard, progress."""

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
        """
        self._folder, self._bill, self._clients = folder, bill, clients
        self._rows = results.read_rows(folder.records_path)
        self._managers = [tff.program.TensorBoardReleaseManager(folder.tensorboard), shown]

    async def release(self, value: Mapping[str, object], key: int) -> None:
        """Records the metrics that TFF's loop releases after round `key`.

        Raises:
            ValueError: If strings crossed whose lengths were not measured.
        """
        # A run that was killed between its record and its checkpoint repeats that round.
        self._rows = [row for row in self._rows if int(row["round"]) < key]
        row = self._row(value, key)
        self._rows.append(row)
        results.write_rows(self._folder.records_path, self._rows)
        present = {name: number for name, number in row.items() if number is not None}
        for manager in self._managers:
            await manager.release(present, key)

    def _row(self, value: Mapping[str, object], key: int) -> dict[str, object]:
        train = value.get("client_work", {}).get("train", {})
        measured = {
            **_flatten(value.get("aggregator", {})),
            **_flatten(value.get("distributor", {})),
        }
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
        row["seconds"] = _seconds(value, tff.simulation.TRAINING_TIME_KEY)
        row["evaluation_seconds"] = _seconds(
            value, tff.simulation.EVALUATION_METRICS_PREFIX + tff.simulation.EVALUATION_TIME_KEY
        )
        row.update((name, _number(v)) for name, v in measured.items())
        return row

    def _round_bits(self, direction: ledger.Direction, measured: Mapping[str, object]) -> int:
        lengths = [int(measured[name]) for name in _STRINGS[direction] if name in measured]
        strings = self._bill.measured_strings(direction)
        if len(lengths) != strings:
            raise ValueError(
                f"{strings} string(s) are {direction.value}, but {len(lengths)} measured: each "
                f"needs its length under one of the names {_STRINGS[direction]}"
            )
        copies = self._clients if direction is ledger.Direction.BROADCAST else 1
        return self._clients * self._bill.bits(direction) + copies * sum(lengths)


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


def _seconds(value: Mapping[str, object], key: str) -> float | None:
    return round(value[key], 3) if key in value else None
