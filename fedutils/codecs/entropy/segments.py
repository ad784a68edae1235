"""Integers in segments, each of which is identically distributed, to bits and back.

A sparse segment is coded by its nonzeros: the gap before each (geometric, with the segment's
own rate) and its value.  In a segment where most integers are nonzero, every integer is coded
by its value.  Values are modelled by histograms, which neighbouring segments share so that
each is worth its table.  Side information of the caller, tokens and flags, goes along.

    [gamma: head] [gamma: segments] [rice: histograms] [stream: tokens and raw bits]
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from fedutils.codecs.entropy import bitio, models, rans, stream, tokens
from fedutils.codecs.entropy.elias import gamma_fields, read_gamma
from fedutils.codecs.entropy.nonzeros import Nonzeros
from fedutils.codecs.entropy.rice import read_rice, rice_fields

MAX_SEGMENTS = 64
SIDE_ALPHABET = 2 * tokens.ALPHABET
_RICE = 2  # Parameter for differences of neighbouring histogram codes.
_LONGEST_QUOTIENT = (2 * models.LARGEST_CODE >> _RICE) + 1
_SYMBOLS_PER_HISTOGRAM, _MAX_HISTOGRAMS = 1024, 12


def bound_bits(m: int, side_tokens: int = 0, side_contexts: int = 0, flags: int = 0) -> int:
    """Most bits a payload of `m` integers can have, for `encode`.

    A token takes at most PRECISION bits.  If all integers are coded, each has one token and up
    to 30 raw bits; if not, at most half of them have two tokens and raw bits for both.
    """
    coded = (2 * rans.PRECISION + 31 + 30) * m // 2 + rans.PRECISION * side_tokens + flags
    lanes = stream.bound_bits(2 * m + side_tokens)
    table = (_MAX_HISTOGRAMS + side_contexts) * SIDE_ALPHABET * (_LONGEST_QUOTIENT + 1 + _RICE)
    return 8 * ((65 * (6 + 2 * MAX_SEGMENTS) + table + lanes + coded + coded // 50 + 7) // 8 + 1)


class Side(NamedTuple):
    """What a caller sends along.

    header: int64[H], `0 <= header < 2**32`, in gamma codes.
    contexts: int32 scalar, how many histograms the tokens have.
    context, token: int32[S] each, histogram and value (in [0, SIDE_ALPHABET)) of each token.
    flags: int64[F] of zeros and ones, at one bit each.
    """

    header: tf.Tensor
    contexts: tf.Tensor
    context: tf.Tensor
    token: tf.Tensor
    flags: tf.Tensor


class Opened(NamedTuple):
    """A payload whose tokens are decoded, before anything is known of the segments' sizes.

    header: int64[H], as in `Side`; empty if there is no side information.
    centre: as in the `Nonzeros` given to `encode`.
    counts: int64[C], integers coded in each segment.
    dense: int64 scalar, how many of the first segments have all their integers coded.
    side: int32[S], the side tokens.
    gaps, values: int64[...] of all sparse segments, int64[sum(counts)] of all segments.
    bits: the `stream.Decoded` behind them.
    flags: where the flags begin in the raw bits, int64 scalar.
    size: bytes of the payload, int64 scalar.
    ok: bool scalar.
    """

    header: tf.Tensor
    centre: tf.Tensor
    counts: tf.Tensor
    dense: tf.Tensor
    side: tf.Tensor
    gaps: tf.Tensor
    values: tf.Tensor
    bits: stream.Decoded
    flags: tf.Tensor
    size: tf.Tensor
    ok: tf.Tensor


def no_side() -> Side:
    """The side information of a caller who has none."""
    none, nothing = tf.zeros([0], tf.int32), tf.zeros([0], tf.int64)
    return Side(nothing, tf.constant(0), none, none, nothing)


def encode(nonzeros: Nonzeros, sizes: tf.Tensor, side: Side) -> tf.Tensor:
    """Codes integers.

    Args:
        nonzeros: of the integers, segment after segment; absolute values below 2**33, and a
            centre below 2**31, for the caller's use.
        sizes: int64[C], how many integers each segment has, C <= MAX_SEGMENTS.
        side: see `Side`.

    Returns:
        uint8[...].
    """
    positions, values, centre = nonzeros
    ends = tf.cumsum(sizes)
    events = _differences(tf.searchsorted(positions, ends, out_type=tf.int64))
    dense = tf.equal(tf.math.cumprod(tf.cast(2 * events >= sizes, tf.int32)), 1)
    split = tf.reduce_sum(tf.where(dense, sizes, 0))
    inside = tf.reduce_sum(tf.where(dense, events, 0))
    whole = tf.scatter_nd(positions[:inside, None], values[:inside], split[None])
    sparse = positions[inside:]
    values = tf.concat([whole, values[inside:]], 0)
    counts = tf.where(dense, sizes, events)
    rates = tf.where(dense, tf.zeros_like(sizes), models.rate_codes(events, sizes))
    used = tf.reduce_max(tf.concat([[-1], tf.where(counts > 0)[:, 0]], 0)) + 1
    counts, rates = counts[:used], rates[:used]

    segment = tf.searchsorted(ends, sparse, side="right")
    before = tf.concat([tf.constant([-1], tf.int64), sparse], 0)[:-1]
    gaps = sparse - tf.maximum(before, tf.gather(ends - sizes, segment) - 1) - 1
    gap_token, gap_raw, gap_size = tokens.tokenize(gaps)
    value_token, value_raw, value_size = tokens.tokenize(tf.abs(values))
    value_token *= tf.sign(values)
    some = tf.size(values) > 0
    lowest = tf.where(some, tf.reduce_min(value_token), 0)
    span = tf.where(some, tf.reduce_max(value_token) - lowest + 1, 0)
    side_span = tf.cast(tf.reduce_max(tf.concat([[-1], side.token], 0)) + 1, tf.int64)

    group, groups = _histogram_of(counts)
    value_token = tf.cast(value_token - lowest, tf.int32)
    value_group = tf.gather(group, _spread(counts))
    side_codes = models.histogram_codes(_counts(side.context, side.token, side.contexts, side_span))
    value_codes = models.histogram_codes(_counts(value_group, value_token, groups, span))
    longest = tf.reduce_sum(sizes)
    fields = [
        gamma_fields(
            tf.stack(
                [
                    tf.cast(tf.size(side.header) > 0, tf.int64),
                    used,
                    bitio.zigzag(centre),
                    bitio.zigzag(lowest),
                    span,
                    side_span,
                ]
            )
        ),
        gamma_fields(side.header),
        gamma_fields(tf.concat([counts, bitio.zigzag(_differences(rates))], 0)),
        rice_fields(
            tf.concat([_delta(side_codes), _delta(value_codes)], 0), tf.constant(_RICE, tf.int64)
        ),
        *stream.encode(
            _contexts(side, segment, value_group, tf.size(counts)),
            tf.concat([side.token, tf.cast(gap_token, tf.int32), value_token], 0),
            _frequencies(side_codes, rates, value_codes, longest),
            (
                tf.concat([gap_raw, value_raw, side.flags], 0),
                tf.concat([gap_size, value_size, tf.ones_like(side.flags)], 0),
            ),
        ),
    ]
    values, lengths = zip(*fields, strict=True)
    return bitio.write_bits(tf.concat(values, 0), tf.concat(lengths, 0))


def open_payload(
    data: tf.Tensor,
    longest: tf.Tensor,
    header_size: int = 0,
    side_of: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None,
) -> Opened:
    """Decodes all that does not depend on the segments' sizes.

    Args:
        data: uint8[...].
        longest: int64 scalar, no more integers than this can have been coded.
        header_size: how many numbers a header has, if there is one.
        side_of: gives (contexts, context), as in `Side`, from any int64[header_size] header.
    """
    size = tf.size(data, tf.int64)
    words = bitio.bytes_to_words(data)
    head, start, ok = read_gamma(words, tf.zeros([], tf.int64), tf.constant(6, tf.int64))
    mode, segments, centre, lowest, span, side_span = tf.unstack(head, num=6)
    centre, lowest = bitio.unzigzag(centre), bitio.unzigzag(lowest)
    ok &= (segments <= MAX_SEGMENTS) & (span <= SIDE_ALPHABET) & (side_span <= SIDE_ALPHABET)
    ok &= (mode <= 1) & (tf.abs(lowest) <= tokens.ALPHABET)
    mode, segments, span, side_span = tf.unstack(
        tf.stack([mode, segments, span, side_span]) * tf.cast(ok, tf.int64)
    )
    header, start, header_ok = read_gamma(words, start, header_size * mode)
    none = (tf.constant(0), tf.zeros([0], tf.int32))
    contexts, context = none
    if side_of is not None:
        contexts, context = tf.cond(mode > 0, lambda: side_of(header), lambda: none)
    numbers, start, numbers_ok = read_gamma(words, start, 2 * segments)
    counts, rates = numbers[:segments], tf.cumsum(bitio.unzigzag(numbers[segments:]))
    ok &= header_ok & numbers_ok & (tf.reduce_sum(counts) <= longest)
    counts *= tf.cast(ok, tf.int64)
    dense = tf.reduce_sum(tf.math.cumprod(tf.cast(tf.equal(rates, 0), tf.int64)))

    group, groups = _histogram_of(counts)
    shapes = [[tf.cast(contexts, tf.int64), side_span], [groups, span]]
    entries = [rows * columns for rows, columns in shapes]
    total = entries[0] + entries[1]
    deltas, start, deltas_ok = read_rice(
        words, start, total, tf.constant(_RICE, tf.int64), total * (_LONGEST_QUOTIENT + 1)
    )
    ok &= deltas_ok
    codes = [
        tf.cumsum(bitio.unzigzag(tf.reshape(part, shape)), axis=1)
        for part, shape in zip(tf.split(deltas, tf.stack(entries)), shapes, strict=True)
    ]
    segment = _spread(tf.where(tf.range(segments) < dense, tf.zeros_like(counts), counts))
    side = Side(header, contexts, context, context, header)
    bits = stream.decode(
        data,
        words,
        start,
        _contexts(side, segment, tf.gather(group, _spread(counts)), tf.cast(segments, tf.int32)),
        _frequencies(codes[0], rates, codes[1], longest),
    )
    sizes = tf.stack([tf.size(context), tf.size(segment), -1])
    side, gap_token, value_token = tf.split(bits.tokens, sizes, num=3)
    gap_token = tf.cast(gap_token, tf.int64)
    value_token = tf.cast(value_token, tf.int64) + lowest
    raw_sizes = tokens.raw_bits(tf.concat([gap_token, tf.abs(value_token)], 0))
    raw_starts = tf.cumsum(raw_sizes, exclusive=True)
    magnitudes = tokens.detokenize(
        tf.concat([gap_token, tf.abs(value_token)], 0),
        bitio.read_bits(bits.raw, raw_starts, tf.minimum(raw_sizes, 32)),
    )
    gaps, values = magnitudes[: tf.size(gap_token)], magnitudes[tf.size(gap_token) :]
    return Opened(
        header,
        centre,
        counts,
        dense,
        side,
        gaps,
        tf.sign(value_token) * values,
        bits,
        tf.reduce_sum(raw_sizes),
        size,
        ok & bits.ok,
    )


def positions(opened: Opened, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the values belong, once the segments' sizes are known.

    Args:
        opened: see `Opened`.
        sizes: int64[...], as in `encode`; behind the last nonzero there may be more segments.

    Returns:
        int64[sum(counts)] indices into the vector that `encode` was given, all in range, and
        whether they are sound.
    """
    ok = tf.size(sizes) >= tf.size(opened.counts)
    sizes = tf.pad(sizes, [[0, tf.maximum(tf.size(opened.counts) - tf.size(sizes), 0)]])
    sizes = sizes[: tf.size(opened.counts)]
    ends = tf.cumsum(sizes)
    is_dense = tf.range(tf.size(sizes, tf.int64)) < opened.dense
    ok &= tf.reduce_all(tf.where(is_dense, tf.equal(opened.counts, sizes), True))
    split = tf.reduce_sum(tf.where(is_dense, opened.counts, 0))
    counts = tf.where(is_dense, tf.zeros_like(sizes), opened.counts)
    segment = _spread(counts)
    steps = tf.concat([[0], tf.cumsum(opened.gaps + 1)], 0)
    behind = tf.gather(steps, tf.cumsum(counts, exclusive=True))
    sparse = steps[1:] - 1 + tf.gather(ends - sizes - behind, segment)
    ok &= tf.reduce_all((sparse >= 0) & (sparse < tf.gather(ends, segment)))
    found = tf.concat([tf.range(split), sparse], 0)
    last = tf.maximum(tf.reduce_sum(sizes) - 1, 0)
    return tf.clip_by_value(found, 0, last), ok


