"""From codecs to TFF aggregators: the one place where payloads are decoded and summed.

    client   value (float32[n]), weight ─ multiply ─ codec.encode ─▶ one string
    CLIENTS → SERVER                                                    │ federated_aggregate
    server   mean ◀─ divide ◀─ sum of values, sum of weights ◀─ decode ◀┘ (`totals`)

The string (`wire`) holds all that the sum needs of a client, and nothing else crosses: the round's
codec parameters (a sum may run on an aggregator that knows only what clients send), the client's
weight, and the codec's payload, whose check covers the two others. So a client whose string is
damaged, or whose update is not finite or too large for a square (`wire`), leaves numerator and
denominator together. A codec with vectors among its parameters can be decoded by the server alone,
which knows them. Sum and weights follow the order of operations of
`tff.aggregators.MeanFactory`: with a codec that loses nothing, the mean is the same bit for bit.
"""

import collections
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import controllers, totals
from fedutils.codecs import base, recipes
from fedutils.codecs.base import Codec, Layout, Params
from fedutils.controllers import Constant, Controller
from fedutils.wire import Wire, not_inlined, squared_norm

CodecBuilder = Callable[[Layout], Codec]

Derive = Callable[[Layout, tf.Tensor], Params]
"""From the variables' shapes and their change, float32[n], to the codec's vectors, float32 each."""


@dataclasses.dataclass(frozen=True)
class Compression:
    """How clients' values are encoded, and how that changes from round to round.

    codec: a `Codec`, or a function from the variables' shapes to one.
    seed: decides, with the round and the client's own value, what codecs draw at random.
    controller: changes the codec's parameters after every round; or a function from the
      variables' shapes to a controller.
    derive: makes the vectors among the codec's parameters of the change of the model since its
      start, which clients know, so that nobody has to tell them; None tells them. See `backward`.
    """

    codec: Codec | CodecBuilder
    seed: int = 0
    controller: Controller | Callable[[Layout], Controller] = dataclasses.field(
        default_factory=Constant
    )
    derive: Derive | None = None

    def for_layout(self, layout: Layout) -> tuple[Codec, Controller]:
        """The codec and the controller for variables of these shapes."""
        codec, controller = self.codec, self.controller
        codec = codec if isinstance(codec, Codec) else codec(layout)
        return codec, controller if hasattr(controller, "initialize") else controller(layout)


class CompressedSumFactory(tff.aggregators.UnweightedAggregationFactory):
    """The sum of the values that clients encode, one string each.

    Takes a `Compression`, or the codec alone, and aggregates any structure of float32 tensors
    of static shapes, as one vector. If clients derive parameters, a value is
    `{"update": …, "derived": {name: vector}}`, and the result is an update. The server state is
    an OrderedDict:

        params: the codec's parameters, name -> float32.
        round: int32, how many rounds there were.
        seed: int32.
        controller: the controller's state.
        training_loss: float32, if the controller needs it; `feedback.fed_with_loss` sets it.

    Measurements:

        payload_bits_sum, payload_bits_max: int64, of the strings as sent, over the clients.
        rejected_clients: int32, how many were left out.
        squared_norm_sum: float32, sum of the squared norms of the clients' decoded values (in a
          weighted mean, of their products with the weights).
        sum_squared_norm: float32, squared norm of their sum; with the former it tells how much
          clients (and their quantization noise) agree.
        params: the scalar parameters that this round used.
        announcement_bits: int64, of the string that each client gets; only if the codec has
          vectors among its parameters that clients do not derive.
        reported_error_sum, reported_norm_sum: float32, see `controllers.Controller`; only if
          the controller needs them.
    """

    def __init__(self, compression: Compression | Codec | CodecBuilder):
        self.compression = _as_compression(compression)

    def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
        """The process for values of this type; TypeError if not all of it is float32."""
        return _create(self.compression, value_type, None, lambda value, weight: value)


class CompressedMeanFactory(tff.aggregators.MeanFactory):
    """The weighted mean of the values that clients encode; see `CompressedSumFactory`.

    The weight (float32) travels in the string, so it is counted if and only if the value is. If
    every client is rejected, the mean is zero.
    """

    def __init__(self, compression: Compression | Codec | CodecBuilder):
        super().__init__()  # whose sums are not used: `create` makes all of the process
        self.compression = _as_compression(compression)

    def create(
        self, value_type: tff.Type, weight_type: tff.TensorType
    ) -> tff.templates.AggregationProcess:
        """The process for these types; TypeError if not all of them are float32."""
        return _create(self.compression, value_type, weight_type, tf.math.divide_no_nan)


