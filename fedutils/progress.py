"""Progress of a run: a bar on a terminal, one living line in a notebook, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import tensorflow_federated as tff
from tqdm import tqdm

from fedutils import ledger
from fedutils.units import format_bits


def _line(row: Mapping[str, object], accuracy: float | None) -> str:
    parts = [] if accuracy is None else [f"test accuracy {accuracy:.4f}"]
    for direction in ledger.Direction:
        bits = row[f"cumulative_{direction.value}_bits"]
        parts.append(f"{direction.value} {format_bits(bits)}")
    if refused := row.get("rejected_clients"):
        parts.append(f"{refused:.0f} clients refused")
    return ", ".join(parts)


class Progress(tff.program.ReleaseManager):
    """Shows each released record: round, accuracy, cumulative bits, time left."""

    def __init__(self, name: str, rounds: int) -> None:
        """Prepares the display.

        Args:
            name: Name of the run.
            rounds: Number of rounds in all.
        """
        self._name, self._rounds = name, rounds
        self._accuracy = None
        self._begin = None
        self._show = _display()

    async def release(self, value: Mapping[str, object], key: int) -> None:
        """Shows the record of round `key`."""
        evaluated = value.get("test_accuracy")
        self._accuracy = self._accuracy if evaluated is None else evaluated
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, key)
        since, first = self._begin
        left = (now - since) / max(1, key - first) * (self._rounds - key)
        remaining = f", {left:.0f} s left" if key > first and key < self._rounds else ""
        text = f"{self._name}: round {key}/{self._rounds}, {_line(value, self._accuracy)}"
        self._show(text + remaining, key, self._rounds, evaluated is not None)


def _display():
    """Returns a function (text, round, rounds, evaluated) -> None for where output goes."""
    if _in_notebook():
        from IPython.display import display

        handle = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text, *_: handle.update({"text/plain": text}, raw=True)
    if sys.stderr.isatty():
        bar = tqdm(bar_format="{bar:20} {desc}", leave=True)

        def advance(text: str, done: int, total: int, _: bool) -> None:
            bar.total, bar.n = total, done
            bar.set_description_str(text)
            if done == total:
                bar.close()

        return advance
    return lambda text, done, total, evaluated: (
        (evaluated or done == total) and print(text, flush=True)
    )


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return hasattr(shell, "kernel")
