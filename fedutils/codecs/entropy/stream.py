"""Modelled tokens together with raw bits, as bit fields and back.

    [log2 of lanes] [rANS states] [rANS bits] [raw bits that no lane carries]

The rANS lanes start from the first raw bits and hand them back after the last token.
"""

from typing import NamedTuple

import tensorflow as tf

from fedutils.codecs.entropy import bitio, rans

_LANES_BITS = 4  # There are 2**0 to 2**12 lanes.
_MOST_LANES_LOG2 = 12
_TURNS = 24  # With enough raw bits, a lane codes so many tokens to twice as many …
_TURNS_UNSEEDED = 1536  # … else so many: a lane that carries nothing costs its state.

Fields = tuple[tf.Tensor, tf.Tensor]
"""Values and lengths, int64[k] each, for `bitio.write_bits`."""


class Decoded(NamedTuple):
    """What `decode` finds.

    tokens: int32[T].
    raw: int64[...] words that start with the raw bits.
    carried: how many raw bits the lanes carried, int64 scalar.
    end: first bit behind the rANS bits, where the raw bits go on, int64 scalar.
    ok: bool scalar.
    """

    tokens: tf.Tensor
    raw: tf.Tensor
    carried: tf.Tensor
    end: tf.Tensor
    ok: tf.Tensor


def bound_bits(tokens: int) -> int:
    """Most bits that `tokens` tokens take besides their own (at most PRECISION each)."""
    return _LANES_BITS + rans.STATE_BITS * (tokens // _TURNS_UNSEEDED + 1)


def encode(
    contexts: tf.Tensor, tokens: tf.Tensor, frequencies: tf.Tensor, raw: Fields
) -> list[Fields]:
    """Fields of tokens (see `rans.encode`) and raw bits, to be written one after the other."""
    count = tf.size(tokens, tf.int64)
    raw_words, raw_total = bitio.write_words(*raw)
    most = tf.minimum(count // _TURNS, raw_total // rans.STATE_BITS)
    most = tf.maximum(most, count // _TURNS_UNSEEDED)
    log2_lanes = tf.clip_by_value(bitio.bit_length(most) - 1, 0, _MOST_LANES_LOG2)
    lanes = tf.bitwise.left_shift(_i64(1), log2_lanes)
    seeds = bitio.read_bits(raw_words, rans.STATE_BITS * tf.range(lanes), _i64(rans.STATE_BITS))
    found = rans.encode(contexts, tokens, frequencies, seeds)
    # Without tokens there is no lane to carry anything.
    states = found.states[: tf.minimum(lanes, count)]
    starts, sizes = _chunks(rans.STATE_BITS * tf.size(states, tf.int64), raw_total)
    return [
        (log2_lanes[None], _i64(_LANES_BITS)[None]),
        (states, tf.fill(tf.shape(states), _i64(rans.STATE_BITS))),
        found.fields,
        (bitio.read_bits(raw_words, starts, sizes), sizes),
    ]


def decode(
    data: tf.Tensor,
    words: tf.Tensor,
    start: tf.Tensor,
    contexts: tf.Tensor,
    frequencies: tf.Tensor,
) -> Decoded:
    """Inverse of `encode`.

    Args:
        data: uint8[...], the payload.
        words: int64[w], its `bitio.bytes_to_words`.
        start: int64 scalar, the first bit of the fields.
        contexts, frequencies: as in `encode`.
    """
    count, total = tf.size(contexts, tf.int64), 8 * tf.size(data, tf.int64)
    log2_lanes = bitio.read_bits(words, start[None], _i64(_LANES_BITS))[0]
    start += _LANES_BITS
    # More lanes than tokens is nothing that `encode` makes; they would take memory.
    lanes = tf.bitwise.left_shift(_i64(1), tf.minimum(log2_lanes, _MOST_LANES_LOG2))
    ok = (log2_lanes <= _MOST_LANES_LOG2) & (lanes <= tf.maximum(count, 1))
    lanes = tf.where(ok, lanes, 1)
    states = bitio.read_bits(
        words, start + rans.STATE_BITS * tf.range(lanes), _i64(rans.STATE_BITS)
    )
    written = tf.minimum(lanes, count)
    start += rans.STATE_BITS * written
    found = rans.decode(contexts, frequencies, states, data, start)
    starts, sizes = _chunks(found.end, total)
    raw, _ = bitio.write_words(
        tf.concat([found.seeds[:written], bitio.read_bits(words, starts, sizes)], 0),
        tf.concat([tf.fill([written], _i64(rans.STATE_BITS)), sizes], 0),
    )
    return Decoded(
        found.tokens, raw, rans.STATE_BITS * written, found.end, ok & (found.end <= total)
    )


def _chunks(start: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Starts and sizes of the 32-bit pieces, the last one shorter, of the bits [start, end)."""
    starts = start + 32 * tf.range((tf.maximum(end - start, 0) + 31) // 32)
    return starts, tf.minimum(end - starts, 32)


def _i64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)
