"""A coder for symbols of which few are nonzero, anywhere alike, and of size 1 mostly."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import known
from fedutils.codecs.entropy.nonzeros import nonzeros_of, place


@dataclasses.dataclass(frozen=True)
class Sparse:
    """Rice codes of the gaps between nonzeros, and exceptions from size 1; see `known`.

    For payloads of some hundred bytes: beside its numbers it sends some 30 bits.
    """

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return known.bound_bits(m, 1)

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""
        return known.encode(*_one_class(tf.size(symbols, tf.int64), nonzeros_of(symbols)))

    def fields(self, symbols: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """What `encode` writes, by what it tells; see `known.fields`."""
        return known.fields(*_one_class(tf.size(symbols, tf.int64), nonzeros_of(symbols)))

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        m = tf.cast(m, tf.int64)
        limit = self.bound_bits(m) // 8
        found, ok = known.decode(data[:limit], tf.zeros([1], tf.int64), m[None])
        ok &= tf.size(data, tf.int64) <= limit
        return place(found.positions, found.values, found.centre, m, ok)


def _one_class(size, nonzeros):
    return nonzeros, tf.zeros([1], tf.int64), size[None]