class CompressedUnweightedMeanFactory(tff.aggregators.UnweightedMeanFactory):
    """The mean over the clients that were not rejected; see `CompressedSumFactory`."""

    def __init__(self, compression: Compression | Codec | CodecBuilder):
        super().__init__()  # as above
        self.compression = _as_compression(compression)

    def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
        """The process for values of this type; TypeError if not all of it is float32."""
        return _create(self.compression, value_type, None, tf.math.divide_no_nan)


def compressed_aggregator(
    compression: Compression | Codec | CodecBuilder,
    *,
    zeroing: bool = True,
    clipping: bool = True,
    weighted: bool = True,
    min_elements: int = 0,
) -> tff.aggregators.AggregationFactory:
    """The counterpart of `tff.learning.compression_aggregator` for any codec.

    Args:
      compression: a codec, a function from the variables' shapes to a codec, or a `Compression`.
      zeroing: whether to zero the updates of extreme norm, adaptively.
      clipping: whether to clip the updates' norm, adaptively.
      weighted: whether the mean is weighted.
      min_elements: variables with fewer elements are sent whole (32 bits per number, inside the
        payload) and not shown to the codec; 0 means that the codec gets all.

    Returns:
      A `tff.aggregators.WeightedAggregationFactory` if weighted, else an
      `UnweightedAggregationFactory`. Zeroing and clipping adapt as in
      `tff.learning.robust_aggregator`.

    Raises:
      ValueError: if clients derive parameters, and norms are to be zeroed or clipped.
    """
    compression = _as_compression(compression)
    if compression.derive is not None and (zeroing or clipping):
        raise ValueError(
            "Norms cannot be clipped or zeroed where clients hand on what they derived: they would "
            "be those of both. Pass zeroing=False and clipping=False."
        )
    if min_elements > 0:
        whole = compression.codec
        build = whole if callable(whole) else lambda layout: whole
        compression = dataclasses.replace(
            compression, codec=recipes.small_whole(build, min_elements)
        )
    mean = CompressedMeanFactory if weighted else CompressedUnweightedMeanFactory
    factory = mean(compression)
    quantile = tff.aggregators.PrivateQuantileEstimationProcess.no_noise
    # The constants of TFF's own aggregators: a norm most clients stay below, learned slowly …
    if clipping:
        norm = quantile(initial_estimate=1.0, target_quantile=0.8, learning_rate=0.2)
        factory = tff.aggregators.clipping_factory(norm, factory)
    # … and a norm well above all that were seen, learned at once.
    if zeroing:
        norm = quantile(
            initial_estimate=10.0,
            target_quantile=0.98,
            learning_rate=math.log(10.0),
            multiplier=2.0,
            increment=1.0,
        )
        factory = tff.aggregators.zeroing_factory(norm, factory)
    return factory


def derives(aggregator: tff.aggregators.AggregationFactory) -> bool:
    """Whether clients must hand on vectors that they derived of the model; see `backward`."""
    return getattr(aggregator, "compression", None) is not None and (
        aggregator.compression.derive is not None
    )


def _as_compression(compression: Compression | Codec | CodecBuilder) -> Compression:
    return compression if isinstance(compression, Compression) else Compression(compression)


