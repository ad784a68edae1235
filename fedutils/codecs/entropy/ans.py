"""The order-0 coder that comes close to the entropy of its symbols at every rate."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import segments


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
        symbols = tf.cast(symbols, tf.int64)
        centre = centre_of(symbols)
        size = tf.size(symbols, tf.int64)[None]
        return segments.encode(symbols - centre, size, centre, segments.no_side())

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        m = tf.cast(m, tf.int64)
        known = segments.bound_bits(m) // 8
        opened = segments.open_payload(data[:known], m)
        positions, ok = segments.positions(opened, m[None])
        _, whole = segments.read_flags(opened, tf.zeros([], tf.int64))
        ok &= opened.ok & whole & (tf.size(data, tf.int64) <= known)
        return place(positions, opened.values, opened.centre, m, ok)


def centre_of(symbols: tf.Tensor) -> tf.Tensor:
    """What to subtract so that small numbers remain: 0 if many are 0, else the mean.

    int64[m] -> int64 scalar.
    """
    mean = tf.reduce_mean(tf.cast(symbols, tf.float64))
    zeros = tf.math.count_nonzero(tf.equal(symbols, 0))
    few = 4 * zeros < tf.size(symbols, tf.int64)
    return tf.where(few, tf.cast(tf.round(mean), tf.int64), 0)


def place(
    positions: tf.Tensor, values: tf.Tensor, centre: tf.Tensor, m: tf.Tensor, ok: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """int32[m] with `values` at `positions`, plus `centre`; zeros and False if not ok."""
    symbols = tf.math.unsorted_segment_sum(values, positions, m) + centre
    narrow = tf.cast(symbols, tf.int32)
    ok &= tf.reduce_all(tf.equal(tf.cast(narrow, tf.int64), symbols))
    return narrow * tf.cast(ok, tf.int32), ok
