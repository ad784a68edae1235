"""Interleaved rANS: many lanes of a range asymmetric numeral system in lock step.

Source: J. Duda, "Asymmetric numeral systems" (arXiv:1311.2540), section 2.3 (range variants);
F. Giesen, "Interleaved entropy coders" (arXiv:1402.3392), section 3, for lanes that share one
stream of bits.

Token `t` belongs to lane `t % lanes` and is coded in turn `t // lanes`, so a vector of T tokens
takes `T / lanes` turns of a `tf.while_loop`.  A lane's state stays in [2**20, 2**21): before a
token is coded, as many low bits leave as make room for it.  As every state starts with the same
one bit, 20 bits say which it is; and as a lane starts from 20 bits of data that have to be sent
raw anyway, and gives them back when it has decoded everything, lanes cost next to nothing.
"""

from typing import NamedTuple

import tensorflow as tf

from fedutils.codecs.entropy import bitio

PRECISION = 13  # Frequencies of a context sum to 2**PRECISION.
STATE_BITS = 20
_TOTAL = 1 << PRECISION
_ONE = 1 << STATE_BITS
_FLOAT_MANTISSA, _FLOAT_BIAS = 23, 127


class Encoded(NamedTuple):
    """Final states, int64[lanes] of STATE_BITS, and bit fields in the order of reading.

    Fields are values and lengths, int64[k] each, as for `bitio.write_bits`.
    """

    states: tf.Tensor
    fields: tuple[tf.Tensor, tf.Tensor]


class DecodedTokens(NamedTuple):
    """Tokens int32[T], the lanes' seeds int64[lanes], and the first bit not read (int64)."""

    tokens: tf.Tensor
    seeds: tf.Tensor
    end: tf.Tensor


def starts_of(frequencies: tf.Tensor) -> tf.Tensor:
    """First slot of each token: int64[contexts, alphabet] -> the same shape."""
    return tf.cumsum(frequencies, axis=1, exclusive=True)


