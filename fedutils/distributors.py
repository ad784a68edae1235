"""From codecs to compressed broadcasts: what the server sends to clients, as one string.

    server   model less the initial one ─ codec.encode ─▶ one string
    SERVER → CLIENTS                                         │ federated_broadcast
    client   initial model, from the seed, plus ─ decode ◀───┘

A run's seed is public and decides its initial model, so a client makes that by itself and needs
only what the rounds have added: nothing in the first, and always less than a whole model, for a
change of small norm can be rounded coarsely. The clients of a round are new and hold nothing
else, so the whole change is coded anew each round. The server's own model stays exact: an error
is over with its round and leaves nothing for a memory to carry into the next one.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils.codecs import base
from fedutils.codecs.base import Codec, Layout
from fedutils.wire import not_inlined


def compressed_distributor(
    model_weights_type: tff.Type,
    codec: Codec | Callable[[Layout], Codec],
    initial: Callable[[], Sequence[tf.Tensor]],
    seed: int = 0,
) -> tff.learning.templates.DistributionProcess:
    """The counterpart of TFF's plain broadcast of the model for any codec.

    Its server state is an OrderedDict: `round` (int32, how many there were) and `seed` (int32).
    The codec's parameters are its `default_params`, known to both sides like the codec itself.

    Measurements, at the server:

        model_payload_bits: int64, of the string; every client of the round gets it.
        model_nmse: float32, the squared error of the change that clients decode, over its
          squared norm; 0 if there is no change.

    If the codec cannot encode the change (a weight is not finite), the string is empty and
    clients get a model of NaN: a run that has diverged is seen to have, in every metric, and no
    client trains on something that the server does not have.

    Args:
      model_weights_type: a structure of float32 tensors of static shapes, as
        `tff.learning.models.weights_type_from_model` gives it. Variables that are not trained
        are coded with the others.
      codec: a codec, or a function from the variables' shapes to a codec.
      initial: computes the initial model with TensorFlow operations, a tensor a variable.
      seed: decides, with the round, what the codec draws at random.

    Raises:
      TypeError: if not all of the model is float32.
      ValueError: if `initial` gives other shapes than the model's.
    """
    specs = tff.types.type_to_tf_tensor_specs(model_weights_type)
    if {spec.dtype for spec in tf.nest.flatten(specs)} != {tf.float32}:
        raise TypeError(f"Only float32 models can be encoded, not {model_weights_type}.")
    layout = [tuple(spec.shape) for spec in tf.nest.flatten(specs)]
    codec = codec if isinstance(codec, Codec) else codec(layout)

    @not_inlined
    def encode(variables, state_seed, round_number):
        change = flat(variables) - initial_vector(initial, layout)
        params = base.tensors(codec.default_params())
        string = codec.encode(change, params, tf.stack([state_seed, round_number]))
        error = tf.nn.l2_loss(_decode(codec, string, layout) - change)
        return string, tf.math.divide_no_nan(error, tf.nn.l2_loss(change))

    @not_inlined
    def decode(string):
        return initial_vector(initial, layout) + _decode(codec, string, layout)

    @tff.tensorflow.computation
    def initialize():
        return collections.OrderedDict(round=tf.constant(0), seed=tf.constant(seed))

    state_type = initialize.type_signature.result

    @tff.tensorflow.computation(state_type, model_weights_type)
    def send(state, weights):
        string, nmse = encode(tf.nest.flatten(weights), state["seed"], state["round"])
        measurements = collections.OrderedDict(
            model_payload_bits=8 * tf.cast(tf.strings.length(string), tf.int64), model_nmse=nmse
        )
        new_state = collections.OrderedDict(round=state["round"] + 1, seed=state["seed"])
        return new_state, string, measurements

    @tff.tensorflow.computation(np.str_)
    def receive(string):
        pieces = tf.split(decode(string), [*map(math.prod, layout)])
        variables = [tf.reshape(p, shape) for p, shape in zip(pieces, layout, strict=True)]
        return tf.nest.pack_sequence_as(specs, variables)

    @tff.federated_computation
    def init_fn():
        return tff.federated_eval(initialize, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER),
        tff.FederatedType(model_weights_type, tff.SERVER),
    )
    def next_fn(state, weights):
        new_state, string, measurements = tff.federated_map(send, (state, weights))
        received = tff.federated_map(receive, tff.federated_broadcast(string))
        return tff.templates.MeasuredProcessOutput(new_state, received, measurements)

    return tff.learning.templates.DistributionProcess(init_fn, next_fn)


def initial_vector(initial: Callable[[], Sequence[tf.Tensor]], layout: Layout) -> tf.Tensor:
    """The initial model, float32[n]; ValueError if its shapes are not those of the layout."""
    variables = initial()
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != layout:
        raise ValueError(f"The initial model has the shapes {shapes}, but the model {layout}.")
    return flat(variables)


def _decode(codec: Codec, string: tf.Tensor, layout: Layout) -> tf.Tensor:
    """The change in a string, float32[n]; NaN if there is none."""
    params = base.tensors(codec.default_params())
    change, ok = codec.decode(string, params, base.total(layout))
    return tf.where(ok, change, np.nan)


def flat(variables: Sequence[tf.Tensor]) -> tf.Tensor:
    """The variables one after the other, float32[n]."""
    return tf.concat([tf.reshape(variable, [-1]) for variable in variables], axis=0)
