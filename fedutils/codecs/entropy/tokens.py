"""Large integers as a token from a small alphabet and a few raw bits.

A token holds what is worth modelling: integers below 8 exactly, larger ones to their three
leading bits; the other bits are close to uniform and are sent as they are.  (The "hybrid
unsigned integers" of JPEG XL, ISO/IEC 18181-1, annex C, are of this kind.)
"""

import tensorflow as tf

from fedutils.codecs.entropy import bitio

ALPHABET = 128  # Tokens of integers below 2**33 are smaller.


def tokenize(u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """int64[k] in [0, 2**33) -> tokens, raw bits, number of raw bits, int64[k] each."""
    raw_size = tf.maximum(bitio.bit_length(u) - 3, 0)
    top = tf.bitwise.right_shift(u, raw_size)
    return top + 4 * raw_size, u - tf.bitwise.left_shift(top, raw_size), raw_size


def raw_bits(tokens: tf.Tensor) -> tf.Tensor:
    """How many raw bits follow each token."""
    return tf.maximum(tokens // 4 - 1, 0)


def detokenize(tokens: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
    """Inverse of `tokenize`; with `raw` 0, the smallest integer of the token."""
    raw_size = raw_bits(tokens)
    return tf.bitwise.left_shift(tokens - 4 * raw_size, raw_size) + raw
