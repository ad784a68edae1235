"""Symbols of a model's variables, modelled by the row and the column they are in.

Updates of neural networks are close to low rank: whole rows (inputs) and columns (units) are
quiet or busy together, and a column's symbols tend to have one sign, that of its unit's error.
So rows and columns get a level, their mean magnitude in half octaves, as side information; the
levels of a symbol's row and column add up to its class (`lines`), and `segments` codes class
after class.  Columns may also tell their more frequent sign, which then flips their symbols.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import tensorflow as tf

from fedutils.codecs.entropy import bitio, lines, segments
from fedutils.codecs.entropy.lines import LEVELS, Lines, Where
from fedutils.codecs.entropy.nonzeros import NonzeroCoder, Nonzeros, ascending, symbols_of

# Half octaves between levels; the first is one level for all, the second one for all lines that
# have a nonzero.
_STEPS = (0, 0, 8, 4, 2, 1)
_OWN_HISTOGRAM = 256  # Lists of fewer lines share one histogram of levels.
_MOST_OCTAVES = 32


class Model(NamedTuple):
    """What is sent of the lines.

    choice, base: int64[2V], each list's index in _STEPS and half octaves of its level 1.
    signed: int64[V], 1 if the variable's columns tell their sign.
    level: int64[E], of each line.
    sign: int64[E], 1 or -1, of each line (1 for rows).
    """

    choice: tf.Tensor
    base: tf.Tensor
    signed: tf.Tensor
    level: tf.Tensor
    sign: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Context(NonzeroCoder):
    """rANS with row and column contexts.

    shapes: of the variables that lie one after the other in the vector.

    A list of levels is only as fine as it pays for.  Where nothing is gained, and for vectors of
    another length, this is `Ans`.
    """

    shapes: tuple[tuple[int, ...], ...]

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        layout = lines.layout_of(self.shapes)
        count, lists = len(layout.line_list), len(layout.list_lines)
        return segments.bound_bits(m, count, lists, count) + 8 * 25 * lists

    def encode_nonzeros(self, nonzeros, m):
        """See `NonzeroCoder`."""
        layout = lines.layout_of(self.shapes)

        def plain():
            return nonzeros.positions, nonzeros.values, m[None], *segments.no_side()

        def modelled():
            where = lines.locate(layout, nonzeros.positions)
            model, gain = fit(layout, where, nonzeros.values)

            def ordered():
                order = lines.order_of(layout, model.level, _scale(model.choice, model.base))
                positions = lines.position_of(order, where)
                values = nonzeros.values * tf.gather(model.sign, where.column)
                which = ascending(positions, m)
                positions, values = tf.gather(positions, which), tf.gather(values, which)
                return positions, values, order.class_sizes, *_side(layout, model)

            return tf.cond(gain > 0, ordered, plain)

        # The choice is of what is coded, not of how: the coder stands in the graph once, and its
        # loop inside one cond less. (TFF's graph optimizer aborts on loops in nested conds.)
        chosen = tf.cond(tf.equal(m, layout.total), modelled, plain)
        positions, values, sizes, *side = chosen
        ordered = Nonzeros(positions, values, nonzeros.centre)
        return segments.encode(ordered, sizes, segments.Side(*side))

    def decode_nonzeros(self, data, m):
        """See `NonzeroCoder`."""
        layout = lines.layout_of(self.shapes)
        m = tf.cast(m, tf.int64)
        limit = self.bound_bits(m) // 8
        opened = segments.open_payload(
            data[:limit], m, 5 * layout.variables, functools.partial(_side_contexts, layout)
        )

        def plain():
            positions, ok = segments.positions(opened, m[None])
            _, whole = segments.read_flags(opened, tf.zeros([], tf.int64))
            return positions, opened.values, ok & whole

        def modelled():
            choice, base, signed = _parse(layout, opened.header)
            level = _levels(layout, choice, opened.side)
            told = _tells_sign(layout, signed, level)
            flags, whole = segments.read_flags(opened, tf.math.count_nonzero(told))
            flags = tf.math.unsorted_segment_sum(flags, tf.where(told)[:, 0], tf.size(told))
            order = lines.order_of(layout, level, _scale(choice, base))
            positions, ok = segments.positions(opened, order.class_sizes)
            index, column = lines.index_of(layout, order, positions)
            values = opened.values * (1 - 2 * tf.gather(flags, column))
            return tf.minimum(index, m - 1), values, ok & whole & tf.equal(m, layout.total)

        index, values, ok = tf.cond(tf.size(opened.header) > 0, modelled, plain)
        ok &= opened.ok & (tf.size(data, tf.int64) <= limit)
        return index, *symbols_of(values, opened.centre, ok)


def fit(layout: Lines, where: Where, values: tf.Tensor) -> tuple[Model, tf.Tensor]:
    """The model of nonzeros, and about how many bits it saves, a float64 scalar.

    Bits are those of geometric magnitudes: lines of a list that share a level share a mean.
    """
    magnitude = tf.cast(tf.abs(values), tf.float64)
    mean = tf.reduce_sum(magnitude) / layout.total
    magnitude = tf.minimum(magnitude, 2 + 8 * mean)  # No outlier makes a busy line.
    count = len(layout.line_list)
    activity = tf.math.unsorted_segment_sum(magnitude, where.row, count)
    activity += tf.math.unsorted_segment_sum(magnitude, where.column, count)
    choices = [_levels_at(layout, activity, i) for i in range(len(_STEPS))]
    bits = tf.stack([choice[2] for choice in choices])
    choice = tf.argmin(bits)
    base = tf.gather(tf.stack([c[1] for c in choices], 1), choice, batch_dims=1)
    level = tf.gather(
        tf.stack([c[0] for c in choices], 1), tf.gather(choice, layout.line_list), batch_dims=1
    )

    # A column's majority is worth its flag if signs are uneven enough over the variable.
    signs = tf.math.unsorted_segment_sum(tf.sign(values), where.column, count)
    variable_of = layout.line_list % layout.variables
    majority = tf.math.unsorted_segment_sum(tf.abs(signs), variable_of, layout.variables)
    nonzeros = tf.math.bincount(
        tf.cast(where.variable, tf.int32), minlength=layout.variables, maxlength=layout.variables
    )
    nonzeros, majority = tf.cast(nonzeros, tf.float64), tf.cast(majority, tf.float64)
    told = _tells_sign(layout, tf.ones([layout.variables], tf.int64), level)
    flags = tf.math.unsorted_segment_sum(tf.cast(told, tf.float64), variable_of, layout.variables)
    saved = nonzeros * (1 - _binary_entropy((1 + majority / tf.maximum(nonzeros, 1)) / 2)) - flags
    signed = tf.cast(saved > 0, tf.int64)
    told &= tf.gather(signed, variable_of) > 0
    model = Model(choice, base, signed, level, tf.where(told & (signs < 0), _i64(-1), _i64(1)))

    weights = tf.cast(layout.list_weights[: layout.variables], tf.float64)
    separate = tf.reduce_sum(bits[0, : layout.variables])
    together = layout.total * _geometric_entropy(tf.reduce_sum(activity) / 2 / layout.total)
    gain = tf.reduce_sum(bits[0] - tf.reduce_min(bits, 0)) + together - separate
    gain += tf.reduce_sum(tf.maximum(saved, 0)) - 20 * tf.size(weights, tf.float64) - 200
    return model, gain


def _levels_at(layout: Lines, activity: tf.Tensor, choice: int) -> tuple[tf.Tensor, ...]:
    """Levels int64[E], bases int64[2V] and estimated bits float64[2V] with step `choice`.

    A column's level is relative to the mean of its variable.
    """
    lists, variables = 2 * layout.variables, layout.variables
    list_of, weights = tf.constant(layout.line_list), tf.cast(layout.line_weights, tf.float64)
    list_weights = tf.cast(layout.list_weights, tf.float64)
    list_activity = tf.math.unsorted_segment_sum(activity, list_of, lists)
    reference = _half_octaves(list_activity / tf.maximum(list_weights, 1))
    reference = tf.concat([tf.zeros([variables], tf.float64), reference[variables:]], 0)
    live = activity > 0
    height = _half_octaves(activity / weights) - tf.gather(reference, list_of)
    step = _STEPS[choice]
    if step:
        tick = tf.cast(tf.round(height / step), tf.int64)
        lowest = tf.math.unsorted_segment_min(
            tf.where(live, tick, _MOST_OCTAVES * 4), list_of, lists
        )
        level = tf.clip_by_value(tick - tf.gather(lowest, list_of) + 1, 1, LEVELS - 1)
        base = tf.where(list_activity > 0, lowest * step, 0)
    else:
        level = tf.ones_like(list_of)
        inside = tf.cast(live, tf.float64) if choice else tf.ones_like(weights)
        size = tf.math.unsorted_segment_sum(weights * inside, list_of, lists)
        base = _half_octaves(list_activity / tf.maximum(size, 1)) - reference
        base = tf.cast(tf.round(base), tf.int64)
    if choice:
        level = tf.where(live, level, 0)
    key = list_of * LEVELS + level
    # Of each level of each list: weights, their activity, and lines.
    summands = tf.stack([weights, activity, tf.ones_like(weights)], 1)
    totals = tf.math.unsorted_segment_sum(summands, key, lists * LEVELS)
    sizes, sums, numbers = tf.unstack(tf.reshape(totals, [lists, LEVELS, 3]), axis=2)
    bits = tf.reduce_sum(sizes * _geometric_entropy(sums / tf.maximum(sizes, 1)), 1)
    if choice:
        share = numbers / tf.maximum(tf.reduce_sum(numbers, 1, keepdims=True), 1)
        bits -= tf.reduce_sum(tf.math.xlogy(numbers, share), 1) / math.log(2)
        top = tf.math.unsorted_segment_max(level, list_of, lists)
        bits += 4 * tf.cast(top + 1, tf.float64) + 10
    return level, base, bits


def _scale(choice: tf.Tensor, base: tf.Tensor) -> tf.Tensor:
    """Half octaves of each level of each list, int64[2V, LEVELS]."""
    step = tf.gather(tf.constant(_STEPS, tf.int64), choice)
    return base[:, None] + step[:, None] * tf.range(-1, LEVELS - 1, dtype=tf.int64)


def _side(layout: Lines, model: Model) -> segments.Side:
    """What `segments` sends along."""
    header = tf.concat([model.choice, bitio.zigzag(model.base), model.signed], 0)
    contexts, context = _side_contexts(layout, header)
    sent = tf.gather(model.choice, layout.line_list) > 0
    token = tf.cast(tf.boolean_mask(model.level, sent), tf.int32)
    told = _tells_sign(layout, model.signed, model.level)
    flags = tf.boolean_mask(tf.cast(model.sign < 0, tf.int64), told)
    return segments.Side(header, contexts, context, token, flags)


def _parse(layout: Lines, header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Choices, bases and which variables are signed, in range whatever the header holds."""
    lists = 2 * layout.variables
    base = tf.clip_by_value(bitio.unzigzag(header[lists : 2 * lists]), -1000, 1000)
    return tf.minimum(header[:lists], len(_STEPS) - 1), base, header[2 * lists :]


