"""Backward adaptation: both sides derive what a codec takes from earlier rounds.

    server   model less the initial one ─ derive ─▶ the codec's vectors, to decode with
    SERVER → CLIENTS   │ the model, as ever
    client   model less the initial one ─ derive ─▶ the codec's vectors, to encode with

The model that clients get is the sum of what all rounds brought, so it shows which of its rows and
columns were busy, and the server need not tell. A run's seed is public and decides the initial
model, which a client makes by itself. An adaptive quantizer that follows what was decoded before,
for which nothing is sent, is called backward adaptive; Jayant 1973 is an early one.

Both sides must have the same model, bit for bit, so it is broadcast whole. A client that derives
something else is told by its string's check, which covers the codec's parameters, and left out.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf
import tensorflow_federated as tff

from fedutils import distributors, feedback
from fedutils.aggregators import CompressedMeanFactory
from fedutils.wire import not_inlined

_Weights = tff.learning.models.ModelWeights


def build_weighted_fed_avg(
    model_fn: Callable[[], tff.learning.models.VariableModel],
    *,
    client_optimizer_fn: tff.learning.optimizers.Optimizer,
    server_optimizer_fn: tff.learning.optimizers.Optimizer,
    model_aggregator: CompressedMeanFactory,
    initial: Callable[[], Sequence[tf.Tensor]],
    loop_implementation: tff.learning.LoopImplementation,
) -> tff.learning.templates.LearningProcess:
    """The counterpart of TFF's function of this name for a `Compression` that derives.

    Args:
      model_fn: makes the model, which is broadcast whole.
      client_optimizer_fn: of the clients.
      server_optimizer_fn: of the server.
      model_aggregator: its compression has `derive`.
      initial: computes the initial model with TensorFlow operations, a tensor a variable.
      loop_implementation: see TFF's.

    Raises:
      ValueError: if `initial` gives other shapes than the model's.
    """

    @tff.tensorflow.computation
    def initial_weights():
        return _Weights.from_model(model_fn())

    weights_type = initial_weights.type_signature.result
    specs = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(weights_type.trainable))
    layout = [tuple(spec.shape) for spec in specs]

    def derive(weights: _Weights) -> Mapping[str, tf.Tensor]:
        change = distributors.flat(weights.trainable)
        change -= distributors.initial_vector(initial, layout)
        return model_aggregator.compression.derive(layout, change)

    client_work = _handing_on(
        tff.learning.templates.build_model_delta_client_work(
            model_fn,
            client_optimizer_fn,
            client_weighting=tff.learning.ClientWeighting.NUM_EXAMPLES,
            loop_implementation=loop_implementation,
        ),
        derive,
    )
    handed = client_work.next.type_signature.result.result.member
    process = tff.learning.templates.compose_learning_process(
        initial_weights,
        tff.learning.templates.build_broadcast_process(weights_type),
        client_work,
        model_aggregator.create(handed.update, handed.update_weight),
        tff.learning.templates.build_apply_optimizer_finalizer(server_optimizer_fn, weights_type),
    )
    return feedback.fed_with_model(process, derive)


def _handing_on(
    client_work: tff.learning.templates.ClientWorkProcess,
    derive: Callable[[_Weights], Mapping[str, tf.Tensor]],
) -> tff.learning.templates.ClientWorkProcess:
    """The client work that hands on, with its update, what it derived of the model that it got."""
    state_type, weights_type, data_type = client_work.next.type_signature.parameter
    result_type = client_work.next.type_signature.result.result.member

    @tff.tensorflow.computation(result_type, weights_type.member)
    def hand_on(result, weights):
        update = collections.OrderedDict(update=result.update, derived=not_inlined(derive)(weights))
        return tff.learning.templates.ClientResult(update, result.update_weight)

    @tff.federated_computation(state_type, weights_type, data_type)
    def next_fn(state, weights, data):
        output = client_work.next(state, weights, data)
        handed = tff.federated_map(hand_on, (output.result, weights))
        return tff.templates.MeasuredProcessOutput(output.state, handed, output.measurements)

    return tff.learning.templates.ClientWorkProcess(
        client_work.initialize,
        next_fn,
        get_hparams_fn=client_work.get_hparams,
        set_hparams_fn=client_work.set_hparams,
    )
