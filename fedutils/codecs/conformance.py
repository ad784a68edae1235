"""What every codec must do, as one function to run on a codec of your own.

from fedutils.codecs import conformance
print(conformance.check(my_codec))
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from fedutils.codecs.base import Codec, Layout, chain, tensors, total
from fedutils.codecs.transforms import Clip


class NonConformance(AssertionError):
    """A codec broke the contract; the message says how."""


def check(codec: Codec | Callable[[Layout], Codec], params=None, trials: int = 400) -> str:
    """Tries a codec on well-behaved, extreme and damaged data.

    Args:
      codec: a codec, or, if it depends on the variables' shapes, a function from a list of
        shapes to a codec.
      params: its round parameters, if not its `default_params`.
      trials: encodings of the same vector, to test declared unbiasedness.

    Returns:
      A line about the codec: bits per parameter and NMSE for 3,000 Gaussian numbers.

    Raises:
      NonConformance: naming the input and what was wrong with the output, or what was raised.
    """
    build = codec if callable(codec) else lambda layout: codec
    summary, traced = "", {}
    for layout in ([(1,)], [(2,)], [(1, 3), (3,)], [(11,), (5, 17)], [(59, 50), (50,)]):
        chosen = build(layout)
        if repr(chosen) not in traced:
            traced[repr(chosen)] = _Traced(chosen, params)
        bound = _Bound(traced[repr(chosen)], total(layout))
        for name, x in _inputs(bound.n):
            _check_round_trip(bound, name, x)
        for bad in (np.nan, np.inf, -np.inf):
            x = np.ones(bound.n, np.float32)
            x[-1] = bad
            payload = bound.encode(x, f"a vector with {bad}")
            _require(not payload, bound, f"A vector with {bad} must give an empty payload.")
        summary = _check_rate(bound)
        _check_damage(bound)
    _check_static(bound)
    if bound.codec.unbiased and trials:
        _check_unbiased(bound, trials)
    return summary


class _Traced:
    """A codec with its parameters, traced once for all lengths."""

    def __init__(self, codec: Codec, params=None):
        self.codec = codec
        self.params = tensors(codec.default_params() if params is None else params)
        floats, ints = tf.TensorSpec([None]), tf.TensorSpec([], tf.int32)
        seeds, strings = tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.string)
        self.encode = tf.function(
            lambda x, seed: codec.encode(x, self.params, seed),
            input_signature=[floats, seeds],
            autograph=False,
        )
        self.decode = tf.function(
            lambda payload, n: codec.decode(payload, self.params, n),
            input_signature=[strings, ints],
            autograph=False,
        )


@dataclasses.dataclass(frozen=True)
class _Bound:
    """A traced codec, and the length to use it with."""

    traced: _Traced
    n: int

    @property
    def codec(self) -> Codec:
        return self.traced.codec

    @property
    def params(self):
        return self.traced.params

    def encode(self, x: np.ndarray, what: str, seed: int = 0) -> bytes:
        return self.tried(f"Encoding {what}", lambda: self.traced.encode(x, [7, seed]).numpy())

    def decode(self, payload: bytes, what: str) -> tuple[np.ndarray, bool]:
        values, ok = self.tried(f"Decoding {what}", lambda: self.traced.decode(payload, self.n))
        return values.numpy(), bool(ok)

    def tried(self, doing: str, do: Callable) -> Any:
        """What it returns; NonConformance if it raises, whatever that is."""
        try:
            return do()
        except Exception as error:
            message = f"{doing} raises {type(error).__name__}: {str(error)[:200]}"
            raise NonConformance(f"{self.codec} with {self.n} numbers: {message}") from error


def _require(condition: bool, bound: _Bound, message: str) -> None:
    if not condition:
        raise NonConformance(f"{bound.codec} with {bound.n} numbers: {message}")


def _inputs(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Vectors that codecs stumble over; all finite."""
    rng = np.random.default_rng(n)
    normal = rng.standard_normal(n).astype(np.float32)
    yield "Gaussian numbers", normal
    yield "zeros", np.zeros(n, np.float32)
    yield "a positive constant", np.full(n, 0.1, np.float32)
    yield "a negative constant", np.full(n, -3.0, np.float32)
    yield "one spike", np.eye(1, n, n // 2, dtype=np.float32)[0]
    yield "sparse numbers", normal * (rng.random(n) < 0.05)
    yield "heavy tails", rng.standard_cauchy(n).astype(np.float32)
    yield "tiny numbers", normal * np.float32(1e-30)
    yield "large numbers", normal * np.float32(1e15)
    yield "denormals", (rng.integers(-99, 99, n) * 1e-45).astype(np.float32)
    yield "negative zeros", np.full(n, -0.0, np.float32)
    yield "the largest floats", np.copysign(np.finfo(np.float32).max, normal).astype(np.float32)


def _check_round_trip(bound: _Bound, name: str, x: np.ndarray) -> None:
    payload = bound.encode(x, name)
    values, ok = bound.decode(payload, f"its payload of {name}")
    if not ok and not bound.codec.lossless and np.abs(x).max() > 1e14:
        return  # Sums and squares overflow: refused is fine (it costs a round), wrong is not.
    _require(ok, bound, f"It rejects its own payload of {name}.")
    _require(values.dtype == np.float32, bound, f"It decodes to {values.dtype}, not float32.")
    _require(values.shape == x.shape, bound, f"Its decoded shape is {values.shape}, not {x.shape}.")
    _require(np.isfinite(values).all(), bound, f"It decodes {name} to something not finite.")
    bits, limit = 8 * len(payload), bound.codec.bound_bits(bound.n)
    _require(bits <= limit, bound, f"{name} took {bits} bits, above its bound of {limit}.")
    _require(bound.encode(x, name) == payload, bound, "Equal seeds gave different payloads.")
    if bound.codec.lossless:
        _require(values.tobytes() == x.tobytes(), bound, f"It says lossless but changed {name}.")
    if name == "zeros" and not bound.codec.needs_seed:
        _require(not values.any(), bound, "It decodes zeros to something else.")


def _check_rate(bound: _Bound) -> str:
    """No code of Gaussian numbers can beat the Gaussian's rate-distortion function."""
    name, x = next(_inputs(bound.n))
    payload = bound.encode(x, name)
    values, _ = bound.decode(payload, f"its payload of {name}")
    cosine = values @ x / max(np.linalg.norm(values) * np.linalg.norm(x), 1e-30)
    if not bound.codec.lossless and bound.n > 1000:
        least = bound.n / 2 * np.log2(1 / max(1 - cosine**2, 1e-12))
        _require(
            8 * len(payload) >= 0.97 * least,
            bound,
            f"{8 * len(payload)} bits cannot give this error; is something not in the payload?",
        )
    nmse = np.sum((values - x) ** 2) / np.sum(x**2)
    return f"{8 * len(payload) / bound.n:.3f} bit/parameter, NMSE {nmse:.4g}"


def _check_damage(bound: _Bound) -> None:
    """Damaged payloads are rejected; forged ones, whose check fits, do no harm."""
    rng = np.random.default_rng(1)
    name, x = next(_inputs(bound.n))
    good = bound.encode(x, name)
    damaged = {
        "empty": b"",
        "one byte": b"a",
        "extended": good + b"\0",
        "doubled": good + good,
        "random": rng.bytes(len(good)),
        "compressed": zlib.compress(good),
    }
    for cut in {1, 2, len(good) // 2, len(good) - 1}:
        damaged[f"truncated to {cut} bytes"] = good[:cut]
    for bit in {0, 31, 32, *rng.integers(0, 8 * len(good), 20).tolist(), 8 * len(good) - 1}:
        damaged[f"with bit {bit} flipped"] = _flip(good, bit)
    stale = tensors({"stale": 1.0, **{k: np.asarray(v) for k, v in bound.params.items()}})
    damaged["made with other parameters"] = bound.codec.frame(good[4:], stale, bound.n).numpy()
    damaged["made for another length"] = bound.codec.frame(
        good[4:], bound.params, bound.n + 1
    ).numpy()
    damaged["another codec's"] = (
        chain(Clip(), bound.codec).frame(good[4:], bound.params, bound.n).numpy()
    )
    for name, payload in damaged.items():
        values, ok = bound.decode(payload, f"a payload that is {name}")
        _require(not ok, bound, f"It accepts a payload that is {name}.")
        _require(values.shape == (bound.n,) and not values.any(), bound, "Rejected, yet not zeros.")
    for name, payload in damaged.items():
        if len(payload) <= 4:
            continue
        forged = bound.codec.frame(payload[4:], bound.params, bound.n).numpy()
        values, ok = bound.decode(forged, f"a forged payload that is {name}")
        _require(values.shape == (bound.n,), bound, f"A forged payload gave {values.shape}.")
        _require(np.isfinite(values).all(), bound, "A forged payload gave infinite numbers.")


def _flip(payload: bytes, bit: int) -> bytes:
    data = bytearray(payload)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def _check_static(bound: _Bound) -> None:
    """Lengths known while tracing, as in a federated computation, give the same vector."""
    name, x = next(_inputs(bound.n))
    payload = bound.encode(x, name)
    values, _ = bound.decode(payload, f"its payload of {name}")
    decode = tf.function(
        lambda payload: bound.codec.decode(payload, bound.params, bound.n), autograph=False
    )
    static, ok = bound.tried(
        f"Decoding its payload of {name} with known lengths",
        lambda: decode.get_concrete_function(tf.TensorSpec([], tf.string))(tf.constant(payload)),
    )
    _require(bool(ok), bound, "With known lengths, it rejects its payload.")
    _require(static.shape == (bound.n,), bound, "With known lengths, the shape gets lost.")
    close = np.allclose(static, values, rtol=1e-5, atol=1e-5)
    _require(close, bound, "Known and unknown lengths decode to different vectors.")


def _check_unbiased(bound: _Bound, trials: int) -> None:
    """The mean of many decodings must come as near to x as their variance says."""
    name, x = next(_inputs(bound.n))
    payloads = (bound.encode(x, name, seed) for seed in range(trials))
    decoded = np.stack([bound.decode(p, f"its payload of {name}")[0] for p in payloads])
    error = np.sum((decoded.mean(axis=0) - x) ** 2)
    expected = np.sum(decoded.var(axis=0, ddof=1)) / trials
    rounding = 1e-10 * np.sum(x**2)
    _require(
        error <= 1.25 * expected + rounding,
        bound,
        f"It says unbiased, but the mean of {trials} decodings has a squared error of "
        f"{error:.3g} where {expected:.3g} is to be expected.",
    )
    # The error along x itself, which the sum over all directions would hide.
    along = decoded @ x / np.sum(x**2)
    sigma = along.std(ddof=1) / np.sqrt(trials)
    _require(
        abs(along.mean() - 1) <= 5 * sigma + 1e-5,
        bound,
        f"It says unbiased, but its decodings are {along.mean():.4f} times the vector.",
    )
