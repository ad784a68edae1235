"""A coder for vectors of -1, 0 and 1: five of them to a byte, and runs of zeros shortened."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.base import Decoded, Length

_DIGITS = [81, 27, 9, 3, 1]
_ZEROS = 121  # The byte of five zeros.
_LONGEST = 14


@dataclasses.dataclass(frozen=True)
class Ternary:
    """Quartic encoding, and zero-run encoding if wished: Lim et al. 2019 (3LC), 3.2 and 3.3.

    Five symbols are the digits, plus one, of a number 0 … 242 to the base of 3: 1.6 bits each.
    A run of 2 … 14 bytes of zeros is the one byte 243 … 255.
    """

    zero_runs: bool = True

    def encode(self, values: tf.Tensor) -> tf.Tensor:
        """int32[m] of -1, 0, 1 -> uint8[?]; of others, nothing, which does not decode."""
        digits = tf.pad(values, [[0, -tf.size(values) % 5]]) + 1
        data = tf.reduce_sum(tf.reshape(digits, [-1, 5]) * _DIGITS, axis=1)
        data = tf.cast(_shorten(data) if self.zero_runs else data, tf.uint8)
        ternary = tf.reduce_all((values >= -1) & (values <= 1))
        return data[: tf.where(ternary, tf.size(data), 0)]

    def decode(self, data: tf.Tensor, m: Length) -> Decoded:
        """uint8[?] -> int32[m]."""
        data = tf.cast(data, tf.int32)
        expected = (m + 4) // 5
        # Few bytes may stand for many symbols, but never more bytes than symbols need.
        repeats = tf.where(data > 242, data - 241, 1)
        ok = tf.equal(tf.reduce_sum(tf.cast(repeats, tf.int64)), tf.cast(expected, tf.int64))
        ok = ok & (self.zero_runs | tf.reduce_all(data <= 242))

        def unpack():
            numbers = tf.repeat(tf.where(data > 242, _ZEROS, data), repeats)
            digits = numbers[:, None] // _DIGITS % 3 - 1
            return tf.reshape(digits, [-1])

        symbols = tf.cond(ok, unpack, lambda: tf.zeros([5 * expected], tf.int32))
        return Decoded(symbols[:m], ok & tf.reduce_all(tf.equal(symbols[m:], 0)))

    def bound_bits(self, m: int) -> float:
        """Eight bits for five symbols."""
        return 8 * ((m + 4) // 5)


def _shorten(data: tf.Tensor) -> tf.Tensor:
    """Bytes as int32[k], runs of `_ZEROS` replaced."""
    zeros = tf.equal(data, _ZEROS)
    previous = tf.concat([[False], zeros[:-1]], axis=0)[: tf.size(data)]
    run = tf.cumsum(tf.cast(~(zeros & previous), tf.int32)) - 1
    starts = tf.cast(tf.reshape(tf.where(~(zeros & previous)), [-1]), tf.int32)
    ends = tf.concat([starts[1:], [tf.size(data)]], axis=0)[: tf.size(starts)]
    index = tf.range(tf.size(data))
    remaining = tf.gather(ends, run) - index
    first = tf.equal((index - tf.gather(starts, run)) % _LONGEST, 0)
    length = tf.minimum(remaining, _LONGEST)
    return tf.boolean_mask(tf.where(length > 1, 241 + length, data), first)
