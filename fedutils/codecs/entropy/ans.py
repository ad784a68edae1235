"""The order-0 coder that comes close to the entropy of its symbols at every rate."""

import dataclasses

import tensorflow as tf

from fedutils.codecs.entropy import segments
from fedutils.codecs.entropy.nonzeros import NonzeroCoder, symbols_of


@dataclasses.dataclass(frozen=True)
class Ans(NonzeroCoder):
    """Symbols as independent and identically distributed, coded by interleaved rANS.

    Mostly zero symbols take time and bits for their nonzeros only.
    """

    def bound_bits(self, m: int) -> int:
        """Most bits a payload of `m` symbols can have."""
        return segments.bound_bits(m)

    def encode_nonzeros(self, nonzeros, m):
        """See `NonzeroCoder`."""
        return segments.encode(nonzeros, m[None], segments.no_side())

    def decode_nonzeros(self, data, m):
        """See `NonzeroCoder`."""
        m = tf.cast(m, tf.int64)
        known = segments.bound_bits(m) // 8
        opened = segments.open_payload(data[:known], m)
        positions, ok = segments.positions(opened, m[None])
        _, whole = segments.read_flags(opened, tf.zeros([], tf.int64))
        ok &= opened.ok & whole & (tf.size(data, tf.int64) <= known)
        return positions, *symbols_of(opened.values, opened.centre, ok)