def encode(
    contexts: tf.Tensor, tokens: tf.Tensor, frequencies: tf.Tensor, seeds: tf.Tensor
) -> Encoded:
    """Codes each token with the frequencies of its context.

    Args:
        contexts: int32[T], row of `frequencies` that each token is coded with.
        tokens: int32[T], columns of `frequencies`; their frequency must not be 0.
        frequencies: int64[contexts, alphabet], rows sum to 2**PRECISION.
        seeds: int64[lanes], `STATE_BITS` bits of data for each lane to carry.
    """
    lanes = tf.size(seeds)
    turns = tf.maximum((tf.size(tokens) + lanes - 1) // lanes, 1)
    index = contexts * tf.shape(frequencies)[1] + tokens
    # A state lets go of `most` bits, or of one less if it is below the frequency's multiple in
    # [2**STATE_BITS, 2**(STATE_BITS + 1)): of (state + room) >> (STATE_BITS + 1) bits.
    most = PRECISION + 1 - bitio.bit_length(frequencies)
    multiple = tf.bitwise.left_shift(frequencies, STATE_BITS - PRECISION + most)
    room = most * (2 * _ONE) - multiple

    def by_turn(table, padding):
        """Entries of all tokens, int32[turns, lanes]; a certain token changes no state."""
        found = tf.gather(tf.reshape(tf.cast(table, tf.int32), [-1]), index)
        found = tf.pad(found, [[0, turns * lanes - tf.size(found)]], constant_values=padding)
        return tf.reshape(found, [turns, lanes])

    frequency, start = by_turn(frequencies, _TOTAL), by_turn(starts_of(frequencies), 0)
    room = by_turn(room, -_ONE)

    def step(turn, state, states):
        f = frequency[turn]
        states = states.write(turn, state)
        state = tf.bitwise.right_shift(
            state, tf.bitwise.right_shift(state + room[turn], STATE_BITS + 1)
        )
        state += tf.truncatediv(state, f) * (_TOTAL - f) + start[turn]
        return turn - 1, state, states

    state = tf.cast(seeds, tf.int32) + _ONE
    states = tf.TensorArray(tf.int32, turns, element_shape=[None])
    _, state, states = tf.while_loop(lambda turn, *_: turn >= 0, step, [turns - 1, state, states])
    states = states.concat()
    lengths = tf.bitwise.right_shift(states + tf.reshape(room, [-1]), STATE_BITS + 1)
    values = tf.bitwise.bitwise_and(states, tf.bitwise.left_shift(1, lengths) - 1)
    fields = tf.cast(values, tf.int64), tf.cast(lengths, tf.int64)
    return Encoded(tf.cast(state - _ONE, tf.int64), fields)


def decode(
    contexts: tf.Tensor,
    frequencies: tf.Tensor,
    states: tf.Tensor,
    data: tf.Tensor,
    start: tf.Tensor,
) -> DecodedTokens:
    """Inverse of `encode`.

    Args:
        contexts: int32[T], as in `encode`.
        frequencies: as in `encode`.
        states: int64[lanes], below 2**STATE_BITS.
        data: uint8[...], where the bit fields are; what is read behind its end is zeros.
        start: int64 scalar, the first bit of the fields.
    """
    lanes = tf.size(states)
    turns = tf.maximum((tf.size(contexts) + lanes - 1) // lanes, 1)
    count = tf.shape(frequencies)[0]
    # One table row per slot: token, frequency and offset within the token, in one int64. A
    # context behind the last one holds one certain token, for the lanes without a last one.
    live = tf.where(frequencies > 0)
    first = live[:, 1] * 2**32 + tf.gather_nd(frequencies, live) * _TOTAL
    sizes = tf.concat([tf.gather_nd(frequencies, live), [_TOTAL]], 0)
    first = tf.concat([first, [_TOTAL * _TOTAL]], 0)
    table = tf.raw_ops.RaggedRange(
        starts=first, limits=first + sizes, deltas=tf.constant(1, tf.int64)
    ).rt_dense_values
    pad = [[0, turns * lanes - tf.size(contexts)]]
    base = tf.pad(contexts, pad, constant_values=count) * _TOTAL
    base = tf.reshape(base, [turns, lanes])
    windows = bitio.windows(data)
    last = tf.size(windows) - 1

    def step(turn, state, end, entries):
        slot = tf.bitwise.bitwise_and(state, _TOTAL - 1)
        entry = tf.gather(table, base[turn] + slot)
        low = tf.cast(entry, tf.int32)
        state = tf.bitwise.right_shift(low, PRECISION) * tf.bitwise.right_shift(state, PRECISION)
        state += tf.bitwise.bitwise_and(low, _TOTAL - 1)
        # States are exact as floats, whose exponents tell how many bits are missing.
        exponent = tf.bitwise.right_shift(
            tf.bitcast(tf.cast(state, tf.float32), tf.int32), _FLOAT_MANTISSA
        )
        missing = STATE_BITS + _FLOAT_BIAS - exponent
        ends = end + tf.cumsum(missing)
        window = tf.gather(windows, tf.minimum(tf.bitwise.right_shift(ends, 3), last))
        window = tf.bitwise.right_shift(window, 8 - tf.bitwise.bitwise_and(ends, 7))
        unit = tf.bitwise.left_shift(1, missing)
        state = state * unit + tf.bitwise.bitwise_and(window, unit - 1)
        return turn + 1, state, ends[-1], entries.write(turn, entry)

    entries = tf.TensorArray(tf.int64, turns, element_shape=[None])
    _, state, end, entries = tf.while_loop(
        lambda turn, *_: turn < turns,
        step,
        [0, tf.cast(states, tf.int32) + _ONE, tf.cast(start, tf.int32), entries],
    )
    tokens = tf.bitwise.right_shift(
        entries.concat()[: tf.size(contexts)], tf.constant(32, tf.int64)
    )
    seeds = tf.cast(state - _ONE, tf.int64)
    return DecodedTokens(tf.cast(tokens, tf.int32), seeds, tf.cast(end, tf.int64))
