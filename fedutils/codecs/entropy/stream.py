"""Modelled tokens together with raw bits, as bit fields and back.

    [rANS states] [rANS words] [raw bits that no lane carries]

The rANS lanes start from the first raw bits and hand them back after the last token.
"""

from typing import NamedTuple

import tensorflow as tf

from fedutils.codecs.entropy import bitio, rans

_HALF = rans.STATE_BITS // 2  # A state does not fit into one field.

Fields = tuple[tf.Tensor, tf.Tensor]
"""Values and lengths, int64[k] each, for `bitio.write_bits`."""


class Decoded(NamedTuple):
    """What `decode` finds.

    tokens: int32[T].
    raw: int64[...] words that start with the raw bits.
    carried: how many raw bits the lanes carried, int64 scalar.
    end: first bit behind the words, where the raw bits go on, int64 scalar.
    ok: bool scalar.
    """

    tokens: tf.Tensor
    raw: tf.Tensor
    carried: tf.Tensor
    end: tf.Tensor
    ok: tf.Tensor


def encode(
    contexts: tf.Tensor, tokens: tf.Tensor, frequencies: tf.Tensor, raw: Fields
) -> list[Fields]:
    """Fields of tokens (see `rans.encode`) and raw bits, to be written one after the other."""
    count = tf.size(tokens, tf.int64)
    lanes = rans.lanes_for(count)
    raw_words, raw_total = bitio.write_words(*raw)
    seeds = bitio.read_bits(raw_words, rans.SEED_BITS * tf.range(lanes), _i64(rans.SEED_BITS))
    states, words = rans.encode(contexts, tokens, frequencies, seeds)
    # Without tokens there is no lane to carry anything.
    lanes = tf.minimum(lanes, count)
    halves = tf.stack([states // 2**_HALF, states % 2**_HALF], 1)[:lanes]
    starts, sizes = _chunks(rans.SEED_BITS * lanes, raw_total)
    return [
        (tf.reshape(halves, [-1]), tf.fill([2 * lanes], _i64(_HALF))),
        (words, tf.fill(tf.shape(words), _i64(rans.WORD_BITS))),
        (bitio.read_bits(raw_words, starts, sizes), sizes),
    ]


def decode(
    words: tf.Tensor,
    start: tf.Tensor,
    total: tf.Tensor,
    contexts: tf.Tensor,
    frequencies: tf.Tensor,
) -> Decoded:
    """Inverse of `encode`.

    Args:
        words: int64[w], the payload.
        start: int64 scalar, the first bit of the fields.
        total: int64 scalar, bits of the payload.
        contexts, frequencies: as in `encode`.
    """
    count = tf.size(contexts, tf.int64)
    lanes = rans.lanes_for(count)
    written = tf.minimum(lanes, count)
    halves = bitio.read_bits(words, start + _HALF * tf.range(2 * lanes), _i64(_HALF))
    states = halves[::2] * 2**_HALF + halves[1::2]
    states = tf.where(tf.range(lanes) < written, states, 1 << rans.SEED_BITS)
    start += rans.STATE_BITS * written
    available = tf.maximum(total - start, 0) // rans.WORD_BITS
    word_starts = start + rans.WORD_BITS * tf.range(available)
    found = rans.decode(
        contexts, frequencies, states, bitio.read_bits(words, word_starts, _i64(rans.WORD_BITS))
    )
    end = start + rans.WORD_BITS * found.used
    starts, sizes = _chunks(end, total)
    seeds = tf.bitwise.bitwise_and(found.seeds[:written], (1 << rans.SEED_BITS) - 1)
    raw, _ = bitio.write_words(
        tf.concat([seeds, bitio.read_bits(words, starts, sizes)], 0),
        tf.concat([tf.fill([written], _i64(rans.SEED_BITS)), sizes], 0),
    )
    ok = found.ok & (end <= total)
    return Decoded(found.tokens, raw, rans.SEED_BITS * written, end, ok)


def _chunks(start: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Starts and sizes of the 32-bit pieces, the last one shorter, of the bits [start, end)."""
    starts = start + 32 * tf.range((tf.maximum(end - start, 0) + 31) // 32)
    return starts, tf.minimum(end - starts, 32)


def _i64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)
