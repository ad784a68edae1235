"""Huffman codes with their table inside the payload.

Source: D. Huffman, "A method for the construction of minimum-redundancy codes" (Proc. IRE 40,
1952).  Codes are canonical: sorted by length, each is the sum of the intervals before it, so the
lengths are the table, and looking a code up is a search in sorted numbers.

The symbols are cut into lanes of about 1000, whose first bits are sent, so that all lanes are
decoded at the same time.
"""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import bitio
from fedutils.codecs.entropy.elias import gamma_fields, read_gamma
from fedutils.codecs.entropy.packing import FixedWidth

_WIDEST = 1 << 16  # Symbols of a wider range are packed.
_SHARES = 1 << 20  # Weights are rounded to this resolution, so no code has more than 31 bits.
_LANE = 1024


def code_lengths(counts: tf.Tensor) -> tf.Tensor:
    """Lengths of an optimal prefix code.

    Huffman's algorithm joins the two lightest nodes again and again.  As no new node is lighter
    than the first pair, all nodes no heavier than that pair can be joined in one go; the
    lightest weight doubles every other time, so about 2 log2(sum(counts)) turns are enough.

    Args:
        counts: int64[a], positive.

    Returns:
        int64[a]; one symbol alone has length 0.
    """

    def join(weights, node, lengths):
        pairs = tf.math.count_nonzero(weights <= weights[0] + weights[1]) // 2
        joined = tf.reduce_sum(tf.reshape(weights[: 2 * pairs], [-1, 2]), 1)
        merged = tf.concat([joined, weights[2 * pairs :]], 0)
        order = tf.argsort(merged, stable=True)
        lengths += tf.cast(node < 2 * pairs, tf.int64)
        node = tf.where(node < 2 * pairs, node // 2, node - pairs)
        return tf.gather(merged, order), tf.gather(_inverse(order), node), lengths

    order = tf.argsort(counts, stable=True)
    return tf.while_loop(
        lambda weights, *_: tf.size(weights) > 1,
        join,
        [tf.gather(counts, order), _inverse(order), tf.zeros_like(counts)],
        shape_invariants=[tf.TensorShape([None])] * 3,
    )[2]


def _inverse(order: tf.Tensor) -> tf.Tensor:
    """The inverse of a permutation, int64[a]."""
    size = tf.size(order)
    return tf.math.unsorted_segment_sum(tf.range(tf.cast(size, tf.int64)), order, size)


def _canonical(lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Symbols by code, their codes as the top of 32 bits, and the sum of all intervals."""
    order = tf.argsort(lengths, stable=True)
    intervals = tf.bitwise.left_shift(tf.ones_like(lengths), 32 - tf.gather(lengths, order))
    return order, tf.cumsum(intervals, exclusive=True), tf.reduce_sum(intervals)


@dataclasses.dataclass(frozen=True)
class Huffman:
    """Huffman codes, or fixed-width packing where that is no larger."""

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return 8 + FixedWidth().bound_bits(m)

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""

        wide = tf.cast(symbols, tf.int64)
        size = tf.size(symbols)
        usable = (size > 0) & (tf.reduce_max(wide) - tf.reduce_min(wide) < _WIDEST)
        # One zero stands in for symbols that are to be packed: a loop inside of a cond that is
        # itself inside of another one is more than TFF's graph optimizer bears.
        given = tf.concat([wide, [0]], 0)
        data = _encode(tf.cond(usable, lambda: given[:size], lambda: given[size:]))
        smaller = tf.size(data, tf.int64) < 1 + FixedWidth().payload_bytes(symbols)
        return tf.cond(
            usable & smaller,
            lambda: data,
            lambda: tf.concat([tf.zeros([1], tf.uint8), FixedWidth().encode(symbols)], 0),
        )

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        m = tf.cast(m, tf.int64)
        fixed = tf.reduce_all(tf.equal(data[:1], 0))
        coded = _decode(data, tf.where(fixed, tf.zeros_like(m), m))
        return tf.cond(fixed, lambda: FixedWidth().decode(data[1:], m), lambda: coded)


def _lane_shape(m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """How many lanes m symbols have, and how many symbols a lane has."""
    lanes = tf.maximum((m + _LANE - 1) // _LANE, 1)
    return lanes, tf.maximum((m + lanes - 1) // lanes, 1)


def _encode(symbols: tf.Tensor) -> tf.Tensor:
    """The Huffman payload of int64[m], m > 0; its first byte is 1."""
    m, low = tf.size(symbols, tf.int64), tf.reduce_min(symbols)
    span = tf.reduce_max(symbols) - low + 1
    counts = tf.math.unsorted_segment_sum(tf.ones_like(symbols), symbols - low, span)
    present = tf.where(counts > 0)[:, 0]
    counts = tf.maximum(tf.gather(counts, present) * _SHARES // m, 1)
    lengths = code_lengths(counts)
    order, codes, _ = _canonical(lengths)
    codes = tf.gather(codes, _inverse(order))
    codes = tf.bitwise.right_shift(codes, 32 - lengths)

    # One table for both: a code and its length.
    table = tf.math.unsorted_segment_sum(codes * 64 + lengths, present, span)
    entries = tf.gather(table, symbols - low)
    sizes = entries % 64
    lanes, lane = _lane_shape(m)
    lane_sizes = tf.reduce_sum(tf.reshape(tf.pad(sizes, [[0, lanes * lane - m]]), [lanes, -1]), 1)
    # The last lane ends where the payload does.
    lane_sizes = lane_sizes[:-1]
    some = lanes > 1
    least = tf.where(some, tf.reduce_min(lane_sizes), 0)
    width = tf.where(some, bitio.bit_length(tf.reduce_max(lane_sizes) - least), 0)
    head = tf.stack([tf.size(present, tf.int64), bitio.zigzag(low), least, width])
    fields = [
        (tf.ones([1], tf.int64), tf.fill([1], tf.constant(8, tf.int64))),
        gamma_fields(head),
        gamma_fields(tf.concat([present[1:] - present[:-1] - 1, _zigzag_steps(lengths)], 0)),
        (lane_sizes - least, tf.fill(tf.shape(lane_sizes), width)),
        (entries // 64, sizes),
    ]
    values, field_sizes = zip(*fields, strict=True)
    return bitio.write_bits(tf.concat(values, 0), tf.concat(field_sizes, 0))


def _zigzag_steps(lengths: tf.Tensor) -> tf.Tensor:
    return bitio.zigzag(lengths - tf.concat([tf.zeros([1], tf.int64), lengths], 0)[:-1])


def _decode(data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Inverse of `_encode`, with whether the payload is sound."""
    size = 8 * tf.size(data, tf.int64)
    limit = Huffman().bound_bits(m)
    words = bitio.bytes_to_words(data[: limit // 8])
    ok = (m > 0) & (size <= limit) & tf.reduce_all(tf.equal(data[:1], 1))
    head, start, head_ok = read_gamma(words, tf.constant(8, tf.int64), tf.constant(4, tf.int64))
    ok &= head_ok & (head[0] >= 1) & (head[0] <= tf.minimum(m, _WIDEST)) & (head[3] <= 32)
    alphabet, low, least, width = tf.unstack(tf.where(ok, head, [1, 0, 0, 0]))
    table, start, table_ok = read_gamma(words, start, 2 * alphabet - 1)
    gaps, steps = table[: alphabet - 1], table[alphabet - 1 :]
    symbols = bitio.unzigzag(low) + tf.concat([[0], tf.cumsum(gaps + 1)], 0)
    lengths = tf.cumsum(bitio.unzigzag(steps))
    ok &= table_ok & tf.reduce_all((lengths >= 0) & (lengths <= 32))
    lengths = tf.clip_by_value(lengths, 0, 32)
    order, codes, total = _canonical(lengths)
    ok &= tf.equal(total, 1 << 32)

    m_ok = tf.where(ok, m, 0)
    lanes, lane = _lane_shape(m_ok)
    index = tf.range(lanes)
    sizes = least + bitio.read_bits(words, start + width * index[:-1], width)
    starts = start + width * (lanes - 1) + tf.concat([[0], tf.cumsum(sizes)], 0)
    lengths, symbols = tf.gather(lengths, order), tf.gather(symbols, order)
    span = tf.constant(32, tf.int64)

    def step(turn, at, found):
        code = tf.searchsorted(codes, bitio.read_bits(words, at, span), side="right") - 1
        used = tf.where(index * lane + turn < m_ok, tf.gather(lengths, code), 0)
        return turn + 1, at + used, found.write(tf.cast(turn, tf.int32), code)

    found = tf.TensorArray(tf.int32, tf.cast(lane, tf.int32), element_shape=[None])
    _, ends, found = tf.while_loop(
        lambda turn, *_: turn < lane, step, [tf.constant(0, tf.int64), starts, found]
    )
    rank = tf.reshape(tf.transpose(found.stack()), [-1])[:m_ok]
    ok &= tf.reduce_all(tf.equal(ends[:-1], starts[1:])) & tf.equal((ends[-1] + 7) // 8, size // 8)
    symbols = tf.gather(symbols, rank)
    narrow = tf.cast(symbols, tf.int32)
    ok &= tf.reduce_all(tf.equal(tf.cast(narrow, tf.int64), symbols))
    return tf.pad(narrow * tf.cast(ok, tf.int32), [[0, m - m_ok]]), ok
