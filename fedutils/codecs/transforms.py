"""Transforms: float32 vectors to float32 vectors that are easier to quantize.

A scale is one number for the whole update: one quantization step for the whole model costs
clearly fewer bits, at equal error, than one for each layer.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import scipy.linalg
import tensorflow as tf

from fedutils.codecs.base import Decoded, Encoded, Length, Stage, as_length, length_of

_RADIX_BITS = 7
_HADAMARD = scipy.linalg.hadamard(2**_RADIX_BITS).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Scale(Stage):
    """Divides by `unit` times a statistic of the vector, which is sent (one float32)."""

    unit: float = 1.0

    elementwise: ClassVar[bool] = True
    limits: ClassVar = {"unit": (1e-20, 1e20)}

    def statistic(self, x: tf.Tensor) -> tf.Tensor:
        """float32[n] -> float32 scalar, proportional to x."""
        raise NotImplementedError(f"{type(self).__name__} does not define its statistic.")

    def side_size(self) -> int:
        """The scale."""
        return 1

    def encode(self, x, params, seed):
        """A vector of zeros has scale 0 and stays as it is."""
        scale = self.unit * self.statistic(x)
        return Encoded(tf.math.divide_no_nan(x, scale), [scale])

    def decode(self, y, side, params, seed, n):
        """Multiplies by the scale."""
        return Decoded(y * side[0])


@dataclasses.dataclass(frozen=True)
class Rms(Scale):
    """In units of the root mean square: of the standard deviation, as updates' mean is near 0."""

    def statistic(self, x):
        """sqrt(mean(x^2))."""
        return rms(x)


@dataclasses.dataclass(frozen=True)
class Norm(Scale):
    """In units of the Euclidean norm."""

    def statistic(self, x):
        """sqrt(sum(x^2))."""
        return rms(x) * tf.sqrt(tf.cast(tf.size(x), tf.float32))


@dataclasses.dataclass(frozen=True)
class Max(Scale):
    """In units of the largest magnitude."""

    def statistic(self, x):
        """max(|x|)."""
        return tf.reduce_max(tf.abs(x))


@dataclasses.dataclass(frozen=True)
class Step(Stage):
    """Divides by the round parameter `step`, the one knob from coarse to fine.

    It is known to both sides and may change between rounds. Behind `Rms` its unit is one
    standard deviation of the update; alone, it is the update's own unit.
    """

    size: float = 1.0

    elementwise: ClassVar[bool] = True
    limits: ClassVar = {"size": (1e-20, 1e20)}

    def default_params(self):
        """The quantization step to start from."""
        return {"step": self.size}

    def encode(self, x, params, seed):
        """Refuses a step that is not positive."""
        return Encoded(x / params["step"], ok=params["step"] > 0)

    def decode(self, y, side, params, seed, n):
        """Multiplies by the step."""
        return Decoded(y * params["step"])


@dataclasses.dataclass(frozen=True)
class RelativeStep(Step):
    """Divides by the round parameter `step`, in root mean squares: `Rms` and `Step` in one pass."""

    def side_size(self) -> int:
        """The root mean square."""
        return 1

    def encode(self, x, params, seed):
        """Refuses a step that is not positive; a vector of zeros stays as it is."""
        unit = rms(x)
        scaled = tf.math.divide_no_nan(x, unit * params["step"])
        return Encoded(scaled, [unit], ok=params["step"] > 0)

    def decode(self, y, side, params, seed, n):
        """Multiplies by the step and its unit."""
        return Decoded(y * (side[0] * params["step"]))


@dataclasses.dataclass(frozen=True)
class WeightUnit(Stage):
    """Divides by the round parameter `weight_unit`, a typical client's weight.

    The values of a weighted mean come multiplied by the client's weight, so that one step for
    all clients is a finer one for the heavier. In this unit, steps are in those of the model.
    """

    guess: float = 100.0

    elementwise: ClassVar[bool] = True

    def default_params(self):
        """The unit to start from."""
        return {"weight_unit": self.guess}

    def encode(self, x, params, seed):
        """Refuses a unit that is not positive."""
        return Encoded(x / params["weight_unit"], ok=params["weight_unit"] > 0)

    def decode(self, y, side, params, seed, n):
        """Multiplies by the unit."""
        return Decoded(y * params["weight_unit"])