def _side_contexts(layout: Lines, header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Number of histograms of levels, and the one of each level that is sent."""
    sent = header[: 2 * layout.variables] > 0
    own = tf.constant(layout.list_lines >= _OWN_HISTOGRAM)
    owned = tf.cast(sent & own, tf.int32)
    shared = tf.reduce_sum(owned)
    context = tf.where(own, tf.cumsum(owned, exclusive=True), shared)
    used = tf.boolean_mask(layout.line_list, tf.gather(sent, layout.line_list))
    some = tf.cast(tf.reduce_any(sent & ~own), tf.int32)
    return shared + some, tf.gather(context, used)


def _levels(layout: Lines, choice: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
    """Levels of all lines, int64[E], from those that were sent."""
    sent = tf.cast(tf.gather(choice, layout.line_list) > 0, tf.int64)
    tokens = tf.concat([tf.cast(tokens, tf.int64), [1]], 0)
    rank = tf.where(sent > 0, tf.cumsum(sent, exclusive=True), tf.size(tokens, tf.int64) - 1)
    return tf.clip_by_value(tf.gather(tokens, rank), 0, LEVELS - 1)


def _tells_sign(layout: Lines, signed: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Which lines have a sign flag, bool[E]: columns with nonzeros, of signed variables."""
    variable, is_column = layout.line_list % layout.variables, layout.line_list >= layout.variables
    return tf.constant(is_column) & (level > 0) & (tf.gather(signed, variable) > 0)


def _half_octaves(mean: tf.Tensor) -> tf.Tensor:
    """2 log2(mean), no less than -64."""
    return tf.math.log(tf.maximum(mean, 2.0**-_MOST_OCTAVES)) * (2 / math.log(2))


def _geometric_entropy(mean: tf.Tensor) -> tf.Tensor:
    """Bits of a geometric number (0, 1, …) of this mean."""
    return (tf.math.xlog1py(1 + mean, mean) - tf.math.xlogy(mean, mean)) / math.log(2)


def _binary_entropy(p: tf.Tensor) -> tf.Tensor:
    return -(tf.math.xlogy(p, p) + tf.math.xlogy(1 - p, 1 - p)) / math.log(2)


def _i64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)
