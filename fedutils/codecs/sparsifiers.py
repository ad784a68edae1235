"""Sparsifiers: transforms that keep few of the numbers and drop the others."""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from fedutils.codecs.base import Decoded, Encoded, Length, Stage, length_of


@dataclasses.dataclass(frozen=True)
class Threshold(Stage):
    """Sets magnitudes below the round parameter `threshold` to zero (biased).

    Strom 2015. Behind `transforms.Rms` its unit is one standard deviation.
    """

    size: float = 1.0
    unbiased: ClassVar[bool] = False
    limits: ClassVar = {"size": (0, 1e30)}

    def default_params(self):
        """The threshold to start from."""
        return {"threshold": self.size}

    def encode(self, x, params, seed):
        """Drops small magnitudes."""
        return Encoded(tf.where(tf.abs(x) >= params["threshold"], x, 0.0))

    def decode(self, y, side, params, seed, n):
        """What was dropped is zero."""
        return Decoded(y)


@dataclasses.dataclass(frozen=True)
class TopK(Stage):
    """Keeps the ceil(fraction n) largest magnitudes (biased). Aji and Heafield 2017, section 4."""

    fraction: float = 0.01
    unbiased: ClassVar[bool] = False
    limits: ClassVar = {"fraction": (1e-9, 1)}

    def encode(self, x, params, seed):
        """Sets all but the largest to zero; of equals, the first stay."""
        _, kept = tf.math.top_k(tf.abs(x), _share(self.fraction, length_of(x)), sorted=False)
        return Encoded(tf.scatter_nd(kept[:, None], tf.gather(x, kept), [length_of(x)]))

    def decode(self, y, side, params, seed, n):
        """What was dropped is zero."""
        return Decoded(y)


@dataclasses.dataclass(frozen=True)
class RandomK(Stage):
    """Keeps ceil(fraction n) numbers at random positions, which only the seed tells.

    Konečný et al. 2016, section 3 (subsampling).

    unbiased: whether what is kept is scaled up by n / k, which makes it unbiased.
    """

    fraction: float = 0.01
    unbiased: bool = dataclasses.field(default=True, kw_only=True)
    needs_seed: ClassVar[bool] = True
    limits: ClassVar = {"fraction": (1e-9, 1)}

    def length(self, n: Length) -> Length:
        """Only what is kept."""
        return _share(self.fraction, n)

    def encode(self, x, params, seed):
        """Shortens the vector."""
        return Encoded(tf.gather(x, self._positions(seed, length_of(x))))

    def decode(self, y, side, params, seed, n):
        """Puts numbers back to their positions, zeros elsewhere."""
        if self.unbiased:
            y = y * tf.cast(n / self.length(n), tf.float32)
        return Decoded(tf.scatter_nd(self._positions(seed, n)[:, None], y, [n]))

    def _positions(self, seed: tf.Tensor, n: Length) -> tf.Tensor:
        """k distinct indices: the first k places of a pseudo-random permutation of n."""
        # The permutation's key must itself be random: seeds that differ in one number only
        # give permutations that favour some positions.
        key = tf.random.stateless_uniform([3], seed, None, None, tf.int32, alg="philox")
        index = tf.range(self.length(n))
        return tf.raw_ops.RandomIndexShuffle(index=index, seed=key, max_index=n - 1)


def _share(fraction: float, n: Length) -> Length:
    """ceil(fraction n), at least 1 and at most n."""
    if not tf.is_tensor(n):
        return min(n, max(1, math.ceil(fraction * n)))
    share = tf.math.ceil(fraction * tf.cast(n, tf.float64))
    return tf.clip_by_value(tf.cast(share, tf.int32), 1, n)
