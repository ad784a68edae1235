import collections
import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import controllers
from fedutils.aggregators import Compression, compressed_aggregator
from fedutils.codecs.base import chain
from fedutils.codecs.floats import Raw
from fedutils.feedback import fed_with_loss

pytestmark = pytest.mark.usefixtures("tff_worker")


@dataclasses.dataclass(frozen=True)
class Listening:
    """Notes the loss that it observes."""

    needs_loss: ClassVar[bool] = True

    def initialize(self, params):
        return collections.OrderedDict(heard=tf.constant(-1.0))

    def next(self, state, params, observed):
        return collections.OrderedDict(heard=observed[controllers.LOSS]), params


def model():
    keras = tf.keras.Sequential([tf.keras.layers.InputLayer((4,)), tf.keras.layers.Dense(3)])
    return tff.learning.models.from_keras_model(
        keras,
        input_spec=(tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def fed_avg(aggregator):
    return tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        model_aggregator=aggregator,
    )


def clients():
    rng = np.random.default_rng(1)
    return [
        tf.data.Dataset.from_tensor_slices((rng.standard_normal((k, 4), "f4"), np.arange(k) % 3))
        .map(lambda x, y: (x, tf.cast(y, tf.int32)))
        .batch(4)
        for k in (7, 3)
    ]


def found(state, name):
    """The one value of this name anywhere in nested dictionaries."""
    inner = [v for v in state.values() if isinstance(v, dict)]
    hits = [state[name]] if name in state else []
    return hits + [hit for member in inner for hit in found(member, name)]


@pytest.mark.parametrize("nested", [True, False])
def test_controllers_observe_the_loss_of_the_round_before(nested):
    compression = Compression(chain(Raw()), controller=Listening())
    aggregator = compressed_aggregator(compression, zeroing=nested, clipping=nested)
    process = fed_with_loss(fed_avg(aggregator))
    state, before = process.initialize(), 0
    for _ in range(3):
        output = process.next(state, clients())
        state = output.state
        assert found(state.aggregator, "heard") == [before]
        before = output.metrics["client_work"]["train"]["loss"]
        assert found(state.aggregator, controllers.LOSS) == [before]
        assert before > 0.1


def test_nothing_else_of_the_process_changes():
    compression = Compression(chain(Raw()), controller=Listening())
    plain = fed_avg(compressed_aggregator(compression))
    fed = fed_with_loss(plain)
    state = plain.initialize()
    a, b = plain.next(state, clients()), fed.next(state, clients())
    for x, y in zip(
        plain.get_model_weights(a.state).trainable,
        fed.get_model_weights(b.state).trainable,
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)
    assert a.metrics["client_work"] == b.metrics["client_work"]


def test_a_process_whose_controllers_need_no_loss_is_returned_as_it_is():
    for aggregator in [None, compressed_aggregator(chain(Raw()))]:
        process = fed_avg(aggregator)
        assert fed_with_loss(process) is process
