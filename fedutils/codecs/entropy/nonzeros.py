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


def nonzeros_among(positions: tf.Tensor, symbols: tf.Tensor, m: tf.Tensor) -> Nonzeros:
    """As `nonzeros_of` m symbols: int32[k] at ascending int64[k], all others being 0."""

    def few():
        live = tf.where(symbols)[:, 0]
        values = tf.cast(tf.gather(symbols, live), tf.int64)
        return Nonzeros(tf.gather(positions, live), values, tf.constant(0, tf.int64))

    def many():
        return nonzeros_of(tf.scatter_nd(positions[:, None], symbols, m[None]))

    return tf.cond(4 * tf.size(symbols, tf.int64) > 3 * m, many, few)


def ascending(positions: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
    """Which of the positions, int64[k] below m and all different, is first, second, …: int64[k]."""

    def by_sorting():
        return tf.cast(tf.argsort(positions), tf.int64)

    def by_marking():
        ranks = tf.scatter_nd(positions[:, None], tf.range(1, k + 1), tf.cast(m, tf.int64)[None])
        return tf.gather_nd(ranks, tf.where(ranks)) - 1

    k = tf.size(positions, tf.int64)
    return tf.cond(_SPARSE * k < tf.cast(m, tf.int64), by_sorting, by_marking)


class NonzeroCoder:
    """A coder that sees symbols as their nonzeros; subclasses say how these are coded.

    Stages that have only the nonzeros, or want only them, need no vector (see `base.Codec`).
    """

    def encode(self, symbols: tf.Tensor) -> tf.Tensor:
        """int32[m] -> uint8[...]."""
        return self.encode_nonzeros(nonzeros_of(symbols), tf.size(symbols, tf.int64))

    def decode(self, data: tf.Tensor, m: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int32[m], ok); zeros if not ok."""
        positions, symbols, ok = self.decode_nonzeros(data, m)
        return spread(positions, symbols, m), ok

    def encode_nonzeros(self, nonzeros: Nonzeros, m: tf.Tensor) -> tf.Tensor:
        """Nonzeros among m (int64 scalar) symbols -> uint8[...]."""
        raise NotImplementedError(f"{type(self).__name__} does not define encode_nonzeros.")

    def decode_nonzeros(
        self, data: tf.Tensor, m: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """uint8[...] -> (int64[k] positions, int32[k + 1] symbols as for `spread`, ok)."""
        raise NotImplementedError(f"{type(self).__name__} does not define decode_nonzeros.")


def symbols_of(values: tf.Tensor, centre: tf.Tensor, ok: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Symbols of nonzeros, and behind them that of all others: int32[k + 1]; zeros if not ok.

    values and centre are int64; ok becomes False if a symbol is not an int32.
    """
    symbols = tf.concat([values, [0]], 0) + centre
    narrow = tf.cast(symbols, tf.int32)
    ok &= tf.reduce_all(tf.equal(symbols, tf.cast(narrow, tf.int64)))
    return narrow * tf.cast(ok, tf.int32), ok


def spread(positions: tf.Tensor, values: tf.Tensor, m: tf.Tensor | int) -> tf.Tensor:
    """The vector of m elements with values[i] at positions[i], and values[-1] elsewhere."""
    rest = tf.fill(tf.reshape(tf.cast(m, tf.int64), [1]), values[-1])
    return tf.tensor_scatter_nd_update(rest, positions[:, None], values[:-1])