@dataclasses.dataclass(frozen=True)
class ClientStep(Stage):
    """`Step`, divided by the client's weight, relative to a typical one's, to the power 2/3.

    For clients that each scale by their own norm, the levels that make the mean's error least
    for the bits spent. Outside a weighted mean, all clients are typical. Source: Hönig et al.
    2022 (DAdaQuant), section 3.5.
    """

    size: float = 1.0
    guess: float = 100.0

    elementwise: ClassVar[bool] = True
    limits: ClassVar = {"size": (1e-20, 1e20)}

    def default_params(self):
        """The quantization step and the unit of weight to start from."""
        return {"step": self.size, "weight_unit": self.guess}

    def encode(self, x, params, seed):
        """Refuses a step that is not positive."""
        step = self._step(params)
        return Encoded(tf.math.divide_no_nan(x, step), ok=step > 0)

    def decode(self, y, side, params, seed, n):
        """Multiplies by the step."""
        return Decoded(y * self._step(params))

    def _step(self, params) -> tf.Tensor:
        weight = params.get("weight", params["weight_unit"])
        relative = tf.math.divide_no_nan(weight, params["weight_unit"])
        return params["step"] * tf.maximum(relative, 1e-6) ** (-2 / 3)


@dataclasses.dataclass(frozen=True)
class Clip(Stage):
    """Limits magnitudes to `limit` root mean squares (biased)."""

    limit: float = 2.5
    limits: ClassVar = {"limit": (1e-20, 1e20)}
    unbiased: ClassVar[bool] = False

    def encode(self, x, params, seed):
        """Clips."""
        bound = self.limit * rms(x)
        return Encoded(tf.clip_by_value(x, -bound, bound))

    def decode(self, y, side, params, seed, n):
        """What was clipped is lost."""
        return Decoded(y)


@dataclasses.dataclass(frozen=True)
class SetAside(Stage):
    """Sends small variables whole, as side information, and passes on the others.

    sizes: the number of elements of each variable, in their order in the vector.
    min_elements: variables with fewer are set aside, at 32 bits per number.
    """

    sizes: tuple[int, ...]
    min_elements: int

    def side_size(self) -> int:
        """All the small variables' numbers."""
        return sum(size for size in self.sizes if size < self.min_elements)

    def length(self, n: Length) -> Length:
        """What remains; ValueError if n is not the sum of the sizes."""
        if not tf.is_tensor(n) and n != sum(self.sizes):
            raise ValueError(f"{self} is for vectors of {sum(self.sizes)} numbers, not {n}.")
        return n - self.side_size()

    def encode(self, x, params, seed):
        """Splits the vector."""
        pieces = list(zip(self.sizes, tf.split(x, self.sizes), strict=True))
        small = [piece for size, piece in pieces if size < self.min_elements]
        large = [piece for size, piece in pieces if size >= self.min_elements]
        return Encoded(_concat(large), _concat(small))

    def decode(self, y, side, params, seed, n):
        """Puts it together again."""
        pieces = []
        for size in self.sizes:
            if size < self.min_elements:
                piece, side = side[:size], side[size:]
            else:
                piece, y = y[:size], y[size:]
            pieces.append(piece)
        return Decoded(_concat(pieces))


@dataclasses.dataclass(frozen=True)
class Hadamard(Stage):
    """A seeded random rotation that makes every element look Gaussian, without padding.

    A Hadamard transform wants 2^p elements; padding the study's model to 2^21 would cost 26 %
    more of them. Instead, two overlapping blocks of 2^p > n/2 elements cover the vector:

    1. spread: an evenly spaced 2^p of the elements go to the end, the rest to the front, so
       that either part has its share of every variable's energy;
    2. random signs, then the transform of the last 2^p elements;
    3. random signs, then the transform of the first 2^p elements.

    Each step is orthogonal, so errors keep their norm. Source of the transform: Ailon and
    Chazelle 2009; its use for this purpose: Suresh et al. 2017, section 3.
    """

    needs_seed: ClassVar[bool] = True

    def encode(self, x, params, seed):
        """Rotates."""
        n = length_of(x)
        bits = _log2_floor(n)
        block = _power_of_two(bits)
        first, second = _random_signs(seed, n)
        y = tf.gather(x, _spread(n, bits)) * first
        y = tf.concat([y[: n - block], walsh_hadamard(y[n - block :], bits)], axis=0) * second
        return Encoded(tf.concat([walsh_hadamard(y[:block], bits), y[block:]], axis=0))

    def decode(self, y, side, params, seed, n):
        """Rotates back: the same steps from last to first."""
        bits = _log2_floor(n)
        block = _power_of_two(bits)
        first, second = _random_signs(seed, n)
        y = tf.concat([walsh_hadamard(y[:block], bits), y[block:]], axis=0) * second
        y = tf.concat([y[: n - block], walsh_hadamard(y[n - block :], bits)], axis=0) * first
        return Decoded(tf.gather(y, tf.math.invert_permutation(_spread(n, bits))))


