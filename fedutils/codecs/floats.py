"""Coders that end a chain without a quantizer: they keep float32 numbers as they are."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from fedutils.codecs.base import Coder, Decoded, Length, from_bytes, to_bytes


@dataclasses.dataclass(frozen=True)
class Raw:
    """Every number as its 32 bits."""

    takes: ClassVar[tf.DType] = tf.float32

    def encode(self, values: tf.Tensor) -> tf.Tensor:
        """float32[m] -> uint8[4 m]."""
        return to_bytes(values)

    def decode(self, data: tf.Tensor, m: Length) -> Decoded:
        """uint8[4 m] -> float32[m]; any other length is refused."""
        ok = tf.equal(tf.size(data), 4 * m)
        zeros = tf.zeros([m])
        return Decoded(tf.cond(ok, lambda: from_bytes(data, tf.float32), lambda: zeros), ok)

    def bound_bits(self, m: int) -> float:
        """32 bits per number."""
        return 32 * m


@dataclasses.dataclass(frozen=True)
class SparseFloats:
    """The non-zero numbers as their 32 bits, their positions as coded gaps.

    Bytes: [count k, 4] [values, 4 k] [gaps]. A gap is the number of zeros before a non-zero
    number and after the one before it; `gaps` codes these k integers. A number counts as zero
    only if all its 32 bits are: denormals and -0.0 are kept.
    """

    gaps: Coder
    takes: ClassVar[tf.DType] = tf.float32

    def encode(self, values: tf.Tensor) -> tf.Tensor:
        """float32[m] -> uint8[?]."""
        nonzero = tf.not_equal(tf.bitcast(values, tf.int32), 0)
        positions = tf.cast(tf.reshape(tf.where(nonzero), [-1]), tf.int32)
        gaps = positions - tf.concat([[-1], positions[:-1]], axis=0)[: tf.size(positions)] - 1
        kept = tf.gather(values, positions)
        count = tf.size(positions)
        return tf.concat([to_bytes(count), to_bytes(kept), self.gaps.encode(gaps)], axis=0)

    def decode(self, data: tf.Tensor, m: Length) -> Decoded:
        """uint8[?] -> float32[m]."""
        size = tf.size(data)
        whole = tf.pad(data[:4], [[0, tf.maximum(4 - size, 0)]])
        count = from_bytes(whole, tf.int32)[0]
        ok = (size >= 4) & (count >= 0) & (count <= m) & (count <= (size - 4) // 4)
        count = tf.where(ok, count, 0)
        kept = from_bytes(data[4 : 4 + 4 * count], tf.int32)
        gaps, gaps_ok = self.gaps.decode(data[4 + 4 * count :], count)
        # 64 bits: the sum of damaged gaps must not wrap round to a plausible position.
        positions = tf.cumsum(tf.cast(gaps, tf.int64) + 1) - 1
        ok = (
            ok
            & gaps_ok
            & tf.reduce_all(gaps >= 0)
            & tf.reduce_all(positions < tf.cast(m, tf.int64))
        )
        positions = tf.where(ok, positions, tf.range(tf.cast(count, tf.int64)))
        # Scattered as integers: sums of floats would turn denormals and -0.0 into 0.
        patterns = tf.scatter_nd(positions[:, None], kept, [tf.cast(m, tf.int64)])
        return Decoded(tf.bitcast(patterns, tf.float32), ok)

    def bound_bits(self, m: int) -> float:
        """All numbers non-zero, and the dearest gaps, though both cannot be."""
        return 32 + 32 * m + self.gaps.bound_bits(m)
