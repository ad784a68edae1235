"""Golomb–Rice codes, and a coder for sparse symbols made of them.

Source: S. Golomb, "Run-length encodings" (IEEE Trans. Inf. Theory 12, 1966); R. Rice, "Some
practical universal noiseless coding techniques" (JPL 79-22, 1979).  As with `elias`, a list
holds all unary quotients ahead of all remainders, so that it is decoded as a vector.
"""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import bitio
from fedutils.codecs.entropy.elias import gamma_fields, read_gamma


def rice_fields(u: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Fields for `bitio.write_bits` that code u, int64[n] in [0, 2**33).

    k: the parameter, an int64 scalar, or int64[n] with one for each number.
    """
    quotient = tf.bitwise.right_shift(u, k)
    remainder = u - tf.bitwise.left_shift(quotient, k)
    lengths = tf.concat([quotient + 1, tf.zeros_like(u) + k], 0)
    return tf.concat([tf.ones_like(u), remainder], 0), lengths


def read_rice(
    words: tf.Tensor, start: tf.Tensor, count: tf.Tensor, k: tf.Tensor, limit: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads a list of Rice codes.

    Args:
        words: int64[w].
        start: int64 scalar, first bit of the list.
        count: int64 scalar, how many numbers there are.
        k: int64 scalar, or int64[count], in [0, 32]: the parameter.
        limit: int64 scalar, bits that the unary parts take at most.

    Returns:
        int64[count] numbers, the first bit behind the list, and whether the list is sound; the
        numbers are zeros if it is not.
    """
    ends = bitio.find_ones(words, start, count, limit)
    quotients = ends - tf.concat([tf.constant([-1], tf.int64), ends], 0)[:-1] - 1
    found = tf.cast(tf.size(ends), tf.int64)
    ok = tf.equal(found, count)
    quotients = tf.pad(quotients, [[0, count - found]])
    first = start + count + tf.reduce_sum(quotients)
    k = tf.broadcast_to(k, count[None])
    remainders = bitio.read_bits(words, first + tf.cumsum(k, exclusive=True), k)
    values = tf.bitwise.left_shift(quotients, k) + remainders
    return values * tf.cast(ok, tf.int64), first + tf.reduce_sum(k), ok


def best_parameter(u: tf.Tensor) -> tf.Tensor:
    """The k that codes u, int64[n], in the fewest bits; an int64 scalar in [0, 32].

    The best k is within one of log2(mean), and with k at least log2(mean) - 1 all quotients
    together are below 2n.
    """
    count = tf.maximum(tf.cast(tf.size(u), tf.int64), 1)
    guess = tf.maximum(bitio.bit_length(tf.reduce_sum(u) // count) - 1, 0)
    candidates = [guess, guess + 1]
    bits = [count * k + tf.reduce_sum(tf.bitwise.right_shift(u, k)) for k in candidates]
    return guess + tf.argmin(tf.stack(bits))


@dataclasses.dataclass(frozen=True)
class SparseRice:
    """Gaps between nonzeros, then their magnitudes, as Rice codes; signs as they are.

    The parameters are chosen from the data.  Zeros cost no more than what they add to a gap.
    """

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        # A list of n numbers takes at most 2n bits of quotients above log2(mean) + 1 a number;
        # gaps have a mean below m / n, so n log2(m / n) < m of them; magnitudes are below 2**31.
        return 8 * ((90 + (1 + 4 + 1 + 4 + 32) * m + 7) // 8)

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""
        positions = tf.where(tf.not_equal(symbols, 0))[:, 0]
        values = tf.cast(tf.gather(symbols, positions), tf.int64)
        gaps = positions - tf.concat([tf.constant([-1], tf.int64), positions], 0)[:-1] - 1
        sizes = tf.abs(values) - 1
        k_gap, k_size = best_parameter(gaps), best_parameter(sizes)
        header = tf.stack([tf.cast(tf.size(positions), tf.int64), k_gap, k_size])
        signs = tf.cast(values < 0, tf.int64)
        fields = [
            gamma_fields(header),
            rice_fields(gaps, k_gap),
            rice_fields(sizes, k_size),
            (signs, tf.ones_like(signs)),
        ]
        values, lengths = zip(*fields, strict=True)
        return bitio.write_bits(tf.concat(values, 0), tf.concat(lengths, 0))

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        m = tf.cast(m, tf.int64)
        size = tf.cast(tf.size(data), tf.int64)
        words = bitio.bytes_to_words(data[: tf.minimum(size, self.bound_bits(m) // 8)])
        start = tf.zeros([], tf.int64)
        header, start, ok = read_gamma(words, start, tf.constant(3, tf.int64))
        ok &= (header[0] <= m) & (header[1] <= 32) & (header[2] <= 32)
        count, k_gap, k_size = tf.unstack(header * tf.cast(ok, tf.int64), num=3)
        gaps, start, gaps_ok = read_rice(words, start, count, k_gap, 3 * count + 64)
        sizes, start, sizes_ok = read_rice(words, start, count, k_size, 3 * count + 64)
        negative = bitio.read_bits(words, start + tf.range(count), tf.constant(1, tf.int64))
        positions = tf.cumsum(gaps + 1) - 1
        values = (1 - 2 * negative) * (sizes + 1)
        ok &= gaps_ok & sizes_ok & tf.equal((start + count + 7) // 8, size)
        ok &= tf.reduce_all(positions < m) & tf.reduce_all(
            tf.equal(values, tf.cast(tf.cast(values, tf.int32), tf.int64))
        )
        values = tf.cast(values, tf.int32) * tf.cast(ok, tf.int32)
        positions = tf.where(positions < m, positions, 0)
        return tf.math.unsorted_segment_sum(values, positions, m), ok
