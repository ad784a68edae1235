"""Uniform quantizers: float32 vectors, in units of one step, to int32 symbols.

The step itself is a matter of the stages before (`transforms.Rms`, `transforms.Step`, …), so
that every quantizer here rounds to the integers. None can represent magnitudes above 2^24
steps, where float32 has no fraction left to round; such a vector is refused.
"""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from fedutils.codecs.base import Decoded, Encoded, Stage, length_of, total
from fedutils.codecs.entropy.nonzeros import nonzeros_among

_LARGEST = 2.0**24


@dataclasses.dataclass(frozen=True)
class Quantizer(Stage):
    """Rounds to int32; decoding is the conversion back, unless overridden."""

    emits: ClassVar[tf.DType] = tf.int32

    def rounded(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """float32[n] -> whole numbers, still float32[n]."""
        raise NotImplementedError(f"{type(self).__name__} does not define how it rounds.")

    def encode(self, x, params, seed):
        """Rounds."""
        q = self.rounded(x, seed)
        ok = tf.reduce_all(tf.abs(q) <= _LARGEST)
        return Encoded(tf.cast(q, tf.int32), ok=ok)

    def decode(self, y, side, params, seed, n):
        """The symbol is the value."""
        return Decoded(tf.cast(y, tf.float32))


@dataclasses.dataclass(frozen=True)
class Nearest(Quantizer):
    """Rounds to the nearest integer: least error, but biased."""

    unbiased: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def rounded(self, x, seed):
        """round(x)."""
        return tf.round(x)


@dataclasses.dataclass(frozen=True)
class Stochastic(Quantizer):
    """Rounds up with the probability of the fraction: unbiased, variance f (1 - f)."""

    elementwise: ClassVar[bool] = True

    def rounded(self, x, seed):
        """x rounded at random to one of its two neighbours."""
        return stochastic_round(x, seed)

    def encode_nonzeros(self, x, params, seed):
        """The same, without a vector of zeros."""
        positions, rounded = _rounded_away_from_zero(x, seed)
        ok = tf.reduce_all(tf.abs(rounded) <= _LARGEST)
        symbols, m = tf.cast(rounded, tf.int32), tf.size(x, tf.int64)
        return Encoded(nonzeros_among(positions, symbols, m), ok=ok)


@dataclasses.dataclass(frozen=True)
class Systematic(Quantizer):
    """Rounds at random, but so that running sums stay right: unbiased, errors cancel.

    One random offset u decides all: with S_i the sum of the first i magnitudes, the i-th becomes
    floor(S_i + u) - floor(S_{i-1} + u); positive and negative elements are summed apart. As with
    `Stochastic`, each is one of its element's two neighbours, and right in expectation; but the
    error of any run of elements stays below 2, however long it is. Variables are run through
    column by column: a unit's inputs are summed, so are their errors, and there they cancel.
    Source of the sampling scheme: Madow and Madow 1944 (systematic sampling).

    shapes: of the variables that lie one after the other in the vector; one of another length is
      run through from first to last.
    """

    shapes: tuple[tuple[int, ...], ...] = ()

    elementwise: ClassVar[bool] = True

    def rounded(self, x, seed):
        """Rounds."""
        offsets = tf.random.stateless_uniform([2], seed, dtype=tf.float64, alg="philox")
        n = length_of(x)
        if not tf.is_tensor(n):
            return self._by_column(x, offsets) if n == total(self.shapes) else _run(x, offsets)
        return tf.cond(
            tf.equal(n, total(self.shapes)),
            lambda: self._by_column(x, offsets),
            lambda: _run(x, offsets),
        )

    def _by_column(self, x: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
        columns = [max(shape[-1] if shape else 1, 1) for shape in self.shapes]
        pieces = tf.split(x, [math.prod(shape) for shape in self.shapes]) if columns else [x]
        turned = [_turn(p, c) for p, c in zip(pieces, columns or [1], strict=True)]
        rounded = _run(tf.concat(turned, 0), offsets)
        pieces = tf.split(rounded, [tf.size(piece) for piece in turned])
        back = [_turn(p, tf.size(p) // c) for p, c in zip(pieces, columns or [1], strict=True)]
        return tf.concat(back, 0)


@dataclasses.dataclass(frozen=True)
class Dithered(Quantizer):
    """Subtractive dither: adds uniform noise, rounds, subtracts the same noise again.

    The error is uniform in [-1/2, 1/2), of variance 1/12, whatever the input: unbiased, and
    better than `Stochastic` if the step is fine, but noisy where the input is all but zero.
    Source: Roberts 1962; Schuchman 1964.
    """

    needs_seed: ClassVar[bool] = True

    def rounded(self, x, seed):
        """round(x + dither)."""
        return tf.round(x + _dither(seed, length_of(x)))

    def decode(self, y, side, params, seed, n):
        """Symbols less the dither."""
        return Decoded(tf.cast(y, tf.float32) - _dither(seed, n))


@dataclasses.dataclass(frozen=True)
class DeadZone(Quantizer):
    """Rounds towards zero more often than not: sign(x) floor(|x| + rounding).

    rounding: 1/2 is `Nearest`; less widens the zone that becomes 0 to 2 (1 - rounding) and
      trades error for rate (Sullivan 1996). Biased.
    """

    rounding: float = 1 / 3
    unbiased: ClassVar[bool] = False

    def rounded(self, x, seed):
        """Rounds with the dead zone."""
        return tf.sign(x) * tf.floor(tf.abs(x) + self.rounding)


@dataclasses.dataclass(frozen=True)
class MinMax(Stage):
    """2^bits evenly spaced levels from the least to the largest element of each variable.

    Symbols are 0 … 2^bits - 1. What `tff.learning.compression_aggregator` does to a variable
    of more than 20,000 elements, with bits = 8; Suresh et al. 2017, section 2.2.

    sizes: the number of elements of each variable; none means that the vector is one.
    unbiased: whether it rounds at random, or to the nearest level.
    """

    bits: int = 8
    sizes: tuple[int, ...] = ()
    unbiased: bool = dataclasses.field(default=True, kw_only=True)
    limits: ClassVar = {"bits": (1, 16)}
    emits: ClassVar[tf.DType] = tf.int32

    def side_size(self) -> int:
        """For each variable, the least element and the distance of two levels."""
        return 2 * max(1, len(self.sizes))

    def encode(self, x, params, seed):
        """Rounds to levels."""
        top = 2.0**self.bits - 1
        pieces, side = [], []
        for piece in tf.split(x, self.sizes) if self.sizes else [x]:
            least = tf.reduce_min(piece)
            step = (tf.reduce_max(piece) - least) / top
            pieces.append(tf.math.divide_no_nan(piece - least, step))
            side += [least, step]
        y = tf.minimum(tf.concat(pieces, axis=0), top)
        levels = stochastic_round(y, seed) if self.unbiased else tf.round(y)
        return Encoded(tf.cast(levels, tf.int32), side)

    def decode(self, y, side, params, seed, n):
        """Level times distance above the least."""
        levels = tf.cast(y, tf.float32)
        pieces = tf.split(levels, self.sizes) if self.sizes else [levels]
        values = [side[2 * i] + side[2 * i + 1] * piece for i, piece in enumerate(pieces)]
        return Decoded(tf.concat(values, axis=0))


@dataclasses.dataclass(frozen=True)
class TwoMeans(Stage):
    """One bit, the sign; decoded as the mean of the elements that share it.

    Seide et al. 2014 (there for each column of a weight matrix). Biased.
    """

    unbiased: ClassVar[bool] = False
    emits: ClassVar[tf.DType] = tf.int32

    def side_size(self) -> int:
        """The mean of the negative elements, and of the others."""
        return 2

    def encode(self, x, params, seed):
        """Symbol 1 for x >= 0, else 0."""
        high = x >= 0
        side = [_mean_where(x, tf.logical_not(high)), _mean_where(x, high)]
        return Encoded(tf.cast(high, tf.int32), side)

    def decode(self, y, side, params, seed, n):
        """The mean of its kind."""
        return Decoded(tf.where(y > 0, side[1], side[0]))


def stochastic_round(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rounds each element to one of its two neighbours, so that the expectation is x.

    The probability is exact to 2^-31, finer than adding float32 noise and rounding down would
    be: with a step of hundreds of standard deviations, most fractions are tiny.
    """
    positions, rounded = _rounded_away_from_zero(x, seed)
    return tf.scatter_nd(positions[:, None], rounded, tf.shape(x, tf.int64))


def _rounded_away_from_zero(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`stochastic_round` where it may be other than zero: positions int64[k], float32[k].

    An element is rounded up if its fraction is above a draw of 31 bits. Eight of them are
    enough to see that most small numbers become 0; only the others need the rest.
    """
    n = length_of(x)
    draws = tf.random.stateless_uniform([(n + 3) // 4], seed, None, None, tf.int32, alg="philox")
    coarse = tf.reshape(tf.bitcast(draws, tf.uint8), [-1])[:n]
    positions = tf.where(tf.cast(coarse, tf.float32) <= tf.abs(x) * 2.0**8)[:, 0]
    coarse, x = tf.gather(coarse, positions), tf.gather(x, positions)
    fine = tf.random.stateless_uniform(tf.shape(x), seed + 1, None, None, tf.int32, alg="philox")
    draws = tf.cast(coarse, tf.int32) * 2**23 + tf.bitwise.bitwise_and(fine, 2**23 - 1)
    magnitude = tf.abs(x)
    below = tf.floor(magnitude)
    up = draws < tf.cast((magnitude - below) * 2.0**31, tf.int32)
    return positions, tf.sign(x) * (below + tf.cast(up, tf.float32))


def _run(x: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """float32[n] rounded so that running sums of either sign stay right; offsets: float64[2]."""
    halves = []
    for half, offset in zip((tf.nn.relu(x), tf.nn.relu(-x)), tf.unstack(offsets), strict=True):
        sums = tf.floor(tf.cumsum(tf.cast(half, tf.float64)) + offset)
        before = tf.concat([tf.zeros([1], tf.float64), sums], 0)[:-1]
        halves.append(tf.cast(sums - before, tf.float32))
    return halves[0] - halves[1]


def _turn(x: tf.Tensor, columns) -> tf.Tensor:
    """The transpose of a matrix of so many columns, both as vectors, row after row."""
    return tf.reshape(tf.transpose(tf.reshape(x, [-1, columns])), [-1])


def _dither(seed: tf.Tensor, n) -> tf.Tensor:
    """float32[n], uniform in [-1/2, 1/2)."""
    return tf.random.stateless_uniform([n], seed, -0.5, 0.5, alg="philox")


def _mean_where(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The mean of the elements under the mask; 0 if there are none."""
    weights = tf.cast(mask, tf.float32)
    return tf.reduce_sum(tf.math.divide_no_nan(x * weights, tf.reduce_sum(weights)))
