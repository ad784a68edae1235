import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs.base import tensors


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def through():
    """Encodes and decodes with a codec's default parameters; gives values and payload."""

    def run(codec, x, seed=0, **params):
        shared = tensors({**codec.default_params(), **params})
        payload = codec.encode(tf.constant(x), shared, tf.constant([1, seed]))
        values, ok = codec.decode(payload, shared, len(x))
        assert bool(ok)
        return values.numpy(), payload.numpy()

    return run