def _create(
    compression: Compression,
    value_type: tff.Type,
    weight_type: tff.TensorType | None,
    finish: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tff.templates.AggregationProcess:
    """The aggregation process.

    Args:
      compression: how to encode.
      value_type: a structure of float32 tensors; see `CompressedSumFactory`.
      weight_type: float32; None if there are no weights, and each client counts as one.
      finish: from the sum of the values (float32[n]) and of the weights (a scalar), both over
        the clients that were not rejected, to the result (float32[n]).
    """
    derived = compression.derive is not None
    update_type = value_type["update"] if derived else value_type
    specs = tff.types.type_to_tf_tensor_specs(update_type)
    dtypes = {spec.dtype for spec in tf.nest.flatten(specs)}
    if dtypes != {tf.float32}:
        raise TypeError(f"Only float32 values can be encoded, not {update_type}.")
    if weight_type is not None and weight_type != tff.TensorType(np.float32):
        raise TypeError(f"The weight must be a float32 scalar, not {weight_type}.")
    layout = [tuple(spec.shape) for spec in tf.nest.flatten(specs)]
    n = base.total(layout)
    codec, controller = compression.for_layout(layout)
    reports = controllers.needs_reports(controller)
    wire = Wire(codec, n, weight_type is not None, reports, derived)

    @tff.tensorflow.computation
    def initialize():
        params = base.tensors(codec.default_params())
        state = collections.OrderedDict(
            params=params,
            round=tf.constant(0),
            seed=tf.constant(compression.seed),
            controller=controller.initialize(params),
        )
        if controllers.needs_loss(controller):
            state[controllers.LOSS] = tf.constant(0.0)
        return state

    state_type = initialize.type_signature.result

    @tff.tensorflow.computation(state_type)
    def announce(state):
        seed = tf.stack([state["seed"], state["round"]])
        word = tf.random.stateless_uniform([], seed, None, None, tf.int32, alg="philox")
        return wire.announce(state["params"], word)

    announcement_type = announce.type_signature.result

    def encode(announcement, value, weight):
        if derived:
            announcement = collections.OrderedDict(announcement, **value["derived"])
            value = value["update"]
        vector = tf.concat([tf.reshape(v, [-1]) for v in tf.nest.flatten(value)], axis=0)
        return not_inlined(wire.encode)(announcement, vector, weight)

    if wire.weighted:
        client_types = [value_type, weight_type]
        encode_fn = tff.tensorflow.computation(encode, [announcement_type, *client_types])
    else:
        client_types = [value_type]
        encode_fn = tff.tensorflow.computation(
            lambda announcement, value: encode(announcement, value, None),
            [announcement_type, *client_types],
        )

    def decode(string, params=None):
        """A client's string as the total of one client."""
        received = not_inlined(wire.decode)(string, params)
        bits = tf.cast(8 * tf.strings.length(string, unit="BYTE"), tf.int64)
        return collections.OrderedDict(
            value=received.value,
            weight=received.weight,
            payload_bits_sum=bits,
            payload_bits_max=bits,
            counted_bits_sum=tf.where(received.ok, bits, 0),
            clients=tf.constant(1),
            rejected_clients=1 - tf.cast(received.ok, tf.int32),
            squared_norm_sum=squared_norm(received.value),
            reported_error_sum=received.squared_error,
            reported_norm_sum=received.squared_norm,
        )

    total_of = totals.total_of(decode, n, state_type, by_the_server=bool(wire.vectors))
    total_type = total_of.type_signature.result.member

    @tff.tensorflow.computation(state_type, total_type)
    def conclude(state, total):
        observed = collections.OrderedDict(total)
        observed["sum_squared_norm"] = squared_norm(total["value"])
        if controllers.LOSS in state:
            observed[controllers.LOSS] = state[controllers.LOSS]
        controlled, params = controller.next(state["controller"], state["params"], observed)
        hidden = ["value", "weight", "clients", "counted_bits_sum", controllers.LOSS]
        if not wire.reports:
            hidden += ["reported_error_sum", "reported_norm_sum"]
        measurements = collections.OrderedDict(
            (name, number) for name, number in observed.items() if name not in hidden
        )
        measurements["params"] = collections.OrderedDict(
            (name, state["params"][name]) for name in wire.scalars
        )
        if wire.announces:
            context = wire.announce(state["params"], tf.constant(0))["context"]
            measurements["announcement_bits"] = tf.cast(8 * tf.strings.length(context), tf.int64)
        new_state = collections.OrderedDict(
            state, params=params, round=state["round"] + 1, controller=controlled
        )
        result = tf.split(finish(total["value"], total["weight"]), [*map(math.prod, layout)])
        result = [tf.reshape(piece, shape) for piece, shape in zip(result, layout, strict=True)]
        return new_state, tf.nest.pack_sequence_as(specs, result), measurements

    @tff.federated_computation
    def init_fn():
        return tff.federated_eval(initialize, tff.SERVER)

    def next_round(state, *client):
        announcement = tff.federated_broadcast(tff.federated_map(announce, state))
        strings = tff.federated_map(encode_fn, (announcement, *client))
        total = total_of(state, strings)
        output = tff.federated_map(conclude, (state, total))
        return tff.templates.MeasuredProcessOutput(output[0], output[1], output[2])

    placed = [tff.FederatedType(state_type, tff.SERVER)]
    placed += [tff.FederatedType(client_type, tff.CLIENTS) for client_type in client_types]
    # TFF wants functions with exactly the arguments that they are called with.
    if wire.weighted:
        next_fn = tff.federated_computation(lambda s, v, w: next_round(s, v, w), placed)
    else:
        next_fn = tff.federated_computation(lambda s, v: next_round(s, v), placed)
    return tff.templates.AggregationProcess(init_fn, next_fn)
