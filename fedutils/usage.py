"""Measures what a piece of work takes: its time, and the memory of all processes it starts."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator

import psutil

_EVERY_SECONDS = 0.5


@dataclasses.dataclass
class Usage:
    """What a piece of work took.

    Attributes:
        seconds: On the clock.
        peak_bytes: Most resident memory, at one time, of all processes below this one; sampled
            twice a second, so shorter peaks are missed.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """Measures the work done in its body; the figures are complete when it ends."""
    usage, done = Usage(), threading.Event()

    def sample() -> None:
        while not done.wait(_EVERY_SECONDS):
            usage.peak_bytes = max(usage.peak_bytes, _resident_below())

    sampler = threading.Thread(target=sample, daemon=True)
    begin = time.monotonic()
    sampler.start()
    try:
        yield usage
    finally:
        done.set()
        sampler.join()
        usage.seconds = time.monotonic() - begin


def _resident_below() -> int:
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
            total += process.memory_info().rss
    return total
