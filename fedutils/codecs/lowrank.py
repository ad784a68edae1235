"""Low rank: a large matrix as the product of two thin ones, for what a model has learned so far.

The change of a dense layer since the start of training is near a matrix of low rank: its
largest singular values hold what clients taught it, and the rest is mostly the noise of their
coded updates. Thin factors are far fewer numbers, and of every size: they want a quantization
step of their own.
"""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from fedutils.codecs.base import (
    Codec,
    Decoded,
    Encoded,
    Layout,
    Length,
    Stage,
    chain,
    is_finite,
    total,
)
from fedutils.codecs.entropy.context import Context
from fedutils.codecs.quantizers import Nearest
from fedutils.codecs.transforms import Rms, Scale


@dataclasses.dataclass(frozen=True)
class LowRank(Stage):
    """Replaces large matrices by their best approximation of low rank, as two factors.

    A variable is seen as a matrix A with its last axis as columns, A = U diag(s) V^T. Where
    rank (rows + columns) is at most a quarter of rows * columns, U diag(s) and V diag(s) of the
    `rank` largest singular values take its place, s being side information: so both factors
    are quantized finely in the directions that matter. No matrix of that rank is nearer to A
    (Eckart and Young 1936). Other variables stay as they are.

    shapes: of the variables that lie one after the other in the vector.
    rank: columns of each factor.
    """

    shapes: tuple[tuple[int, ...], ...]
    rank: int
    unbiased: ClassVar[bool] = False

    @property
    def emitted(self) -> tuple[tuple[int, ...], ...]:
        """Shapes in the emitted vector: pairs of factors, then the other variables."""
        return *self._factor_shapes, *self._other_shapes

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers the factors hold together, and how many the other variables."""
        return total(self._factor_shapes), total(self._other_shapes)

    @property
    def _factor_shapes(self) -> list[tuple[int, int]]:
        large = [_as_matrix(shape) for shape in self.shapes if self._is_large(shape)]
        return [(length, self.rank) for sides in large for length in sides]

    @property
    def _other_shapes(self) -> list[tuple[int, ...]]:
        return [shape for shape in self.shapes if not self._is_large(shape)]

    def _is_large(self, shape: tuple[int, ...]) -> bool:
        rows, columns = _as_matrix(shape)
        return 4 * self.rank * (rows + columns) <= rows * columns

    def side_size(self) -> int:
        """The singular values."""
        return self.rank * len(self._factor_shapes) // 2

    def length(self, n: Length) -> Length:
        """That of factors and others; ValueError if n is not what the shapes hold."""
        if not tf.is_tensor(n) and n != total(self.shapes):
            raise ValueError(f"{self} is for vectors of {total(self.shapes)} numbers, not {n}.")
        return n - total(self.shapes) + sum(self.sizes)

    def encode(self, x, params, seed):
        """Factorizes; refuses matrices whose singular values are no float32."""
        factors, others, side = [], [], []
        pieces = tf.split(x, [math.prod(shape) for shape in self.shapes])
        for shape, piece in zip(self.shapes, pieces, strict=True):
            if self._is_large(shape):
                *pair, singular = _factorize(tf.reshape(piece, _as_matrix(shape)), self.rank)
                factors += pair
                side.append(singular)
            else:
                others.append(piece)
        values = _flat([*factors, *others])
        ok = is_finite(values)
        return Encoded(tf.where(ok, values, 0.0), _flat(side), ok)

    def decode(self, y, side, params, seed, n):
        """Multiplies the factors; directions of singular value 0 count for nothing."""
        parts = tf.split(y, [*map(math.prod, self.emitted)])
        parts = [tf.reshape(p, shape) for p, shape in zip(parts, self.emitted, strict=True)]
        count = len(self._factor_shapes)
        singular = tf.unstack(tf.reshape(side, [count // 2, self.rank]))
        pairs = zip(parts[:count:2], parts[1:count:2], singular, strict=True)
        matrices = iter([_product(left, right, s) for left, right, s in pairs])
        others = iter(parts[count:])
        pieces = [next(matrices if self._is_large(shape) else others) for shape in self.shapes]
        return Decoded(_flat(pieces))


@dataclasses.dataclass(frozen=True)
class ScaleParts(Stage):
    """Divides each part of the vector by a scale of its own.

    sizes: the number of elements of each part, at least one.
    scales: what each part is divided by.
    """

    sizes: tuple[int, ...]
    scales: tuple[Scale, ...]

    def side_size(self) -> int:
        """The parts' scales."""
        return len(self.scales)

    def encode(self, x, params, seed):
        """Each part in its unit."""
        parts = zip(tf.split(x, self.sizes), self.scales, strict=True)
        encoded = [scale.encode(part, params, seed) for part, scale in parts]
        return Encoded(_flat([e.values for e in encoded]), [e.side[0] for e in encoded])

    def decode(self, y, side, params, seed, n):
        """Multiplies by the scales."""
        return Decoded(y * tf.repeat(side, self.sizes))


def low_rank_change(
    layout: Layout, rank: int = 32, factor_step: float = 0.7, rest_step: float = 2.0
) -> Codec:
    """What a model has learned: large matrices at low rank, one step for factors, one for the rest.

    The rest is little and may be rounded coarsely, unless it is all there is.

    Args:
      layout: shapes of the model's variables.
      rank: of the large matrices.
      factor_step: quantization step of the factors, in root mean squares of all factors.
      rest_step: that of all other variables, in their root mean square, beside large matrices;
        without one they are rounded as finely as factors.

    Returns:
      The codec: biased, as befits what is sent once to all and not averaged.
    """
    low_rank = LowRank(tuple(map(tuple, layout)), rank)
    if not low_rank.sizes[0]:
        rest_step = factor_step
    parts = zip(low_rank.sizes, (Rms(factor_step), Rms(rest_step)), strict=True)
    sizes, scales = zip(*[(size, scale) for size, scale in parts if size], strict=True)
    return chain(low_rank, ScaleParts(sizes, scales), Nearest(), Context(low_rank.emitted))


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a variable of this shape."""
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def _factorize(matrix: tf.Tensor, rank: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """U diag(s), V diag(s) and s of the `rank` largest singular values, largest first.

    matrix: float32[rows, columns] of known shape.
    """
    # In double precision the squares of float32 neither overflow nor vanish, and the Gram
    # matrix of the shorter side tells small singular values as well as the matrix itself.
    a = tf.cast(matrix, tf.float64)
    rows, columns = matrix.shape
    if rows < columns:
        a = tf.transpose(a)
    _, vectors = tf.linalg.eigh(tf.matmul(a, a, transpose_a=True))
    short = tf.reverse(vectors, [1])[:, :rank]
    long = tf.matmul(a, short)
    singular = tf.norm(long, axis=0)
    factors = [tf.cast(f, tf.float32) for f in (long, short * singular)]
    if rows < columns:
        factors.reverse()
    return *factors, tf.cast(singular, tf.float32)


def _product(left: tf.Tensor, right: tf.Tensor, singular: tf.Tensor) -> tf.Tensor:
    """The matrix of two factors that both have the singular values in them."""
    return tf.matmul(tf.math.divide_no_nan(left, singular), right, transpose_b=True)


def _flat(tensors: list[tf.Tensor]) -> tf.Tensor:
    """All their numbers as one vector, be there none."""
    return tf.concat([tf.zeros([0]), *[tf.reshape(t, [-1]) for t in tensors]], axis=0)
