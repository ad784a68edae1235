"""A coder for symbols of which few are nonzero, anywhere alike, and of size 1 mostly."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import known
from fedutils.codecs.entropy.nonzeros import NonzeroCoder, nonzeros_of, symbols_of


@dataclasses.dataclass(frozen=True)
class Sparse(NonzeroCoder):
    """Rice codes of the gaps between nonzeros, and exceptions from size 1; see `known`.

    For payloads of some hundred bytes: beside its numbers it sends some 30 bits.
    """

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return known.bound_bits(m, 1)

    def encode_nonzeros(self, nonzeros, m):
        """See `NonzeroCoder`."""
        return known.encode(nonzeros, *_one_class(m))

    def fields(self, symbols: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """What `encode` writes, by what it tells; see `known.fields`."""
        return known.fields(nonzeros_of(symbols), *_one_class(tf.size(symbols, tf.int64)))

    def decode_nonzeros(self, data, m):
        """See `NonzeroCoder`."""
        m = tf.cast(m, tf.int64)
        limit = self.bound_bits(m) // 8
        found, ok = known.decode(data[:limit], *_one_class(m))
        ok &= tf.size(data, tf.int64) <= limit
        return found.positions, *symbols_of(found.values, found.centre, ok)


def _one_class(m):
    return tf.zeros([1], tf.int64), m[None]
