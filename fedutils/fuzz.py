"""Broken and hostile clients: strings that no encoder made, for the decoder of every codec.

A string that a client might send is damaged: in some bits, cut, extended, made of random bytes,
with a header of extremes, another codec's, one for another model. Half of the damaged strings
are *forged*: they get a check that fits, as an attacker would see to, so that what decodes them
is the codec itself. What must hold of each:

    detected     without a fitting check, it is rejected; forged, it may also decode to finite
                 numbers of the right length, as those of a client that merely lies
    harmless     rejected, it counts with value and weight zero
    affordable   whatever it says, decoding it stays within a ceiling of time and of memory

String i of a seed and a codec is the same whatever else is tried, so one that fails can be
tried again alone: `fedutils fuzz --codec NAME --seed SEED --case i`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
import multiprocessing
import multiprocessing.pool
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from fedutils import adaptive, recipes
from fedutils.codecs import base
from fedutils.codecs import recipes as codec_recipes
from fedutils.codecs.base import Codec, Layout
from fedutils.codecs.lowrank import low_rank_change
from fedutils.errors import UsageError
from fedutils.wire import Received, Wire

LAYOUT = ((3, 3, 1, 8), (8,), (300, 8), (8,), (16, 10), (10,))
"""A small model: 2,658 numbers, one matrix with enough rows for statistics of their own."""

SECONDS = 1.0
"""Most that decoding one string may take: hundreds of times the usual on a small model, so that
only what grows with a number in the string, instead of with the model, reaches it."""

MEMORY = 64 * 2**20
"""Most bytes by which decoding may raise the resident memory, beside 16 times the update's size:
well above tables, allocators and threads, well below what a forged count could ask for."""

_HANGS = 60.0  # Seconds after which decoding is given up; no ceiling, just an end.
_TIMES_AS_SLOW = 10  # As honest strings: what is less is the machine's fault.
_ANOTHER_LAYOUT = ((3, 3, 1, 8), (8,), (300, 7), (7,), (14, 10), (10,))
_LEVELS = 4  # Of lines, at most, in codecs that have them among their parameters.
_SHOWN = 40  # Of a string in a report, in bytes.

Damage = Callable[[np.random.Generator, bytes, Sequence[bytes]], bytes]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A string that did what it must not.

    codec, seed, case: name it.
    damage: what was done to it.
    problem: what it did.
    """

    codec: str
    seed: int
    case: int
    damage: str
    problem: str

    def __str__(self) -> str:
        again = f"fedutils fuzz --codec {self.codec} --seed {self.seed} --case {self.case}"
        return f"{self.codec}, {self.damage}: {self.problem} Again: {again}"


@dataclasses.dataclass
class Report:
    """What became of a codec's damaged strings.

    tried: how many there were.
    rejected: of these, how many did not count.
    forged: how many had a check that fits.
    accepted: of the forged, how many decoded to finite numbers of the right length.
    seconds, memory: the most that one string took; memory in bytes.
    failures: see `Failure`.
    """

    tried: int = 0
    rejected: int = 0
    forged: int = 0
    accepted: int = 0
    seconds: float = 0.0
    memory: int = 0
    failures: list[Failure] = dataclasses.field(default_factory=list)

    def __add__(self, other: Report) -> Report:
        return Report(
            self.tried + other.tried,
            self.rejected + other.rejected,
            self.forged + other.forged,
            self.accepted + other.accepted,
            max(self.seconds, other.seconds),
            max(self.memory, other.memory),
            self.failures + other.failures,
        )

    def __str__(self) -> str:
        return (
            f"{self.tried:7,} payloads, {self.forged:7,} forged, {self.rejected:7,} rejected, "
            f"{self.accepted:6,} forged and finite, {len(self.failures)} failures; at most "
            f"{1000 * self.seconds:.0f} ms and {self.memory / 2**20:.1f} MiB"
        )


