"""Non-uniform quantizers: levels that lie where the values are.

Two kinds: the levels of least error for a distribution (Lloyd 1957, Max 1960), be it the
Gaussian that a rotation makes or the update's own; and powers of two.
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
import scipy.stats
import tensorflow as tf

from fedutils.codecs.base import Decoded, Encoded, Stage, length_of
from fedutils.codecs.quantizers import Quantizer, stochastic_round
from fedutils.codecs.transforms import rms


@dataclasses.dataclass(frozen=True)
class GaussianLevels(Stage):
    """The Lloyd-Max quantizer of the Gaussian, for rotated vectors, and one scale.

    Vargaftik et al. 2021 (DRIVE, one bit) and 2022 (EDEN). With c the levels of the
    elements x, the scale is |x|^2 / <x, c>, which over random rotations makes the decoded
    vector unbiased, or <x, c> / |c|^2, which makes its error least.

    bits: 1 to 8. Symbols are 0 … 2^bits - 1.
    unbiased: which of the two scales. Over a Hadamard rotation, instead of a uniformly random
      one, unbiasedness holds for long vectors only.
    """

    bits: int = 1
    unbiased: bool = dataclasses.field(default=True, kw_only=True)
    limits: ClassVar = {"bits": (1, 8)}
    emits: ClassVar[tf.DType] = tf.int32

    def side_size(self) -> int:
        """The scale."""
        return 1

    def encode(self, x, params, seed):
        """The nearest level of each element."""
        levels = tf.constant(gaussian_levels(self.bits), tf.float32)
        scale = rms(x)
        normal = tf.math.divide_no_nan(x, scale)
        symbols = _nearest(normal, levels)
        chosen = tf.gather(levels, symbols)
        against = normal if self.unbiased else chosen
        factor = tf.math.divide_no_nan(
            tf.reduce_sum(normal * against), tf.reduce_sum(chosen * against)
        )
        return Encoded(symbols, [scale * factor])

    def decode(self, y, side, params, seed, n):
        """Scaled levels."""
        return _look_up(side[0] * tf.constant(gaussian_levels(self.bits), tf.float32), y)


@dataclasses.dataclass(frozen=True)
class FittedLevels(Stage):
    """The Lloyd-Max quantizer of the update itself; its table of levels is sent.

    Fitted to an evenly spaced sample of the elements; the table then holds the mean of all the
    elements of each level. Biased.

    bits: symbols are 0 … 2^bits - 1, and the table costs 32 * 2^bits bits.
    iterations: of Lloyd's algorithm.
    sample: about how many elements it looks at.
    """

    bits: int = 4
    iterations: int = 30
    sample: int = 2**16
    limits: ClassVar = {"bits": (1, 12), "iterations": (0, 1000), "sample": (1, 2**31 - 1)}
    unbiased: ClassVar[bool] = False
    emits: ClassVar[tf.DType] = tf.int32

    def side_size(self) -> int:
        """The table of levels."""
        return 2**self.bits

    def encode(self, x, params, seed):
        """Fits the levels, then takes the nearest of each element."""
        largest = tf.reduce_max(tf.abs(x))
        relative = tf.math.divide_no_nan(x, largest)
        stride = tf.maximum(1, tf.size(x) // self.sample)
        levels = _lloyd_max(tf.sort(relative[::stride]), 2**self.bits, self.iterations)
        symbols = _nearest(relative, levels)
        table = tf.math.unsorted_segment_mean(relative, symbols, 2**self.bits)
        return Encoded(symbols, largest * table)

    def decode(self, y, side, params, seed, n):
        """The table's levels."""
        return _look_up(side, y)


@dataclasses.dataclass(frozen=True)
class PowersOfTwo(Stage):
    """Rounds magnitudes at random to one of the two neighbouring powers of two: unbiased.

    Horváth et al. 2019 (natural compression), section 2: the sign and the eight exponent
    bits of float32 remain. No scale is needed. Between two powers of two, a float32's mantissa
    bits are its fraction of the way, so that adding 23 random bits to them and cutting them
    off is the rounding; it is exact for denormals and zero, too.

    Symbols are 0 … 511: the exponent's bits, and 256 more if negative. Magnitudes that would
    round up to 2^128 are refused.
    """

    emits: ClassVar[tf.DType] = tf.int32

    def encode(self, x, params, seed):
        """Sign and randomly rounded exponent."""
        pattern = tf.bitcast(x, tf.int32)
        draws = tf.random.stateless_uniform(
            [length_of(x)], seed, None, None, tf.int32, alg="philox"
        )
        magnitude = tf.bitwise.bitwise_and(pattern, 2**31 - 1)
        exponent = tf.bitwise.right_shift(magnitude + tf.bitwise.bitwise_and(draws, 2**23 - 1), 23)
        return Encoded(
            exponent + 256 * tf.cast(pattern < 0, tf.int32), ok=tf.reduce_all(exponent < 255)
        )

    def decode(self, y, side, params, seed, n):
        """The power of two; an exponent of 255 is infinite and so refused by the codec."""
        pattern = tf.bitwise.left_shift(tf.bitwise.bitwise_and(y, 511), 23)
        return Decoded(tf.bitcast(pattern, tf.float32), tf.reduce_all((y >= 0) & (y < 512)))


