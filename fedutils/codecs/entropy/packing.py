"""Fixed-width packing: every symbol takes the bits that the range of all symbols needs."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import bitio


@dataclasses.dataclass(frozen=True)
class FixedWidth:
    """Symbols minus their minimum, in `ceil(log2(max - min + 1))` bits each.

    The header is 6 bits of width and the minimum in its shortest zig-zag form (6 bits of
    length and the bits), so equal symbols cost 2 to 6 bytes whatever their number.
    """

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return 8 * ((12 + 32 + 32 * m + 7) // 8)

    def payload_bytes(self, symbols: tf.Tensor) -> tf.Tensor:
        """Size of the payload of int32[m], an int64 scalar, without making it."""
        _, width, low = _range(symbols)
        bits = 12 + bitio.bit_length(bitio.zigzag(low)) + width * tf.size(symbols, tf.int64)
        return (bits + 7) // 8

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""
        symbols, width, low = _range(symbols)
        start = bitio.zigzag(low)
        start_width = bitio.bit_length(start)
        values = tf.concat([[width, start_width, start], symbols - low], 0)
        lengths = tf.concat([[6, 6, start_width], tf.fill(tf.shape(symbols), width)], 0)
        return bitio.write_bits(values, lengths)

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); `ok` is False unless the payload has the right length."""
        m = tf.cast(m, tf.int64)
        size = tf.cast(tf.size(data), tf.int64)
        header = bitio.bytes_to_words(data[:8])
        width, start_width = tf.unstack(bitio.read_bits(header, tf.constant([0, 6], tf.int64), 6))
        ok = (width <= 32) & (start_width <= 32)
        width, start_width = tf.minimum(width, 32), tf.minimum(start_width, 32)
        low = bitio.unzigzag(bitio.read_bits(header, tf.constant([12], tf.int64), start_width))[0]
        first = 12 + start_width
        ok &= tf.equal(size, (first + width * m + 7) // 8)
        words = bitio.bytes_to_words(data[: tf.where(ok, size, 0)])
        symbols = low + bitio.read_bits(words, first + width * tf.range(m), width)
        ok &= tf.reduce_all(tf.equal(symbols, tf.cast(tf.cast(symbols, tf.int32), tf.int64)))
        return tf.cast(symbols, tf.int32) * tf.cast(ok, tf.int32), ok


def _range(symbols: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Symbols as int64, the bits that their range needs, and the smallest."""
    symbols = tf.cast(symbols, tf.int64)
    some = tf.size(symbols) > 0
    low = tf.where(some, tf.reduce_min(symbols), 0)
    return symbols, bitio.bit_length(tf.where(some, tf.reduce_max(symbols), 0) - low), low