def codecs(layout: Layout) -> dict[str, Codec]:
    """Every codec of this package by name, for a small model."""
    small = min(np.prod(shape, dtype=int) for shape in layout)
    return {
        **recipes.codecs(layout),
        # Fine enough for statistics of rows and columns to pay off.
        "context": codec_recipes.context(layout, step=4.0),
        # With the study's own threshold, all variables of a small model would be sent whole.
        "study": codec_recipes.study(layout, threshold=int(small)),
        "adaptive": adaptive.pooled(layout, step=0.2, size=256),
        "two-way": adaptive.codec(layout, step=0.2),
        "dadaquant": adaptive.client_adaptive_qsgd(step=0.05),
        "low-rank": low_rank_change(layout, rank=1),
    }


class Target:
    """A codec on its wire, with some honest strings; its functions are traced once.

    name: of the codec.
    build: the codec from a layout.
    reports: whether clients report their errors, too.
    """

    def __init__(
        self, name: str, build: Callable[[Layout], Codec], layout: Layout = LAYOUT, **wire
    ) -> None:
        self.name, self.layout = name, layout
        self._build, self._options = build, {"weighted": True, **wire}
        self._wire = Wire(build(layout), base.total(layout), **self._options)
        self._params = _params(self._wire)
        self._decode = _traced(lambda string: self._wire.decode(string, self._params))
        self._seal = _traced(lambda string: self._wire.sealed(string, self._params))

    @property
    def n(self) -> int:
        """How many numbers an update has."""
        return self._wire.n

    @functools.cached_property
    def honest(self) -> list[bytes]:
        """Strings of honest clients, of updates of several kinds."""
        return list(self._encoded(("busy lines", "few numbers", "heavy tails")))

    @functools.cached_property
    def foreign(self) -> list[bytes]:
        """Honest strings for another model, and of other codecs."""
        another = Target(self.name, self._build, _ANOTHER_LAYOUT, **self._options)
        codec = repr(self._wire.codec)
        others = [string for other, string in _others() if other != codec]
        return [*another._encoded(("busy lines",)), *others]

    def _encoded(self, kinds: Sequence[str]) -> Iterator[bytes]:
        # Three strings are not worth tracing an encoder.
        announced = self._wire.announce(self._params, tf.constant(3))
        updates = _updates(np.random.default_rng(self.n), self.layout)
        for kind, weight in zip(kinds, (1.0, 20.0, 117.0), strict=False):
            value = tf.constant(updates[kind], tf.float32)
            yield self._wire.encode(announced, value, tf.constant(weight)).numpy()

    def decode(self, string: bytes) -> Received:
        """What the server makes of a string, as arrays."""
        return Received(*[x.numpy() for x in self._decode(tf.constant(string))])

    def sealed(self, string: bytes) -> bytes:
        """The string with a check that fits."""
        return self._seal(tf.constant(string)).numpy()


def targets(names: Sequence[str] = ()) -> Iterator[Target]:
    """The codecs of these names, or all of them, one after the other.

    Raises:
      UsageError: for an unknown name.
    """
    known = codecs(LAYOUT)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"unknown codec {unknown[0]!r}: choose one of {', '.join(known)}")
    for name in names or known:
        yield Target(name, functools.partial(_codec, name), reports=name == "context")


