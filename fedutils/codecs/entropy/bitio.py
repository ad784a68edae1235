"""Variable-length bit fields to and from bytes, for whole vectors at a time.

Bits are numbered most significant first.  Inside a computation a bit string is an int64 vector
of 32-bit words; on the wire it is uint8.  Positions and lengths are in bits.
"""

import tensorflow as tf

_WORD = 32
_LOW = 0xFFFFFFFF


def bit_length(x: tf.Tensor) -> tf.Tensor:
    """Bits needed to write each `x`, int64 with `0 <= x < 2**53`; `bit_length(0) == 0`."""
    exponent = tf.bitcast(tf.cast(x, tf.float64), tf.int64)
    exponent = tf.bitwise.right_shift(exponent, tf.constant(52, tf.int64)) - 1022
    return tf.where(tf.equal(x, 0), tf.zeros_like(x), exponent)


def zigzag(x: tf.Tensor) -> tf.Tensor:
    """Signed int64 to unsigned: 0, -1, 1, -2, … become 0, 1, 2, 3, …"""
    return tf.where(x < 0, -2 * x - 1, 2 * x)


def unzigzag(u: tf.Tensor) -> tf.Tensor:
    """Inverse of `zigzag`."""
    half = u // 2
    return tf.where(tf.equal(u % 2, 1), -half - 1, half)


def write_words(values: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Concatenates bit fields.

    Args:
        values: int64[k], `0 <= values < 2**32`, right-aligned in their fields.
        lengths: int64[k], at least the bit length of each value; a longer field starts with
            zeros, so a unary code of `q` is the value 1 in a field of `q + 1` bits.

    Returns:
        The words, int64, and the number of bits written, an int64 scalar.
    """
    total = tf.reduce_sum(lengths)
    last = tf.maximum(tf.cumsum(lengths) - 1, 0)
    word = tf.bitwise.right_shift(last, tf.constant(5, tf.int64))
    shifted = tf.bitwise.left_shift(values, 31 - tf.bitwise.bitwise_and(last, 31))
    # The field ends in `word`; what does not fit there ends the word before.  Fields are
    # disjoint, so adding is the same as or-ing.
    count = tf.maximum((total + _WORD - 1) // _WORD, 1)
    low = tf.math.unsorted_segment_sum(tf.bitwise.bitwise_and(shifted, _LOW), word, count)
    high = tf.bitwise.right_shift(shifted, tf.constant(_WORD, tf.int64))
    return low + tf.math.unsorted_segment_sum(high, word - 1, count), total


def words_to_bytes(words: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """The first `total` bits of `words` as uint8[ceil(total / 8)], zero-padded at the end."""
    # A cast of int64 keeps the low 32 bits.
    little_endian = tf.bitcast(tf.cast(words, tf.int32), tf.uint8)
    return tf.reshape(tf.reverse(little_endian, [1]), [-1])[: (total + 7) // 8]


def write_bits(values: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """As `write_words`, but to bytes: uint8[ceil(sum(lengths) / 8)]."""
    return words_to_bytes(*write_words(values, lengths))


def bytes_to_words(data: tf.Tensor) -> tf.Tensor:
    """uint8[k] -> int64[ceil(k / 4)] words, zero-padded at the end."""
    padded = tf.reshape(tf.pad(data, [[0, -tf.size(data) % 4]]), [-1, 4])
    words = tf.bitcast(tf.reverse(padded, [1]), tf.int32)
    return tf.bitwise.bitwise_and(tf.cast(words, tf.int64), _LOW)


def windows(data: tf.Tensor) -> tf.Tensor:
    """The 24 bits that end with each byte, and with a zero byte behind the last one.

    uint8[k] -> int32[k + 1]; for loops, which read fields of at most 16 bits with it: one that
    ends before bit `e` is at the end of `windows(data)[e // 8] >> (8 - e % 8)`.
    """
    octets = tf.cast(tf.pad(data, [[2, 1]]), tf.int32)
    return octets[:-2] * 2**16 + octets[1:-1] * 2**8 + octets[2:]


def read_bits(words: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Reads fields of at most 32 bits.

    Args:
        words: int64[w].
        starts: int64[k], first bit of each field; bits outside of the words read as zeros.
        lengths: int64[k] or scalar, 0 to 32.

    Returns:
        int64[k].
    """
    padded = tf.pad(words, [[0, 2]])
    limit = tf.cast(tf.size(words), tf.int64)
    word = tf.bitwise.right_shift(starts, tf.constant(5, tf.int64))
    word = tf.where((word < 0) | (word > limit), limit, word)
    first = tf.bitwise.left_shift(tf.gather(padded, word), tf.constant(_WORD, tf.int64))
    window = tf.bitwise.bitwise_or(first, tf.gather(padded, word + 1))
    end = tf.bitwise.bitwise_and(starts, 31) + lengths
    mask = tf.bitwise.left_shift(tf.ones_like(starts), lengths) - 1
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(window, 64 - end), mask)


def find_ones(words: tf.Tensor, start: tf.Tensor, count: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
    """Positions of the first one bits, where unary codes end.

    Args:
        words: int64[w].
        start: int64 scalar, first bit looked at.
        count: int64 scalar, how many ones are wanted.
        limit: int64 scalar, how many bits are looked at, at most.

    Returns:
        int64[c], positions relative to `start`, ascending; `c < count` if there are fewer.
    """
    start = tf.maximum(start, 0)
    first = tf.minimum(start // _WORD, tf.cast(tf.size(words), tf.int64))
    window = words[first : first + (limit + start % _WORD + _WORD - 1) // _WORD]
    octets = words_to_bytes(window, tf.cast(tf.size(window), tf.int64) * _WORD)
    shifts = tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8)
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(octets[:, None], shifts), 1)
    bits = tf.reshape(bits, [-1])[start % _WORD :]
    return tf.where(tf.not_equal(bits, 0))[:, 0][:count]
