"""Elias gamma codes, with all unary parts ahead of all remainders.

Source: P. Elias, "Universal codeword sets and representations of the integers" (IEEE Trans.
Inf. Theory 21, 1975).  A code is the same bits as Elias's, but a list of them holds first every
length in unary, then every remainder: so a decoder finds all lengths at once, and from them
where each remainder is.
"""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import bitio

_LONGEST = 33  # Bit length of the largest code, that of 2**32.


def gamma_fields(u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Fields (values, lengths) for `bitio.write_bits` that code u, int64[k] in [0, 2**32)."""
    size = bitio.bit_length(u + 1) - 1
    remainder = u + 1 - tf.bitwise.left_shift(tf.ones_like(u), size)
    return tf.concat([tf.ones_like(u), remainder], 0), tf.concat([size + 1, size], 0)


def read_gamma(
    words: tf.Tensor, start: tf.Tensor, count: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads a list of gamma codes.

    Args:
        words: int64[w].
        start: int64 scalar, first bit of the list.
        count: int64 scalar, how many numbers there are.

    Returns:
        int64[count] numbers, the first bit behind the list, and whether the list is sound; the
        numbers are zeros if it is not.
    """
    ends = bitio.find_ones(words, start, count, count * _LONGEST)
    sizes = ends - tf.concat([tf.constant([-1], tf.int64), ends], 0)[:-1] - 1
    found = tf.cast(tf.size(ends), tf.int64)
    ok = tf.equal(found, count) & tf.reduce_all(sizes < _LONGEST)
    sizes = tf.pad(tf.clip_by_value(sizes, 0, _LONGEST - 1), [[0, count - found]])
    first = start + count + tf.reduce_sum(sizes)
    remainders = bitio.read_bits(words, first + tf.cumsum(sizes, exclusive=True), sizes)
    values = tf.bitwise.left_shift(tf.ones_like(sizes), sizes) + remainders - 1
    return values * tf.cast(ok, tf.int64), first + tf.reduce_sum(sizes), ok


@dataclasses.dataclass(frozen=True)
class EliasGamma:
    """Signed symbols as zig-zag integers in Elias gamma codes: 1 bit for 0, 3 for -1 and 1, …"""

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return 8 * ((65 * m + 7) // 8)

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""
        return bitio.write_bits(*gamma_fields(bitio.zigzag(tf.cast(symbols, tf.int64))))

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        m = tf.cast(m, tf.int64)
        size = tf.cast(tf.size(data), tf.int64)
        words = bitio.bytes_to_words(data[: (65 * m + 7) // 8])
        values, end, ok = read_gamma(words, tf.zeros([], tf.int64), m)
        ok &= tf.equal((end + 7) // 8, size)
        symbols = bitio.unzigzag(values)
        ok &= tf.reduce_all(tf.equal(symbols, tf.cast(tf.cast(symbols, tf.int32), tf.int64)))
        return tf.cast(symbols, tf.int32) * tf.cast(ok, tf.int32), ok