def strings(target: Target, seed: int, cases: Sequence[int]) -> Iterator[tuple[int, str, bytes]]:
    """Damaged strings: number, what was done to it, and the string; odd ones are forged."""
    genuine = {*target.honest}
    for case in cases:
        rng = np.random.default_rng([seed, zlib.crc32(target.name.encode()), case])
        forged, kind = case % 2, DAMAGES[case // 2 % len(DAMAGES)]
        good = target.honest[rng.integers(len(target.honest))]
        string = kind(rng, good, target.honest + target.foreign)
        if string in genuine:
            string = flipped(rng, string, ())
        yield (
            case,
            f"{kind.__name__}{', forged' * forged}",
            target.sealed(string) if forged else string,
        )


def run(target: Target, payloads: Sequence[int] | int, seed: int) -> Report:
    """Tries damaged strings on a codec.

    Args:
      target: the codec.
      payloads: how many strings, or the numbers of the cases to try.
      seed: of the damage.
    """
    if not all(target.decode(string).ok for string in target.honest):
        raise ValueError(f"{target.name} rejects an honest string: try codecs.conformance first.")
    report = Report()
    cases = range(payloads) if isinstance(payloads, int) else payloads
    with multiprocessing.pool.ThreadPool(1) as thread:
        for case, damage, string in strings(target, seed, cases):
            forged = damage.endswith("forged")
            received, problem = _afforded(target, string, thread, report)
            problem = problem or _problem(received, forged, target.n)
            report.tried += 1
            report.forged += forged
            report.rejected += received is not None and not received.ok
            report.accepted += received is not None and bool(received.ok) and not problem
            if problem:
                problem += f" It has {len(string)} bytes: {string[:_SHOWN].hex()}…"
                report.failures.append(Failure(target.name, seed, case, damage, problem))
            if report.seconds >= _HANGS:
                break  # The thread is lost.
    return report


def flipped(rng: np.random.Generator, good: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight bits are others."""
    data = bytearray(good or b"\0")
    for bit in rng.choice(8 * len(data), rng.integers(1, 9), replace=False):
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def flipped_in_front(rng, good, others):
    """Bits of the first 48 bytes, where headers are, are others."""
    return flipped(rng, good[:48], others) + good[48:]


def cut(rng, good, others):
    """The end is missing; maybe all."""
    return good[: rng.integers(len(good))]


def extended(rng, good, others):
    """Random or equal bytes follow, or the string itself, up to a thousand times."""
    kind, more = rng.integers(3), int(rng.integers(1, 1000))
    if kind == 0:
        return good + rng.bytes(more)
    if kind == 1:
        return good + bytes([_PATTERNS[rng.integers(len(_PATTERNS))]]) * more
    return good * int(2 ** rng.uniform(1, min(10, 17 - np.log2(len(good) + 1))))


def randomized(rng, good, others):
    """Nothing but random bytes, or the beginning is right."""
    kept = rng.integers(len(good)) if rng.random() < 0.7 else 0
    return good[:kept] + rng.bytes(rng.integers(0, 2 * len(good)))


def swapped(rng, good, others):
    """Two ranges have changed places."""
    a, b, c, d = np.sort(rng.integers(0, len(good) + 1, 4))
    return good[:a] + good[c:d] + good[b:c] + good[a:b] + good[d:]


def overwritten(rng, good, others):
    """A run of bytes is all ones, all zeros, or another pattern that long codes are made of."""
    start, size = _place(rng, good), int(2 ** rng.uniform(0, 7))
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    size = min(size, len(good) - start)
    return good[:start] + bytes([pattern]) * size + good[start + size :]


def with_extremes(rng, good, others):
    """Some 32 bits are an extreme number, be they read as a count or as a float."""
    data = bytearray(good)
    for _ in range(rng.integers(1, 4)):
        start = _place(rng, good) // 4 * 4
        word = _EXTREMES[rng.integers(len(_EXTREMES))]
        data[start : start + 4] = word[: len(data) - start]
    return bytes(data)


def spliced(rng, good, others):
    """The beginning is one string's and the end another's."""
    other = others[rng.integers(len(others))]
    return good[: rng.integers(len(good))] + other[rng.integers(len(other)) :]


def anothers(rng, good, others):
    """It is a string for another model, of another codec, or of another client with this head."""
    other = others[rng.integers(len(others))]
    size = [0, 4, 8, 12, 16][rng.integers(5)]
    return good[:size] + other[size:]


DAMAGES: tuple[Damage, ...] = (
    flipped,
    flipped_in_front,
    cut,
    extended,
    randomized,
    swapped,
    overwritten,
    with_extremes,
    spliced,
    anothers,
)

_PATTERNS = [0, 255, 1, 128, 127, 85]
_EXTREMES = [
    *(np.float32(x).tobytes() for x in (np.nan, np.inf, -np.inf, 1e38, -1e38, 3e38, 1e-45, -1, 0)),
    *(np.int32(x).tobytes() for x in (2**31 - 1, -(2**31), -1, 2**16, 2**24)),
]


def _place(rng: np.random.Generator, good: bytes) -> int:
    """Anywhere, but in front more often than not."""
    end = min(48, len(good)) if rng.random() < 0.6 else len(good)
    return int(rng.integers(max(end, 1)))


def _afforded(
    target: Target, string: bytes, thread: multiprocessing.pool.ThreadPool, report: Report
) -> tuple[Received | None, str]:
    """What a string decodes to, and what was wrong with doing so, if anything.

    Where another program keeps the machine busy, at least one of three attempts is quick, or
    honest strings are slow, too.
    """
    ceiling = MEMORY + 16 * 4 * target.n
    seconds, memory, received, problem = math.inf, 0, None, ""
    for _ in range(3):
        before, began = _fresh_peak(), time.perf_counter()
        try:
            received = thread.apply_async(target.decode, [string]).get(_HANGS)
        except multiprocessing.TimeoutError:
            problem = f"Decoding does not end within {_HANGS:.0f} s."
        except Exception as error:  # Whatever it is, it is what we look for.
            problem = f"Decoding raises {type(error).__name__}: {str(error)[:200]!r}"
        seconds = min(seconds, time.perf_counter() - began)
        # What the first attempt took may be the second's without asking the system for it.
        memory = max(memory, _peak() - before)
        if problem or seconds <= SECONDS or memory > ceiling:
            break
    if not problem and seconds > SECONDS:
        began = time.perf_counter()
        thread.map(target.decode, target.honest)
        usual = (time.perf_counter() - began) / len(target.honest)
        if seconds > _TIMES_AS_SLOW * usual:
            problem = f"Decoding takes {seconds:.1f} s, above the ceiling of {SECONDS:.1f} s."
    report.seconds, report.memory = max(report.seconds, seconds), max(report.memory, memory)
    if not problem and memory > ceiling:
        sizes = f"{memory / 2**20:.0f} MiB, above the ceiling of {ceiling / 2**20:.0f} MiB"
        problem = f"Decoding takes {sizes}."
    return received, problem


def _problem(received: Received, forged: bool, n: int) -> str:
    """What is wrong with what a damaged string decoded to; nothing, if it is harmless."""
    value, ok, numbers = received.value, received.ok, np.hstack(received[1:4])
    if value.shape != (n,):
        return f"It decodes to the shape {value.shape}, not ({n},)."
    if ok and not forged:
        return "It is accepted, although damaged."
    if not ok and (value.any() or numbers.any()):
        return "It is rejected, but counts."
    if not (np.isfinite(value).all() and np.isfinite(numbers).all()):
        return "It is accepted with numbers that are not finite."
    if ok and not (np.isfinite(np.vdot(value, value)) and numbers.min() >= 0):
        return "It is accepted with numbers that no client can have."
    return ""


def _fresh_peak() -> int:
    """Resident memory in bytes; the peak counts from here."""
    # What was freed before may still be resident: taken again, it would not be seen.
    with contextlib.suppress(AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)
    # Where Linux does not let a process do so, the peak is that since it began.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Largest resident memory since `_fresh_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _traced(function: Callable[[tf.Tensor], object]) -> Callable[[tf.Tensor], object]:
    """The function of a string, traced once."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(function, input_signature=signature, autograph=False)


def _codec(name: str, layout: Layout) -> Codec:
    return codecs(layout)[name]


def _params(wire: Wire):
    """Its default parameters; lines of a model are told apart, as after some rounds."""
    rng = np.random.default_rng(1)
    params = dict(wire.codec.default_params())
    for name, size in wire.vectors.items():
        params[name] = rng.integers(-_LEVELS, _LEVELS + 1, size)
    return base.tensors(params)


def _updates(rng: np.random.Generator, layout: Layout) -> dict[str, np.ndarray]:
    """Updates of several kinds, float64[n] each; the first is like a model's in training."""
    lines = [
        np.outer(rng.exponential(size=math.prod(shape[:-1])), rng.exponential(size=shape[-1])) ** 2
        for shape in layout
    ]
    noise = rng.standard_normal(base.total(layout))
    return {
        "busy lines": noise * np.concatenate([x.ravel() for x in lines]),
        "few numbers": noise * (rng.random(noise.size) < 0.02),
        "heavy tails": rng.standard_cauchy(noise.size),
    }


@functools.cache
def _others() -> list[tuple[str, bytes]]:
    """Honest strings of three codecs for the same model, with what tells the codecs apart."""
    builds = codec_recipes.identity, codec_recipes.mitchell, codec_recipes.three_lc
    return [(repr(b(LAYOUT)), Target(b.__name__, b).honest[0]) for b in builds]