@dataclasses.dataclass(frozen=True)
class ExponentialLevels(Quantizer):
    """Unbiased random rounding to the levels 0, ±2^-depth, …, ±1/2, ±1.

    For vectors within [-1, 1]; what is beyond, is taken for ±1. Symbols are -(depth + 1) …
    depth + 1. Ramezani-Kebrya et al. 2021 (NUQSGD), section 3.

    depth: at most 100.
    """

    depth: int = 10
    limits: ClassVar = {"depth": (1, 100)}

    def rounded(self, x, seed):
        """The level's number: linear between two levels, then stochastic rounding."""
        magnitude = tf.minimum(tf.abs(x), 1.0)
        exponent = tf.bitwise.right_shift(tf.bitcast(magnitude, tf.int32), 23) - 127
        number = tf.maximum(exponent + self.depth + 1, 0)
        below = self._level(number)
        gap = tf.maximum(below, 2.0**-self.depth)
        position = tf.cast(number, tf.float32) + (magnitude - below) / gap
        return tf.sign(x) * stochastic_round(position, seed)

    def decode(self, y, side, params, seed, n):
        """The level of that number."""
        ok = tf.reduce_all(tf.abs(y) <= self.depth + 1)
        number = tf.clip_by_value(tf.abs(y), 0, self.depth + 1)
        return Decoded(tf.cast(tf.sign(y), tf.float32) * self._level(number), ok)

    def _level(self, number: tf.Tensor) -> tf.Tensor:
        """0 for 0, else 2^(number - 1 - depth), made of its exponent's bits."""
        pattern = tf.bitwise.left_shift(number - 1 - self.depth + 127, 23)
        return tf.where(number > 0, tf.bitcast(pattern, tf.float32), 0.0)


@functools.cache
def gaussian_levels(bits: int) -> tuple[float, ...]:
    """The 2^bits levels of least mean squared error for the unit Gaussian (Max 1960, table I).

    Lloyd's fixed point, from levels spaced as the cube root of the density (Panter and Dite
    1951), which is nearly right from the start.
    """
    count = 2**bits
    levels = np.sqrt(3) * scipy.stats.norm.ppf((np.arange(count) + 0.5) / count)
    for _ in range(200_000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        new = -np.diff(scipy.stats.norm.pdf(edges)) / np.diff(scipy.stats.norm.cdf(edges))
        change, levels = np.abs(new - levels).max(), new
        if change < 1e-9:
            break
    return tuple((levels - levels[::-1]) / 2)


def _lloyd_max(ordered: tf.Tensor, count: int, iterations: int) -> tf.Tensor:
    """The `count` levels, ascending, that fit a sorted float32[m] best in the mean square."""
    # As many levels as the cube root of the density: over a gap g between two neighbours the
    # density is about 1 / g, so g^(2/3) levels.
    weight = tf.cumsum(tf.pow(ordered - tf.concat([ordered[:1], ordered[:-1]], 0), 2 / 3))
    targets = weight[-1] * (tf.range(count, dtype=tf.float32) + 0.5) / count
    start = tf.gather(ordered, tf.minimum(tf.searchsorted(weight, targets), tf.size(ordered) - 1))
    sums = tf.concat([[0.0], tf.cumsum(ordered)], axis=0)

    def improve(i, levels):
        cuts = tf.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
        cuts = tf.concat([[0], cuts, [tf.size(ordered)]], axis=0)
        counts = tf.cast(cuts[1:] - cuts[:-1], tf.float32)
        means = (tf.gather(sums, cuts[1:]) - tf.gather(sums, cuts[:-1])) / tf.maximum(counts, 1.0)
        return i + 1, tf.where(counts > 0, means, levels)

    _, levels = tf.while_loop(lambda i, _: i < iterations, improve, (0, start))
    return tf.sort(levels)


def _nearest(x: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """int32[n], the number of the level nearest to each element; levels ascend."""
    return tf.searchsorted((levels[1:] + levels[:-1]) / 2, x)


def _look_up(levels: tf.Tensor, symbols: tf.Tensor) -> Decoded:
    """The levels of these numbers; not ok if a number has no level."""
    last = tf.size(levels) - 1
    ok = tf.reduce_all((symbols >= 0) & (symbols <= last))
    return Decoded(tf.gather(levels, tf.clip_by_value(symbols, 0, last)), ok)
