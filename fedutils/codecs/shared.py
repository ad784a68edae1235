"""What earlier rounds tell of a model's lines, used by both sides without being in any payload.

Rows and columns of a model's variables (*lines*, see `entropy.lines`) differ in how much of an
update they carry, and keep differing from round to round. The server observes how much and tells
clients (`levels`), or both sides see it in the model (`levels_of_change`). The codec parameter is

    lines: float32[E], whole numbers: twice log2 of a line's mean magnitude relative to that of
      the model; a weight is expected to have the sum of its row's and its column's.

Three parts read it. `LineSteps` gives busy lines finer steps. `SharedContext` codes symbols
without side information, since their classes are known. `Pool` draws weights of busy lines more
often, and does the work of `LineSteps` too.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from fedutils.codecs.base import Decoded, Encoded, Stage, length_of, total
from fedutils.codecs.entropy import known, lines
from fedutils.codecs.entropy.lines import LEVELS, Lines
from fedutils.codecs.entropy.nonzeros import (
    NonzeroCoder,
    Nonzeros,
    ascending,
    nonzeros_of,
    symbols_of,
)
from fedutils.errors import UsageError

Shapes = tuple[tuple[int, ...], ...]

_MIDDLE = LEVELS // 2  # The level of a line of mean activity.
LARGEST = LEVELS - 1 - _MIDDLE
"""Levels of lines are whole numbers from -LARGEST to LARGEST."""
_MOST_DRAWN = 2**41  # A pool's size times the number of weights; see `_odds`.


def activity(shapes: Shapes, x: tf.Tensor) -> tf.Tensor:
    """Sums of the magnitudes in each line: float[n] -> float[E]."""
    rows, columns = [], []
    for matrix in _matrices(lines.layout_of(shapes), tf.abs(x)):
        rows.append(tf.reduce_sum(matrix, 1))
        columns.append(tf.reduce_sum(matrix, 0))
    return tf.concat([*rows, *columns], 0)


def levels(shapes: Shapes, activity: tf.Tensor, prior: float = 0.1) -> tf.Tensor:
    """The parameter `lines`, float32[E], from sums of magnitudes, float[E].

    prior: this much of a variable's activity is taken to be spread evenly over its lines, so
      that none is written off. The model's is likewise spread over the variables, a hundredth
      as much.
    """
    layout = lines.layout_of(shapes)
    lists, count = 2 * layout.variables, tf.constant(layout.list_lines, activity.dtype)
    sums = tf.math.unsorted_segment_sum(activity, layout.line_list, lists)
    share = tf.math.divide_no_nan(activity, tf.gather(sums, layout.line_list))
    relative = share * tf.gather(count, layout.line_list) + prior
    # A variable's own factor is on its columns.
    weights = tf.constant(layout.list_weights[layout.variables :], activity.dtype)
    of_variable = sums[layout.variables :]
    of_variable = tf.math.divide_no_nan(of_variable, tf.reduce_sum(of_variable)) + prior / 100
    factor = of_variable * layout.total / tf.maximum(weights, 1)
    factor = tf.concat([tf.ones_like(factor), factor], 0)
    level = tf.round(2 / math.log(2) * tf.math.log(relative * tf.gather(factor, layout.line_list)))
    # By way of integers, which have one zero: both sides' bytes are compared.
    return tf.cast(tf.cast(tf.clip_by_value(level, -LARGEST, LARGEST), tf.int32), tf.float32)


def levels_of_change(shapes: Shapes, change: tf.Tensor, prior: float = 0.1) -> tf.Tensor:
    """The parameter `lines` from a model's change since its start: float32[n] -> float32[E].

    Who has the model has these lines, and all have the same: magnitudes are summed as whole
    numbers, so in whatever order a processor does that. All lines are alike if there is no change
    yet, or if not all of it is finite.

    prior: see `levels`.
    """
    magnitudes = tf.round(tf.cast(change, tf.float64) * 2.0**24)
    sums = activity(shapes, magnitudes)
    whole = tf.reduce_sum(sums)
    found = levels(shapes, tf.where(tf.math.is_finite(whole), sums, 0.0), prior)
    return tf.where((whole > 0) & tf.math.is_finite(whole), found, 0.0)


@dataclasses.dataclass(frozen=True)
class LineSteps(Stage):
    """Scales weights up by their expected magnitude to the power of `exponent`.

    shapes: of the variables that lie one after the other in the vector; one of another length
      passes as it is.
    exponent: 0 is one step for the whole model. An error in a busy line does more harm, as its
      input or its unit is active more often.
    """

    shapes: Shapes
    exponent: float = 0.5

    def default_params(self):
        """All lines alike."""
        return _no_lines(self.shapes)

    def encode(self, x, params, seed):
        """Multiplies."""
        return Encoded(x * self._factors(params, length_of(x)))

    def decode(self, y, side, params, seed, n):
        """Divides."""
        return Decoded(y / self._factors(params, n))

    def _factors(self, params, n) -> tf.Tensor:
        layout = lines.layout_of(self.shapes)
        halves = self.exponent * math.log(2) / 2

        def of_lines():
            return tf.exp(halves * _of_weights(layout, params["lines"]))

        if not tf.is_tensor(n):
            return of_lines() if n == layout.total else tf.ones([n])
        return tf.cond(tf.equal(n, layout.total), of_lines, lambda: tf.ones([n]))


@dataclasses.dataclass(frozen=True)
class Pool(Stage):
    """A few thousand weights that both sides draw from a shared seed, busy lines more often.

    What is sent of an update tells a few hundred of 1.7 million weights, chosen by chance, and
    most of its bits tell which. Much of that chance need not be told: with a shared seed, both
    sides draw the same pool, and the client chooses from it. A weight is drawn in proportion to
    its expected symbol, and divided by its probability, so the pool is unbiased whatever the
    lines say; and all of it is expected to be of one size, so positions need no context.

    Drawn systematically (see `quantizers.Systematic`), column after column, so that the sums that
    units make are right. All of it is integer arithmetic: both sides draw the same. The source of
    the idea that randomness is shared rather than sent: Havasi et al. 2019 (minimal random code
    learning), section 3.

    shapes: of the variables that lie one after the other in the vector; one of another length
      passes as it is.
    size: of the pool. Several times the nonzeros that are sent of it costs little accuracy.
    exponent: as in `LineSteps`, whose work it does too.

    UsageError if the size times the number of weights is above 2^41, where integers overflow.
    """

    shapes: Shapes
    size: int
    exponent: float = 0.5
    needs_seed: ClassVar[bool] = True
    limits: ClassVar = {"size": (1, 2**31 - 1)}

    def __post_init__(self):
        super().__post_init__()
        n = total(self.shapes)
        if self.size * n > _MOST_DRAWN:
            raise UsageError(
                f"A pool of {self.size} of {n} weights cannot be drawn in 64-bit integers: let it "
                f"have at most {_MOST_DRAWN // n}."
            )

    def default_params(self):
        """All lines alike."""
        return _no_lines(self.shapes)

    def length(self, n):
        """The size of the pool."""
        if tf.is_tensor(n):
            return tf.where(tf.equal(n, total(self.shapes)), self.size, n)
        return self.size if n == total(self.shapes) else n

    def encode(self, x, params, seed):
        """Elements of the pool, over their probability, in units of their lines' steps."""

        def drawn():
            positions, scale, probability = self._draw(params, seed)
            return tf.gather(x, positions) * scale / probability

        return Encoded(self._if_fits(length_of(x), drawn, lambda: x))

    def decode(self, y, side, params, seed, n):
        """Weights outside the pool are zero; those that are in it several times add up."""

        def placed():
            positions, scale, _ = self._draw(params, seed)
            return tf.math.unsorted_segment_sum(y / scale, positions, total(self.shapes))

        return Decoded(self._if_fits(n, placed, lambda: y))

    def _if_fits(self, n, yes, no) -> tf.Tensor:
        if not tf.is_tensor(n):
            return yes() if n == total(self.shapes) else no()
        return tf.cond(tf.equal(n, total(self.shapes)), yes, no)

    def _draw(self, params, seed) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Positions, int64[size], what their elements are scaled by, and how often each is drawn.

        The latter, float32[size], is the expected number of times.
        """
        layout = lines.layout_of(self.shapes)
        level = tf.cast(params["lines"], tf.int64)
        odds = []
        for rows, columns in _lists(layout, level):
            # Column after column.
            sums = columns[:, None] + rows[None, :]
            odds.append(tf.reshape(tf.gather(_odds(self.exponent), sums + 2 * LARGEST), [-1]))
        ends = tf.cumsum(tf.concat([tf.zeros([0], tf.int64), *odds], 0))
        whole = ends[-1]
        offset = tf.random.stateless_uniform([], seed, 0, whole, tf.int64, alg="philox")
        drawn = tf.searchsorted(
            ends, (tf.range(self.size, dtype=tf.int64) * whole + offset) // self.size, side="right"
        )
        variable = tf.searchsorted(
            tf.constant(layout.ends), tf.cast(drawn, tf.int64), side="right", out_type=tf.int64
        )
        start = tf.gather(layout.ends - layout.list_weights[: layout.variables], variable)
        columns = tf.gather(layout.columns, variable)
        height = tf.gather(layout.list_lines, variable)
        inside = tf.cast(drawn, tf.int64) - start
        row, column = inside % height, inside // height
        of_row = tf.gather(level, tf.gather(layout.first_line, variable) + row)
        of_column = tf.gather(
            level, tf.gather(layout.first_line, variable + layout.variables) + column
        )
        sums = of_row + of_column
        scale = tf.exp(self.exponent * math.log(2) / 2 * tf.cast(sums, tf.float32))
        odds = tf.gather(_odds(self.exponent), sums + 2 * LARGEST)
        probability = self.size * tf.cast(odds, tf.float32) / tf.cast(whole, tf.float32)
        return start + row * columns + column, scale, probability


@dataclasses.dataclass(frozen=True)
class SharedContext:
    """Rice codes in classes of weights whose expected magnitude the parameter `lines` tells.

    shapes: as in `LineSteps`; vectors of another length are coded as one class.
    exponent: that of the `LineSteps` before, which makes symbols of busy lines larger still.
    """

    shapes: Shapes
    exponent: float = 0.0

    def default_params(self):
        """All lines alike."""
        return _no_lines(self.shapes)

    def for_round(self, params) -> "_RoundContext":
        """The coder that knows the lines."""
        return _RoundContext(self.shapes, self.exponent, params["lines"])

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return known.bound_bits(m, lines.CLASSES + 1)


@dataclasses.dataclass(frozen=True)
class _RoundContext(NonzeroCoder):
    shapes: Shapes
    exponent: float
    lines: tf.Tensor

    def encode_nonzeros(self, nonzeros, m):
        """See `NonzeroCoder`."""
        return known.encode(*self._classified(nonzeros, m))

    def fields(self, symbols: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """What `encode` writes, by what it tells; see `known.fields`."""
        return known.fields(*self._classified(nonzeros_of(symbols), tf.size(symbols, tf.int64)))

    def _classified(self, found: Nonzeros, m: tf.Tensor) -> tuple[Nonzeros, tf.Tensor, tf.Tensor]:
        """The nonzeros class after class, the classes that there are, and their sizes."""
        layout = lines.layout_of(self.shapes)

        def ordered():
            order = self._order()
            positions = lines.position_of(order, lines.locate(layout, found.positions))
            which = ascending(positions, m)
            nonzeros = tf.gather(positions, which), tf.gather(found.values, which)
            return *nonzeros, order.classes, order.class_sizes

        positions, values, classes, sizes = tf.cond(
            tf.equal(m, layout.total),
            ordered,
            lambda: (found.positions, found.values, tf.zeros([1], tf.int64), m[None]),
        )
        return Nonzeros(positions, values, found.centre), classes, sizes

    def decode_nonzeros(self, data, m):
        """See `NonzeroCoder`."""
        layout, m = lines.layout_of(self.shapes), tf.cast(m, tf.int64)
        order, fits = self._order(), tf.equal(m, layout.total)
        classes, sizes = tf.cond(
            fits,
            lambda: (order.classes, order.class_sizes),
            lambda: (tf.zeros([1], tf.int64), m[None]),
        )
        limit = known.bound_bits(m, lines.CLASSES + 1) // 8
        found, ok = known.decode(data[:limit], classes, sizes)
        index = tf.cond(
            fits,
            lambda: lines.index_of(layout, order, found.positions)[0],
            lambda: found.positions,
        )
        ok &= tf.size(data, tf.int64) <= limit
        return index, *symbols_of(found.values, found.centre, ok)

    def _order(self) -> lines.Order:
        layout = lines.layout_of(self.shapes)
        level = tf.cast(tf.clip_by_value(self.lines, -LARGEST, LARGEST), tf.int64) + _MIDDLE
        half_octaves = np.round((1 + self.exponent) * (np.arange(LEVELS) - _MIDDLE))
        scale = np.tile(half_octaves.astype(np.int64), [2 * layout.variables, 1])
        return lines.order_of(layout, level, tf.constant(scale))


def _no_lines(shapes: Shapes) -> dict[str, np.ndarray]:
    return {"lines": np.zeros(len(lines.layout_of(shapes).line_list), np.float32)}


def _matrices(layout: Lines, x: tf.Tensor) -> list[tf.Tensor]:
    """The variables as matrices, whose rows and columns are the lines."""
    sizes = layout.list_weights[: layout.variables]
    pieces = tf.split(x, sizes)
    return [tf.reshape(p, [-1, max(c, 1)]) for p, c in zip(pieces, layout.columns, strict=True)]


def _odds(exponent: float) -> tf.Tensor:
    """How likely a weight is to be drawn, by the sum of its lines' levels plus 2 LARGEST: int64.

    Within 20 octaves, up to 2^22, so that a pool's size times their sum over all weights is within
    2^63 as long as the size times the number of weights is within 2^41 (`_MOST_DRAWN`).
    """
    halves = np.round((1 + exponent) * np.arange(-2 * LARGEST, 2 * LARGEST + 1))
    return tf.constant(np.round(2 ** (np.clip(halves, -16, 24) / 2 + 10)).astype(np.int64))


def _lists(layout: Lines, of_lines: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """What belongs to the rows and to the columns of each variable."""
    parts = tf.split(of_lines, layout.list_lines)
    return list(zip(parts[: layout.variables], parts[layout.variables :], strict=True))


def _of_weights(layout: Lines, of_lines: tf.Tensor) -> tf.Tensor:
    """Each weight's row's number plus its column's: float32[E] -> float32[n]."""
    sums = [tf.reshape(r[:, None] + c[None, :], [-1]) for r, c in _lists(layout, of_lines)]
    return tf.concat([tf.zeros([0]), *sums], 0)
