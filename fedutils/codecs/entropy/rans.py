"""Interleaved rANS: many lanes of a range asymmetric numeral system in lock step.

Source: J. Duda, "Asymmetric numeral systems" (arXiv:1311.2540), section 2.2 (range variant);
F. Giesen, "Interleaved entropy coders" (arXiv:1402.3392), section 3, for lanes that share one
stream of words.

Token `t` belongs to lane `t % lanes` and is coded in turn `t // lanes`, so a vector of T tokens
takes `T / lanes` turns of a `tf.while_loop`.  A lane's state stays in [2**20, 2**36) and leaves
16 bits at a time.  A lane starts from 20 bits of data that have to be sent raw anyway and gives
them back when it has decoded everything, so the only cost of a lane is that its final state is
written with 36 bits, about 8 more than it holds.
"""

from typing import NamedTuple

import tensorflow as tf

PRECISION = 13  # Frequencies of a context sum to 2**PRECISION.
SEED_BITS = 20
STATE_BITS = 36
WORD_BITS = 16
_TOTAL = 1 << PRECISION


class Encoded(NamedTuple):
    """Final states, int64[lanes], and 16-bit words in the order of reading, int64[w]."""

    states: tf.Tensor
    words: tf.Tensor


class DecodedTokens(NamedTuple):
    """Tokens int32[T], the lanes' seeds int64[lanes], words read (int64 scalar), ok (bool)."""

    tokens: tf.Tensor
    seeds: tf.Tensor
    used: tf.Tensor
    ok: tf.Tensor


def lanes_for(tokens: tf.Tensor) -> tf.Tensor:
    """How many lanes `tokens` (int64 scalar) take: about 1000 turns, up to 800 lanes.

    Fewer turns are faster, fewer lanes are smaller; this keeps lanes below about 1 % of a
    payload that spends a bit or more on a token.
    """
    return tf.clip_by_value((tokens + 1023) // 1024, 1, 800)


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
        seeds: int64[lanes], `SEED_BITS` bits of data for each lane to carry.
    """
    lanes = tf.size(seeds)
    turns = tf.maximum((tf.size(tokens) + lanes - 1) // lanes, 1)
    index = contexts * tf.shape(frequencies)[1] + tokens
    pad = [[0, turns * lanes - tf.size(tokens)]]
    shape = [turns, lanes]
    frequency = tf.gather(tf.reshape(frequencies, [-1]), index)
    start = tf.gather(tf.reshape(starts_of(frequencies), [-1]), index)
    # A certain token leaves the state as it is.
    frequency = tf.reshape(tf.pad(frequency, pad, constant_values=_TOTAL), shape)
    start = tf.reshape(tf.pad(start, pad), shape)

    def step(turn, state, words):
        f = frequency[turn]
        full = state >= tf.bitwise.left_shift(f, _i64(STATE_BITS - PRECISION))
        word = tf.where(full, tf.bitwise.bitwise_and(state, 0xFFFF), -1)
        state = tf.where(full, tf.bitwise.right_shift(state, _i64(WORD_BITS)), state)
        quotient = tf.truncatediv(state, f)
        state += quotient * (_TOTAL - f) + start[turn]
        return turn - 1, state, words.write(turn, tf.cast(word, tf.int32))

    state = tf.cast(seeds, tf.int64) + (1 << SEED_BITS)
    words = tf.TensorArray(tf.int32, turns, element_shape=[None])
    _, state, words = tf.while_loop(lambda turn, *_: turn >= 0, step, [turns - 1, state, words])
    words = words.concat()
    return Encoded(state, tf.cast(tf.boolean_mask(words, words >= 0), tf.int64))


def decode(
    contexts: tf.Tensor, frequencies: tf.Tensor, states: tf.Tensor, words: tf.Tensor
) -> DecodedTokens:
    """Inverse of `encode`.

    Args:
        contexts: int32[T], as in `encode`.
        frequencies: as in `encode`.
        states: int64[lanes], below 2**STATE_BITS.
        words: int64[w], the words and possibly more behind them.
    """
    lanes = tf.size(states)
    turns = tf.maximum((tf.size(contexts) + lanes - 1) // lanes, 1)
    count, alphabet = tf.unstack(tf.shape(frequencies, tf.int64))
    # One table row per slot: token, frequency and offset within the token, in one int64.
    # Only what is live takes slots, so counting the starts up to a slot gives its entry.
    live = tf.where(tf.reshape(frequencies, [-1]) > 0)[:, 0]
    row, token = live // alphabet, live % alphabet
    start = tf.gather(tf.reshape(starts_of(frequencies), [-1]), live)
    entry = token * 2**40 + tf.gather(tf.reshape(frequencies, [-1]), live) * 2**20 - start
    ones = tf.ones_like(start, tf.int32)
    marks = tf.math.unsorted_segment_sum(ones, row * _TOTAL + start, count * _TOTAL)
    slot = tf.tile(tf.range(_TOTAL, dtype=tf.int64), [count])
    table = tf.gather(entry, tf.cumsum(marks) - 1) + slot
    # A context behind the last one holds one certain token, for the lanes without a last one.
    table = tf.concat([table, _TOTAL * 2**20 + tf.range(_TOTAL, dtype=tf.int64)], 0)
    pad = [[0, turns * lanes - tf.size(contexts)]]
    base = tf.reshape(tf.pad(contexts, pad, constant_values=0), [turns, lanes]) * _TOTAL
    last = tf.range(turns * lanes) >= tf.size(contexts)
    base = tf.where(tf.reshape(last, [turns, lanes]), tf.cast(count, tf.int32) * _TOTAL, base)
    padded = tf.pad(words, [[1, 1]])  # Word i is at i + 1, as `order` counts from 1.
    end = tf.size(words)

    def step(turn, state, used, tokens):
        slot = tf.cast(tf.bitwise.bitwise_and(state, _TOTAL - 1), tf.int32)
        entry = tf.gather(table, base[turn] + slot)
        f = tf.bitwise.bitwise_and(tf.bitwise.right_shift(entry, _i64(20)), 0xFFFFF)
        state = f * tf.bitwise.right_shift(state, _i64(PRECISION))
        state += tf.bitwise.bitwise_and(entry, 0xFFFFF)
        low = state < (1 << SEED_BITS)
        order = tf.cumsum(tf.cast(low, tf.int32))
        word = tf.gather(padded, tf.minimum(used + order, end + 1))
        state = tf.where(low, tf.bitwise.left_shift(state, _i64(WORD_BITS)) + word, state)
        token = tf.cast(tf.bitwise.right_shift(entry, _i64(40)), tf.int32)
        return turn + 1, state, used + order[-1], tokens.write(turn, token)

    tokens = tf.TensorArray(tf.int32, turns, element_shape=[None])
    _, state, used, tokens = tf.while_loop(
        lambda turn, *_: turn < turns, step, [0, states, 0, tokens]
    )
    seeds = state - (1 << SEED_BITS)
    ok = tf.reduce_all((seeds >= 0) & (seeds < (1 << SEED_BITS))) & (used <= end)
    return DecodedTokens(tokens.concat()[: tf.size(contexts)], seeds, tf.cast(used, tf.int64), ok)


def _i64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)