def read_flags(opened: Opened, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The `count` flags, int64[count], and whether the payload ends with them."""
    starts = opened.flags + tf.range(count)
    flags = bitio.read_bits(opened.bits.raw, starts, tf.constant(1, tf.int64))
    uncarried = tf.maximum(opened.flags + count - opened.bits.carried, 0)
    return flags, tf.equal((opened.bits.end + uncarried + 7) // 8, opened.size)


def _histogram_of(counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which histogram each segment's values have, int32[C], and how many there are.

    Histograms serve about equally many values each, so a rich segment has its own.
    """
    total = tf.reduce_sum(counts)
    groups = tf.clip_by_value(total // _SYMBOLS_PER_HISTOGRAM, 1, _MAX_HISTOGRAMS)
    middle = tf.cumsum(counts) - (counts + 1) // 2
    group = groups * middle // tf.maximum(total, 1)
    return tf.cast(tf.clip_by_value(group, 0, groups - 1), tf.int32), groups


def _contexts(side: Side, segment, value_group, segments) -> tf.Tensor:
    """Rows of `_frequencies` for side tokens, gaps and values."""
    gap, value = side.contexts + segment, side.contexts + segments + value_group
    return tf.concat([side.context, gap, value], 0)


def _frequencies(side_codes, rates, value_codes, longest) -> tf.Tensor:
    """Frequencies of all contexts: histograms of side tokens, gaps, histograms of values."""
    tables = [side_codes, value_codes]
    width = tf.maximum(tokens.ALPHABET, tf.reduce_max([tf.shape(t)[1] for t in tables]))
    side, values = (
        models.histogram(tf.pad(t, [[0, 0], [0, width - tf.shape(t)[1]]])) for t in tables
    )
    gaps = models.geometric(rates, longest)
    gaps = tf.pad(gaps, [[0, 0], [0, width - tokens.ALPHABET]])
    return tf.concat([side, gaps, values], 0)


def _counts(row: tf.Tensor, column: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """int64[rows, columns] histogram of pairs, int32[k] each."""
    rows, columns = tf.cast(rows, tf.int32), tf.cast(columns, tf.int32)
    ones = tf.ones_like(row, tf.int64)
    flat = tf.math.unsorted_segment_sum(ones, row * columns + column, rows * columns)
    return tf.reshape(flat, tf.stack([rows, columns]))


def _spread(counts: tf.Tensor) -> tf.Tensor:
    """Index i `counts[i]` times, for every i: int64[C] -> int32[sum(counts)]."""
    each = tf.range(tf.reduce_sum(counts))
    return tf.searchsorted(tf.cumsum(counts), each, side="right")


def _differences(x: tf.Tensor) -> tf.Tensor:
    """Each element minus the one before it (0 before the first), int64[k]."""
    return x - tf.concat([tf.zeros([1], tf.int64), x], 0)[:-1]


def _delta(codes: tf.Tensor) -> tf.Tensor:
    """Rows of histogram codes as zig-zag differences, int64[rows * columns]."""
    return tf.reshape(bitio.zigzag(codes - tf.pad(codes, [[0, 0], [1, 0]])[:, :-1]), [-1])
