"""Symbols as their nonzeros, which are few, and back.

What is done to a whole vector is done here, in as few passes as there can be; all else that
coders do, they do to the nonzeros.
"""

from typing import NamedTuple

import tensorflow as tf

_SPARSE = 50  # Below one nonzero in so many, sorting is quicker than passing over the vector.


class Nonzeros(NamedTuple):
    """A vector by its nonzeros.

    positions: int64[k], ascending.
    values: int64[k].
    centre: int64 scalar, what was subtracted from all symbols before.
    """

    positions: tf.Tensor
    values: tf.Tensor
    centre: tf.Tensor


def nonzeros_of(symbols: tf.Tensor) -> Nonzeros:
    """Nonzeros of int32[m], less the symbols' mean if fewer than a quarter of them are zero."""
    positions = tf.where(symbols)[:, 0]

    def as_they_are():
        values = tf.cast(tf.gather(symbols, positions), tf.int64)
        return Nonzeros(positions, values, tf.constant(0, tf.int64))

    def centred():
        mean = tf.round(tf.reduce_mean(tf.cast(symbols, tf.float64)))
        centre = tf.cast(mean, tf.int64)
        y = tf.cast(symbols, tf.int64) - centre
        found = tf.where(y)[:, 0]
        return Nonzeros(found, tf.gather(y, found), centre)

    return tf.cond(4 * tf.size(positions) > 3 * tf.size(symbols), centred, as_they_are)


def ascending(positions: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
    """Which of the positions, int64[k] below m and all different, is first, second, …: int64[k]."""

    def by_sorting():
        return tf.cast(tf.argsort(positions), tf.int64)

    def by_marking():
        ranks = tf.scatter_nd(positions[:, None], tf.range(1, k + 1), tf.cast(m, tf.int64)[None])
        return tf.gather_nd(ranks, tf.where(ranks)) - 1

    k = tf.size(positions, tf.int64)
    return tf.cond(_SPARSE * k < tf.cast(m, tf.int64), by_sorting, by_marking)


def place(
    positions: tf.Tensor, values: tf.Tensor, centre: tf.Tensor, m: tf.Tensor, ok: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """int32[m] with `values` at `positions`, plus `centre`; zeros and False if not ok.

    All int64; ok becomes False if a symbol is not an int32.
    """
    symbols = tf.concat([values + centre, [centre]], 0)
    ok &= tf.reduce_all(tf.equal(symbols, tf.cast(tf.cast(symbols, tf.int32), tf.int64)))
    # Casts keep the low 32 bits, of which the sum is right.
    values, centre = (tf.cast(x, tf.int32) * tf.cast(ok, tf.int32) for x in (values, centre))
    symbols = tf.scatter_nd(positions[:, None], values, tf.cast(m, tf.int64)[None])
    return tf.cond(tf.equal(centre, 0), lambda: symbols, lambda: symbols + centre), ok
