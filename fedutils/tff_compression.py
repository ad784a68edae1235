"""TFF's compression aggregator with rounding that a seed decides.

`tff.learning.compression_aggregator` rounds at random from a source that cannot be seeded, so no
two runs with it are alike. This one differs in that source and in nothing else: the same
quantization, zeroing, clipping and types, so the same bits.
"""

from __future__ import annotations

import collections
import math

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

# What tff.learning.compression_aggregator passes on.
_BITS = 8
_THRESHOLD = 20_000


def compression_aggregator(seed: int) -> tff.aggregators.WeightedAggregationFactory:
    """Builds the aggregator.

    Args:
        seed: Decides the rounding, together with what is rounded.

    Returns:
        The counterpart of `tff.learning.compression_aggregator()`.
    """

    def encoder(spec: tf.TensorSpec) -> te.core.GatherEncoder:
        if math.prod(spec.shape) > _THRESHOLD:
            return te.encoders.as_gather_encoder(_quantization(seed), spec)
        return te.encoders.as_gather_encoder(te.encoders.identity(), spec)

    mean = tff.aggregators.MeanFactory(tff.aggregators.EncodedSumFactory(encoder))
    # This hook is for wrapping the mean; replacing it keeps TFF's own clipping and zeroing.
    return tff.learning.compression_aggregator(debug_measurements_fn=lambda _: mean)


def _quantization(seed: int) -> te.core.Encoder:
    stages = te.stages
    return (
        te.core.EncoderComposer(stages.BitpackingEncodingStage(_BITS))
        .add_parent(_Quantization(seed), _Quantization.ENCODED_VALUES_KEY)
        .add_parent(stages.FlattenEncodingStage(), stages.FlattenEncodingStage.ENCODED_VALUES_KEY)
        .make()
    )


class _Quantization(te.stages.UniformQuantizationEncodingStage):
    """Levels evenly spaced from the least to the greatest value; up or down by seeded chance."""

    def __init__(self, seed: int) -> None:
        super().__init__(_BITS)
        self._seed = seed

    def encode(self, x, encode_params, name=None):
        """Returns levels, float32 of x's shape, and [least, greatest]."""
        least, greatest = tf.reduce_min(x), tf.reduce_max(x)
        top = tf.cast(encode_params[self.MAX_INT_VALUE_PARAMS_KEY], x.dtype)
        exact = tf.math.divide_no_nan(x - least, greatest - least) * top
        # Clients have no id and rounds no number here, but no two updates are alike.
        print_of_x = tf.bitcast(tf.fingerprint(tf.reshape(x, [1, -1]))[0, :4], tf.int32)
        chance = tf.random.stateless_uniform(tf.shape(x), tf.stack([self._seed, print_of_x]))
        return collections.OrderedDict(
            [
                (self.ENCODED_VALUES_KEY, tf.minimum(tf.floor(exact + chance), top)),
                (self.MIN_MAX_VALUES_KEY, tf.stack([least, greatest])),
            ]
        )
