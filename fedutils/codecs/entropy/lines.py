"""Rows and columns of a model's variables, and the order of weights that their levels define.

A *line* is a row or a column of a variable, which is seen as a matrix with its last axis as
columns.  Every line has a level.  Weights whose row and column have the same levels form a
*block*; blocks of equal expected magnitude form a *class*, and weights are ordered by class,
then block, then row, then column.  All of it is arithmetic on lines and blocks, of which there
are far fewer than weights.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

LEVELS = 32  # Of a list of rows or columns; level 0 is for lines without nonzeros.
CLASSES = 32  # Of half an octave each; one more is for weights of lines at level 0.
_ROW = 256  # Weights in a row of a variable that has no such rows of its own.
_FEW = 8  # Fewer rows or columns than these are no matrix.


class Lines(NamedTuple):
    """Where variables and their lines are.  Rows of all variables come before all columns.

    V variables have 2V lists of lines: variable v's rows are list v, its columns list V + v.

    ends, columns: int64[V], end of each variable in the vector, and its number of columns.
    first_line: int64[2V], first line of each list.
    list_lines, list_weights: int64[2V], how many lines, and weights, each list has.
    line_list, line_weights: int64[E], each line's list, and how many weights it has.
    line_start: int64[E], where in the vector a row's weights begin, and where in its row a
        column's weights are.
    """

    ends: np.ndarray
    columns: np.ndarray
    first_line: np.ndarray
    list_lines: np.ndarray
    list_weights: np.ndarray
    line_list: np.ndarray
    line_weights: np.ndarray
    line_start: np.ndarray

    @property
    def variables(self) -> int:
        """V, how many variables there are."""
        return len(self.ends)

    @property
    def total(self) -> int:
        """How many weights there are."""
        return int(self.ends[-1]) if len(self.ends) else 0


class Where(NamedTuple):
    """Weights by variable, row line and column line, int64[k] each."""

    variable: tf.Tensor
    row: tf.Tensor
    column: tf.Tensor


class Order(NamedTuple):
    """The order of weights that levels define.

    classes, class_sizes: int64[c], the classes that have weights, ascending, and how many each
        has; class 0 is of the greatest magnitude, each other one half an octave below.
    start: int64[V * LEVELS * LEVELS], position of each block's first weight.
    sorted_start, sorted_block: int64[...], starts and blocks by position.
    level_lines: int64[2V * LEVELS], how many lines of each list have each level.
    line_key, line_rank: int64[E], list and level of each line as one number, and how many lines
        before it have the same.
    key_start, key_line: int64[2V * LEVELS], int64[E]: lines by key, and where each key begins.
    """

    classes: tf.Tensor
    class_sizes: tf.Tensor
    start: tf.Tensor
    sorted_start: tf.Tensor
    sorted_block: tf.Tensor
    level_lines: tf.Tensor
    line_key: tf.Tensor
    line_rank: tf.Tensor
    key_start: tf.Tensor
    key_line: tf.Tensor


@functools.lru_cache(maxsize=64)
def layout_of(shapes: tuple[tuple[int, ...], ...]) -> Lines:
    """The layout of variables of these shapes, one after the other.

    A long variable of few columns or rows, whose lines would say little and be many, counts as a
    matrix of rows of _ROW weights and a vector of the rest.
    """
    shapes = [piece for shape in shapes for piece in _pieces(shape)]
    columns = np.array([shape[-1] if shape else 1 for shape in shapes], np.int64)
    sizes = np.array([math.prod(shape) for shape in shapes], np.int64)
    rows = sizes // np.maximum(columns, 1)
    lines = np.concatenate([rows, columns])
    line_list = np.repeat(np.arange(2 * len(shapes)), lines)
    weights_of_line = np.concatenate([columns, rows])
    first_line = np.cumsum(lines) - lines
    first_start = np.concatenate([np.cumsum(sizes) - sizes, np.zeros_like(sizes)])
    stride = np.concatenate([columns, np.ones_like(columns)])
    rank = np.arange(len(line_list)) - first_line[line_list]
    return Lines(
        ends=np.cumsum(sizes),
        columns=columns,
        first_line=first_line,
        list_lines=lines,
        list_weights=np.concatenate([sizes, sizes]),
        line_list=line_list,
        line_weights=weights_of_line[line_list],
        line_start=first_start[line_list] + stride[line_list] * rank,
    )


def _pieces(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The matrices and vectors that a variable is seen as."""
    size, columns = math.prod(shape), shape[-1] if shape else 1
    if size < _ROW**2 or min(columns, size // columns) >= _FEW:
        return [shape]
    return [(size // _ROW, _ROW), (size % _ROW,)]


def locate(layout: Lines, index: tf.Tensor) -> Where:
    """Variables and lines of the weights at these indices of the vector, int64[k]."""
    variable = tf.searchsorted(tf.constant(layout.ends), index, side="right", out_type=tf.int64)
    offset = index - tf.gather(layout.ends - layout.list_weights[: layout.variables], variable)
    columns = tf.gather(layout.columns, variable)
    row = tf.gather(layout.first_line, variable) + offset // columns
    column = tf.gather(layout.first_line, variable + layout.variables) + offset % columns
    return Where(variable, row, column)


def order_of(layout: Lines, level: tf.Tensor, scale: tf.Tensor) -> Order:
    """The order of weights.

    Args:
        layout: see `Lines`.
        level: int64[E], in [0, LEVELS).
        scale: int64[2V, LEVELS], half octaves that each level of each list stands for; a
            weight's expected magnitude is that of its row times that of its column.
    """
    lists = 2 * layout.variables
    key = layout.line_list * LEVELS + level
    level_lines = tf.math.unsorted_segment_sum(tf.ones_like(key), key, lists * LEVELS)
    key_start = tf.cumsum(level_lines, exclusive=True)
    key_line = tf.cast(tf.argsort(key, stable=True), tf.int64)
    lines = tf.size(key, tf.int64)
    by_key = tf.math.unsorted_segment_sum(tf.range(lines), key_line, lines)
    line_rank = by_key - tf.gather(key_start, key)

    def pairs(x):
        """Rows' and columns' numbers, int64[2V, LEVELS], for all blocks of each variable."""
        rows, columns = tf.split(tf.reshape(x, [2, layout.variables, LEVELS]), 2)
        return rows[0][:, :, None], columns[0][:, None, :]

    rows, columns = pairs(level_lines)
    sizes = rows * columns
    row_scale, column_scale = pairs(scale)
    quiet = tf.equal(tf.range(LEVELS), 0)
    live = (sizes > 0) & ~quiet[:, None] & ~quiet[None, :]
    sums = row_scale + column_scale
    top = tf.reduce_max(tf.where(live, sums, tf.reduce_min(sums)))
    cls = tf.where(live, tf.clip_by_value(top - sums, 0, CLASSES - 1), CLASSES)
    cls, sizes = tf.reshape(cls, [-1]), tf.reshape(sizes, [-1])
    class_sizes = tf.math.unsorted_segment_sum(sizes, cls, CLASSES + 1)

    sorted_block = tf.cast(tf.argsort(cls, stable=True), tf.int64)
    sorted_start = tf.cumsum(tf.gather(sizes, sorted_block), exclusive=True)
    start = tf.math.unsorted_segment_sum(sorted_start, sorted_block, tf.size(sizes))
    return Order(
        tf.where(class_sizes > 0)[:, 0],
        tf.boolean_mask(class_sizes, class_sizes > 0),
        start,
        sorted_start,
        sorted_block,
        level_lines,
        key,
        line_rank,
        key_start,
        key_line,
    )


def position_of(order: Order, where: Where) -> tf.Tensor:
    """Positions of weights in the order, int64[k]."""
    row_key = tf.gather(order.line_key, where.row)
    column_key = tf.gather(order.line_key, where.column)
    block = row_key * LEVELS + column_key % LEVELS
    width = tf.gather(order.level_lines, column_key)
    inside = tf.gather(order.line_rank, where.row) * width
    return tf.gather(order.start, block) + inside + tf.gather(order.line_rank, where.column)


def index_of(layout: Lines, order: Order, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Inverse of `position_of`: indices in the vector, and the column line of each, int64[k]."""
    row_key = order.sorted_block // LEVELS
    column_key = (row_key // LEVELS + layout.variables) * LEVELS + order.sorted_block % LEVELS
    block = tf.searchsorted(order.sorted_start, position, side="right") - 1
    of_blocks = [
        order.sorted_start,
        tf.maximum(tf.gather(order.level_lines, column_key), 1),
        tf.gather(order.key_start, row_key),
        tf.gather(order.key_start, column_key),
    ]
    start, width, row, column = tf.unstack(tf.gather(tf.stack(of_blocks, 1), block), axis=1)
    inside = position - start
    row_rank = inside // width
    row = tf.gather(order.key_line, row + row_rank)
    column = tf.gather(order.key_line, column + inside - row_rank * width)
    return tf.gather(layout.line_start, row) + tf.gather(layout.line_start, column), column
