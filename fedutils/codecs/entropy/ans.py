"""The order-0 coder that comes close to the entropy of its symbols at every rate."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import segments
from fedutils.codecs.entropy.nonzeros import nonzeros_of, place


@dataclasses.dataclass(frozen=True)
class Ans:
    """Symbols as independent and identically distributed, coded by interleaved rANS.

    Mostly zero symbols take time and bits for their nonzeros only.
    """

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return segments.bound_bits(m)

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""
        size = tf.size(symbols, tf.int64)[None]
        return segments.encode(nonzeros_of(symbols), size, segments.no_side())

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        m = tf.cast(m, tf.int64)
        known = segments.bound_bits(m) // 8
        opened = segments.open_payload(data[:known], m)
        positions, ok = segments.positions(opened, m[None])
        _, whole = segments.read_flags(opened, tf.zeros([], tf.int64))
        ok &= opened.ok & whole & (tf.size(data, tf.int64) <= known)
        return place(positions, opened.values, opened.centre, m, ok)
