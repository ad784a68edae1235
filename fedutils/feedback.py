"""Feedback: what a learning process knows reaches the aggregator within it."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping

import tensorflow as tf
import tensorflow_federated as tff

from fedutils.controllers import LOSS
from fedutils.wire import not_inlined

_State = tff.learning.templates.LearningAlgorithmState


def fed_with_loss(
    process: tff.learning.templates.LearningProcess,
) -> tff.learning.templates.LearningProcess:
    """The learning process whose controllers observe the loss that it measured.

    The clients' training metrics reach the server anyway; here they are written, within the same
    computation, into the aggregator's state. A process whose controllers need no loss is returned
    as it is.
    """
    state_type = process.initialize.type_signature.result.member
    if not any(name == LOSS for name, _ in _leaves(state_type.aggregator)):
        return process
    metrics_type = process.next.type_signature.result.metrics.member

    @tff.tensorflow.computation(state_type, metrics_type)
    def feed(state, metrics):
        loss = tf.cast(metrics["client_work"]["train"]["loss"], tf.float32)
        loss = tf.where(tf.math.is_finite(loss), loss, 0.0)
        return _fed(state, {LOSS: loss})

    @tff.federated_computation(*process.next.type_signature.parameter)
    def next_fn(state, data):
        output = process.next(state, data)
        fed = tff.federated_map(feed, (output.state, output.metrics))
        return tff.learning.templates.LearningProcessOutput(fed, output.metrics)

    return _with_next(process, next_fn)


def fed_with_model(
    process: tff.learning.templates.LearningProcess,
    derive: Callable[[tff.learning.models.ModelWeights], Mapping[str, tf.Tensor]],
) -> tff.learning.templates.LearningProcess:
    """The learning process whose aggregator has, in every round, what the round's model tells.

    Args:
      process: the process.
      derive: from the model's weights to tensors that replace, by name, those in the aggregator's
        state.
    """
    state_type = process.initialize.type_signature.result.member

    @tff.tensorflow.computation(state_type)
    def feed(state):
        return _fed(state, not_inlined(derive)(state.global_model_weights))

    @tff.federated_computation(*process.next.type_signature.parameter)
    def next_fn(state, data):
        return process.next(tff.federated_map(feed, state), data)

    return _with_next(process, next_fn)


def _with_next(
    process: tff.learning.templates.LearningProcess, next_fn: tff.Computation
) -> tff.learning.templates.LearningProcess:
    return tff.learning.templates.LearningProcess(
        process.initialize,
        next_fn,
        process.get_model_weights,
        process.set_model_weights,
        get_hparams_fn=process.get_hparams,
        set_hparams_fn=process.set_hparams,
    )


def _fed(state: _State, values: Mapping[str, tf.Tensor]) -> _State:
    return _State(
        state.global_model_weights,
        state.distributor,
        state.client_work,
        _replace(state.aggregator, values),
        state.finalizer,
    )


def _leaves(state_type: tff.Type) -> list[tuple[str | None, tff.Type]]:
    if not isinstance(state_type, tff.StructType):
        return []
    found = list(tff.structure.iter_elements(state_type))
    return found + [leaf for _, member in found for leaf in _leaves(member)]


def _replace(state, values: Mapping[str, tf.Tensor]):
    """The state with these values in the place of what has their names, however deep it is."""
    if not isinstance(state, Mapping):
        return state
    return collections.OrderedDict(
        (name, values[name] if name in values else _replace(member, values))
        for name, member in state.items()
    )
