"""Probability models: what both sides know of a context, as integer frequencies.

A model becomes a row of frequencies that sum to 2**`rans.PRECISION`.  From weights on it is
integer arithmetic, so both sides get the same row.
"""

import math

import tensorflow as tf

from fedutils.codecs.entropy import rans, tokens

_TOTAL = 1 << rans.PRECISION
_STEPS = 4  # A histogram's frequencies are rounded to quarters of an octave.
_MANTISSAS = [round(2 ** (16 + i / _STEPS)) for i in range(_STEPS)]
LARGEST_CODE = _STEPS * rans.PRECISION + 1
_RATE_STEPS = 8  # A rate is rounded to eighths of an octave.
LARGEST_RATE = 33 * _RATE_STEPS


def frequencies(weights: tf.Tensor, live: tf.Tensor) -> tf.Tensor:
    """Frequencies in proportion to weights.

    Args:
        weights: int64[contexts, alphabet], `0 <= weights < 2**40`.
        live: bool[contexts, alphabet], tokens that must get a frequency of at least 1; all
            others get 0.  The alphabet is much smaller than 2**PRECISION.

    Returns:
        int64[contexts, alphabet], rows sum to 2**PRECISION.
    """
    live = tf.cast(live, tf.int64)
    weights *= live
    spare = _TOTAL - tf.reduce_sum(live, 1, keepdims=True)
    total = tf.maximum(tf.reduce_sum(weights, 1, keepdims=True), 1)
    rows = live + weights * spare // total
    rest = _TOTAL - tf.reduce_sum(rows, 1, keepdims=True)
    largest = tf.one_hot(tf.argmax(weights, 1), tf.shape(weights)[1], dtype=tf.int64)
    return rows + rest * largest


def histogram_codes(counts: tf.Tensor) -> tf.Tensor:
    """Histograms, int64[contexts, alphabet], as log-frequencies to be sent.

    A code is 0 for an absent token, else 1 + 4 log2(frequency); rounding it costs about
    0.002 bits a token.
    """
    share = tf.cast(counts, tf.float64)
    share /= tf.maximum(tf.reduce_sum(share, 1, keepdims=True), 1)
    log2 = tf.math.log(tf.maximum(share * _TOTAL, 1)) / math.log(2)
    codes = 1 + tf.cast(tf.round(_STEPS * log2), tf.int64)
    return tf.where(counts > 0, codes, 0)


def histogram(codes: tf.Tensor) -> tf.Tensor:
    """Frequencies from `histogram_codes`, whatever integers the codes are."""
    codes = tf.clip_by_value(codes, 0, LARGEST_CODE)
    exponent, index = (codes - 1) // _STEPS, (codes - 1) % _STEPS
    weights = tf.gather(tf.constant(_MANTISSAS, tf.int64), index)
    weights = tf.bitwise.left_shift(weights, tf.maximum(exponent, 0))
    return frequencies(weights, codes > 0)


def rate_codes(events: tf.Tensor, trials: tf.Tensor) -> tf.Tensor:
    """Event rates (`events / trials`, at most 1/2) to be sent: 1 - 8 log2(rate), int64."""
    ratio = tf.cast(tf.maximum(trials, 1), tf.float64) / tf.cast(tf.maximum(events, 1), tf.float64)
    codes = 1 + tf.cast(tf.round(_RATE_STEPS * tf.math.log(ratio) / math.log(2)), tf.int64)
    return tf.clip_by_value(codes, 1, LARGEST_RATE)


def geometric(rates: tf.Tensor, longest: tf.Tensor) -> tf.Tensor:
    """Frequencies of the tokens of gaps between independent events.

    Args:
        rates: int64[contexts], from `rate_codes`.
        longest: int64 scalar, no gap is longer.

    Returns:
        int64[contexts, tokens.ALPHABET].
    """
    rates = tf.cast(tf.clip_by_value(rates, 1, LARGEST_RATE) - 1, tf.float64)
    log_miss = tf.math.log1p(-tf.minimum(tf.exp(rates * (-math.log(2) / _RATE_STEPS)), 0.9))
    alphabet = tf.range(tokens.ALPHABET + 1, dtype=tf.int64)
    edges = tokens.detokenize(alphabet, tf.zeros_like(alphabet))
    beyond = tf.exp(log_miss[:, None] * tf.cast(edges, tf.float64))
    weights = tf.cast(tf.round((beyond[:, :-1] - beyond[:, 1:]) * 2.0**38), tf.int64)
    return frequencies(weights, tf.broadcast_to(edges[:-1] <= longest, tf.shape(weights)))
