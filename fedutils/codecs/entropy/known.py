"""Sparse symbols in classes whose relative rates both sides know: little else need be said.

The number of nonzeros is sent as it is; how many fall into each class is close to what its rate
foretells, so the difference is coded; and these counts settle the parameters of the Rice codes of
the gaps.  All of it is integer arithmetic, so that both sides get the same parameters.

    [nonzeros, centre, large ones, sizes' parameter] [counts of classes] [gaps] [large ones] [signs]
"""

import tensorflow as tf

from fedutils.codecs.entropy import bitio
from fedutils.codecs.entropy.elias import gamma_fields, read_gamma
from fedutils.codecs.entropy.nonzeros import Nonzeros
from fedutils.codecs.entropy.rice import best_parameter, read_rice, rice_fields

_HALF_OCTAVES = [round(2 ** (20 - i / 2)) for i in range(41)]
_HEADER = 4


def bound_bits(m: int, classes: int) -> int:
    """Most bits a payload of `m` symbols can have in at most so many classes."""
    # Gaps of n nonzeros among s symbols take n (1 + k) bits and (s - n) / 2**k quotients at most,
    # and n < 0.97 s / 2**(k - 1) unless k is 0: never 3/2 s bits in all; nor do those of the large
    # ones. An excess, below 2**32, takes 1 + 32 bits and 2 of quotients; a sign, 1. Counts and
    # their expectations both sum to m, give or take 1/2 a class: their differences, zigzag, to 4 m
    # of quotients, and 1 + 16 bits each. No number of the header takes more than 65 bits.
    return 8 * ((66 * (_HEADER + classes) + (2 + 2 + 35 + 1 + 4) * m + 7) // 8)


def encode(nonzeros: Nonzeros, classes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Codes symbols.

    Args:
        nonzeros: of the symbols, class after class; values below 2**33 in magnitude.
        classes: int64[c], the rate of each class, in half octaves below some rate.
        sizes: int64[c], how many symbols each class has.

    Returns:
        uint8[...].
    """
    values, lengths = zip(*fields(nonzeros, classes, sizes).values(), strict=True)
    return bitio.write_bits(tf.concat(values, 0), tf.concat(lengths, 0))


def fields(
    nonzeros: Nonzeros, classes: tf.Tensor, sizes: tf.Tensor
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """What `encode` writes, by what it tells: values and lengths in bits, int64[...] each."""
    positions, values, centre = nonzeros
    total, ends = tf.size(positions, tf.int64), tf.cumsum(sizes)
    through = tf.searchsorted(positions, ends, out_type=tf.int64)
    counts = through - tf.concat([[_i64(0)], through[:-1]], 0)
    expected = _expected(total, classes, sizes)
    gaps = _gaps(positions, ends - sizes, counts)
    large = tf.where(tf.abs(values) > 1)[:, 0]
    excess = tf.abs(tf.gather(values, large)) - 2
    many = tf.size(large, tf.int64)
    k_excess = best_parameter(excess)
    header = tf.stack([total, bitio.zigzag(centre), many, k_excess])
    signs = tf.cast(values < 0, tf.int64)
    k_count, k_gap = _count_parameter(expected), _gap_parameters(counts, sizes)
    skips = _gaps(large, _i64([0]), many[None])
    return {
        "header": gamma_fields(header),
        "class counts": rice_fields(bitio.zigzag(counts - expected), k_count),
        "gaps": rice_fields(gaps, k_gap),
        "large ones": rice_fields(skips, _gap_parameters(many[None], total[None])),
        "excess": rice_fields(excess, k_excess),
        "signs": (signs, tf.ones_like(signs)),
    }


def decode(data: tf.Tensor, classes: tf.Tensor, sizes: tf.Tensor) -> tuple[Nonzeros, tf.Tensor]:
    """Inverse of `encode`: the nonzeros, their positions in range whatever data holds, and ok."""
    m = tf.reduce_sum(sizes)
    words, start = bitio.bytes_to_words(data), _i64(0)
    header, start, ok = read_gamma(words, start, _i64(_HEADER))
    ok &= (header[0] <= m) & (header[2] <= header[0]) & (header[3] <= 32)
    total, centre, many, k_excess = tf.unstack(header * tf.cast(ok, tf.int64), num=_HEADER)
    expected = _expected(total, classes, sizes)
    live, limit = tf.size(sizes, tf.int64), 2 * total + 64
    steps, start, counts_ok = read_rice(
        words, start, live, _count_parameter(expected), live + 2 * limit
    )
    counts = expected + bitio.unzigzag(steps)
    ok &= counts_ok & tf.reduce_all((counts >= 0) & (counts <= sizes))
    ok &= tf.equal(tf.reduce_sum(counts), total)
    counts, total, many = (x * tf.cast(ok, tf.int64) for x in (counts, total, many))
    gaps, start, gaps_ok = read_rice(
        words, start, total, _gap_parameters(counts, sizes), 5 * total + 64
    )
    skips, start, skips_ok = read_rice(
        words, start, many, _gap_parameters(many[None], total[None]), 5 * many + 64
    )
    excess, start, excess_ok = read_rice(words, start, many, k_excess, 3 * many + 64)
    negative = bitio.read_bits(words, start + tf.range(total), _i64(1))
    ok &= gaps_ok & skips_ok & excess_ok
    ok &= tf.equal((start + total + 7) // 8, tf.size(data, tf.int64))

    positions, inside = _positions(gaps, tf.cumsum(sizes) - sizes, counts, sizes)
    large, large_inside = _positions(skips, _i64([0]), many[None], total[None])
    larger = tf.math.unsorted_segment_sum(excess + 1, large, total)
    values = (1 - 2 * negative) * (1 + larger)
    ok &= inside & large_inside
    return Nonzeros(positions, values, bitio.unzigzag(centre)), ok


def _expected(total: tf.Tensor, classes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """How many of the nonzeros each class is expected to have, int64[c]."""
    weights = sizes * tf.gather(_i64(_HALF_OCTAVES), tf.minimum(classes, len(_HALF_OCTAVES) - 1))
    # Their first 31 bits, so that products with the total fit.
    excess = tf.maximum(bitio.bit_length(tf.reduce_sum(weights)) - 31, 0)
    weights = tf.bitwise.right_shift(weights, excess)
    whole = tf.maximum(tf.reduce_sum(weights), 1)
    return tf.minimum((total * weights + whole // 2) // whole, sizes)


def _count_parameter(expected: tf.Tensor) -> tf.Tensor:
    """The Rice parameter of a count's difference from expectation, which is about its root."""
    return bitio.bit_length(expected) // 2


def _gap_parameters(counts: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Rice parameters of gaps, one for each nonzero: int64[c] twice -> int64[sum(counts)].

    Gaps are geometric; the best parameter for rate p is 1 + floor(log2(0.4812 / p)), see A.
    Kiely, "Selecting the Golomb parameter in Rice coding" (IPN Progress Report 42-159, 2004).
    """
    parameter = bitio.bit_length(sizes * 493 // tf.maximum(1024 * counts, 1))
    return tf.repeat(tf.minimum(parameter, 32), counts)


def _gaps(positions: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """How many symbols lie between each nonzero and the one before, or its class's start."""
    before = tf.concat([[_i64(-1)], positions], 0)[:-1]
    return positions - tf.maximum(before, tf.repeat(starts, counts) - 1) - 1


def _positions(
    gaps: tf.Tensor, starts: tf.Tensor, counts: tf.Tensor, sizes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Inverse of `_gaps`, and whether all positions are inside; all others become the start."""
    steps = tf.concat([[_i64(0)], tf.cumsum(gaps + 1)], 0)
    behind = tf.gather(steps, tf.cumsum(counts, exclusive=True))
    offsets = steps[1:] - 1 - tf.repeat(behind, counts)
    inside = (offsets >= 0) & (offsets < tf.repeat(sizes, counts))
    return tf.repeat(starts, counts) + tf.where(inside, offsets, 0), tf.reduce_all(inside)


def _i64(value) -> tf.Tensor:
    return tf.constant(value, tf.int64)
