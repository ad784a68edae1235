"""Lossless coders of integers: int32[m] -> uint8[...] and back, vectorised in TensorFlow.

Every coder is a frozen dataclass with

    encode(symbols: int32[m]) -> uint8[...]
    decode(data: uint8[...], m) -> (int32[m], ok: bool)
    bound_bits(m) -> no payload of m symbols is longer

Decoding what `encode` did not make never raises, and its time and memory are of order m; `ok`
is False unless the payload makes sense, and the symbols are zeros then.  (A payload can make
sense and still be damaged: the frame around it has the check.)
"""

from fedutils.codecs.entropy.ans import Ans
from fedutils.codecs.entropy.context import Context
from fedutils.codecs.entropy.elias import EliasGamma
from fedutils.codecs.entropy.huffman import Huffman
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.entropy.rice import SparseRice
from fedutils.codecs.entropy.sparse import Sparse

__all__ = ["Ans", "Context", "EliasGamma", "FixedWidth", "Huffman", "Sparse", "SparseRice"]