def rms(x: tf.Tensor) -> tf.Tensor:
    """The root mean square of float32[n], without overflow on the way."""
    mean_square = 2 * tf.nn.l2_loss(x) / tf.cast(tf.size(x), tf.float32)

    def relative_to_largest():
        largest = tf.reduce_max(tf.abs(x))
        relative = tf.math.divide_no_nan(x, largest)
        return largest * tf.sqrt(tf.reduce_mean(tf.square(relative)))

    usual = (mean_square > 1e-20) & (mean_square < 1e30)
    return tf.cond(usual, lambda: tf.sqrt(mean_square), relative_to_largest)


def walsh_hadamard(x: tf.Tensor, bits: Length) -> tf.Tensor:
    """The orthonormal Walsh-Hadamard transform of float32[2^bits]; its own inverse.

    The transform of 2^(a+b) elements is that of 2^a along the rows and of 2^b along the
    columns of a matrix. Each pass transforms the leading bits of the index and rotates them to
    the end, so that after all passes the order is the first one again.
    """
    if tf.is_tensor(bits):
        passes = [tf.clip_by_value(bits - i, 0, _RADIX_BITS) for i in range(0, 31, _RADIX_BITS)]
    else:
        passes = [min(bits - i, _RADIX_BITS) for i in range(0, bits, _RADIX_BITS)]
    for width in passes:
        size = _power_of_two(width)
        matrix = tf.constant(_HADAMARD)[:size, :size] / tf.sqrt(tf.cast(size, tf.float32))
        x = tf.reshape(tf.matmul(tf.reshape(x, [size, -1]), matrix, transpose_a=True), [-1])
    return x


def _spread(n: Length, bits: Length) -> tf.Tensor:
    """A permutation of n indices with an evenly spaced 2^bits of them at the end."""
    steps = tf.range(tf.cast(_power_of_two(bits), tf.int64))
    chosen = tf.bitwise.right_shift(steps * tf.cast(n, tf.int64), tf.cast(bits, tf.int64))
    marks = tf.scatter_nd(chosen[:, None], tf.ones_like(chosen, tf.int32), [tf.cast(n, tf.int64)])
    others = tf.reshape(tf.where(tf.equal(marks, 0)), [-1])
    return tf.cast(tf.concat([others, chosen], axis=0), tf.int32)


def _random_signs(seed: tf.Tensor, n: Length) -> tuple[tf.Tensor, tf.Tensor]:
    """Two independent vectors of n signs, from two bits of the same random integers."""
    draws = tf.random.stateless_uniform([n], seed, None, None, tf.int32, alg="philox")
    return tuple(
        1.0 - tf.cast(tf.bitwise.bitwise_and(draws, b), tf.float32) * (2 / b) for b in (1, 2)
    )


def _log2_floor(n: Length) -> Length:
    """floor(log2 n)."""
    n = as_length(n)
    if not tf.is_tensor(n):
        return n.bit_length() - 1
    return tf.reduce_sum(tf.cast(n >= tf.constant([2**k for k in range(1, 31)]), tf.int32))


def _power_of_two(bits: Length) -> Length:
    """2^bits."""
    return tf.bitwise.left_shift(1, bits) if tf.is_tensor(bits) else 1 << bits


def _concat(pieces: list[tf.Tensor]) -> tf.Tensor:
    """Joins vectors, be there none."""
    return tf.concat([tf.zeros([0]), *pieces], axis=0)
