"""From codecs to TFF aggregators: the one place where payloads are decoded and summed.

    client   value (float32[n]), weight ─ multiply ─ codec.encode ─▶ one string
    CLIENTS → SERVER                                                    │ federated_aggregate
    server   mean ◀─ divide ◀─ sum of values, sum of weights ◀─ decode ◀┘

The string holds all that the sum needs of a client, and nothing else crosses: the round's codec
parameters (a sum may run on an aggregator that knows only what clients send), the client's
weight, and the codec's payload, whose check covers the two others. So a client whose string is
damaged or whose update is not finite leaves numerator and denominator together. Sum and
weights follow the order of operations of `tff.aggregators.MeanFactory`: with a codec that
loses nothing, the mean is the same bit for bit.
"""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils.codecs import base, recipes
from fedutils.codecs.base import Codec

Layout = list[tuple[int, ...]]
"""The shapes of a model's variables, in their order in the concatenated update."""

CodecBuilder = Callable[[Layout], Codec]


_NOT_INLINED = {"_noinline": True}


class Controller(Protocol):
    """Adapts a codec's parameters from the rounds before; pure TensorFlow functions.

    Its state, a structure of tensors with static shapes, lives in the aggregator's server state.
    """

    def initialize(self, params: base.Params):
        """The state before the first round."""

    def next(self, state, params: base.Params, measurements: base.Params):
        """The new state, and the parameters of the next round (float32 scalars)."""


class Constant:
    """The controller that leaves the parameters as they are."""

    def initialize(self, params):
        """No state."""
        return collections.OrderedDict()

    def next(self, state, params, measurements):
        """The same again."""
        return state, params


@dataclasses.dataclass(frozen=True)
class Compression:
    """How clients' values are encoded, and how that changes from round to round.

    codec: a `Codec`, or a function from the variables' shapes to one.
    seed: decides, with the round and the client's own value, what codecs draw at random.
    controller: changes the codec's parameters after every round.
    """

    codec: Codec | CodecBuilder
    seed: int = 0
    controller: Controller = dataclasses.field(default_factory=Constant)

    def for_layout(self, layout: Layout) -> Codec:
        """The codec for variables of these shapes."""
        return self.codec if isinstance(self.codec, Codec) else self.codec(layout)


class CompressedSumFactory(tff.aggregators.UnweightedAggregationFactory):
    """The sum of the values that clients encode, one string each.

    Takes a `Compression`, or the codec alone, and aggregates any structure of float32 tensors
    of static shapes, as one vector. The server state is an OrderedDict:

        params: the codec's parameters, name -> float32.
        round: int32, how many rounds there were.
        seed: int32.
        controller: the controller's state.

    Measurements:

        payload_bits_sum, payload_bits_max: int64, of the strings as sent, over the clients.
        rejected_clients: int32, how many were left out.
        squared_norm_sum: float32, sum of the squared norms of the clients' decoded values (in a
          weighted mean, of their products with the weights).
        sum_squared_norm: float32, squared norm of their sum; with the former it tells how much
          clients (and their quantization noise) agree.
        params: the parameters that this round used.
    """

    def __init__(self, compression: Compression | Codec | CodecBuilder):
        self._compression = _as_compression(compression)

    def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
        """The process for values of this type; TypeError if not all of it is float32."""
        return _create(self._compression, value_type, None, lambda value, weight: value)


class CompressedMeanFactory(tff.aggregators.MeanFactory):
    """The weighted mean of the values that clients encode; see `CompressedSumFactory`.

    The weight (float32) travels in the string, so it is counted if and only if the value is. If
    every client is rejected, the mean is zero.
    """

    def __init__(self, compression: Compression | Codec | CodecBuilder):
        super().__init__(CompressedSumFactory(compression), no_nan_division=True)
        self._compression = _as_compression(compression)

    def create(
        self, value_type: tff.Type, weight_type: tff.TensorType
    ) -> tff.templates.AggregationProcess:
        """The process for these types; TypeError if not all of them are float32."""
        return _create(self._compression, value_type, weight_type, tf.math.divide_no_nan)


class CompressedUnweightedMeanFactory(tff.aggregators.UnweightedMeanFactory):
    """The mean over the clients that were not rejected; see `CompressedSumFactory`."""

    def __init__(self, compression: Compression | Codec | CodecBuilder):
        super().__init__(CompressedSumFactory(compression))
        self._compression = _as_compression(compression)

    def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
        """The process for values of this type; TypeError if not all of it is float32."""
        return _create(self._compression, value_type, None, tf.math.divide_no_nan)


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
      min_elements: variables with fewer elements are sent whole (32 bits a number, inside the
        payload) and not shown to the codec; 0 means that the codec gets all.

    Returns:
      A `tff.aggregators.WeightedAggregationFactory` if weighted, else an
      `UnweightedAggregationFactory`. Zeroing and clipping adapt as in
      `tff.learning.robust_aggregator`.
    """
    compression = _as_compression(compression)
    if min_elements > 0:
        codec = recipes.small_whole(compression.for_layout, min_elements)
        compression = dataclasses.replace(compression, codec=codec)
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
      value_type: a structure of float32 tensors.
      weight_type: float32; None if there are no weights, and each client counts as one.
      finish: from the sum of the values (float32[n]) and of the weights (a scalar), both over
        the clients that were not rejected, to the result (float32[n]).
    """
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    dtypes = {spec.dtype for spec in tf.nest.flatten(specs)}
    if dtypes != {tf.float32}:
        raise TypeError(f"Only float32 values can be encoded, not {value_type}.")
    if weight_type is not None and weight_type != tff.TensorType(np.float32):
        raise TypeError(f"The weight must be a float32 scalar, not {weight_type}.")
    layout = [tuple(spec.shape) for spec in tf.nest.flatten(specs)]
    n = base.total(layout)
    codec = compression.for_layout(layout)
    controller = compression.controller
    wire = _Wire(codec, n, weighted=weight_type is not None)

    @tff.tensorflow.computation
    def initialize():
        params = base.tensors(codec.default_params())
        return collections.OrderedDict(
            params=params,
            round=tf.constant(0),
            seed=tf.constant(compression.seed),
            controller=controller.initialize(params),
        )

    state_type = initialize.type_signature.result

    @tff.tensorflow.computation(state_type)
    def announce(state):
        seed = tf.stack([state["seed"], state["round"]])
        word = tf.random.stateless_uniform([], seed, None, None, tf.int32, alg="philox")
        return collections.OrderedDict(params=state["params"], seed=word)

    announcement_type = announce.type_signature.result

    def encode(announcement, value, weight):
        vector = tf.concat([tf.reshape(v, [-1]) for v in tf.nest.flatten(value)], axis=0)
        # Kept as one function: inlined, the codec's branches and loops become a graph on which
        # TensorFlow's optimizer, run by TFF, has been seen to abort.
        apart = tf.function(wire.encode, autograph=False, experimental_attributes=_NOT_INLINED)
        return apart(vector, weight, announcement["params"], announcement["seed"])

    if wire.weighted:
        client_types = [value_type, weight_type]
        encode_fn = tff.tensorflow.computation(encode, [announcement_type, *client_types])
    else:
        client_types = [value_type]
        encode_fn = tff.tensorflow.computation(
            lambda announcement, value: encode(announcement, value, None),
            [announcement_type, *client_types],
        )

    @tff.tensorflow.computation
    def zero():
        return collections.OrderedDict(
            value=tf.zeros([n]),
            weight=tf.constant(0.0),
            payload_bits_sum=tf.constant(0, tf.int64),
            payload_bits_max=tf.constant(0, tf.int64),
            rejected_clients=tf.constant(0),
            squared_norm_sum=tf.constant(0.0),
        )

    total_type = zero.type_signature.result

    @tff.tensorflow.computation(total_type, np.str_)
    def accumulate(total, string):
        apart = tf.function(wire.decode, autograph=False, experimental_attributes=_NOT_INLINED)
        value, weight, ok = apart(string)
        bits = 8 * tf.strings.length(string, unit="BYTE")
        one = collections.OrderedDict(
            value=value,
            weight=weight,
            payload_bits_sum=tf.cast(bits, tf.int64),
            payload_bits_max=tf.cast(bits, tf.int64),
            rejected_clients=1 - tf.cast(ok, tf.int32),
            squared_norm_sum=_squared_norm(value),
        )
        return _add_totals(total, one)

    merge = tff.tensorflow.computation(_add_totals, [total_type, total_type])
    report = tff.tensorflow.computation(lambda total: total, total_type)

    @tff.tensorflow.computation(state_type, total_type)
    def conclude(state, total):
        measurements = collections.OrderedDict(
            (name, total[name]) for name in total if name not in ("value", "weight")
        )
        measurements["sum_squared_norm"] = _squared_norm(total["value"])
        measurements["params"] = state["params"]
        controlled, params = controller.next(state["controller"], state["params"], measurements)
        new_state = collections.OrderedDict(
            params=params, round=state["round"] + 1, seed=state["seed"], controller=controlled
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
        total = tff.federated_aggregate(strings, zero(), accumulate, merge, report)
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


@dataclasses.dataclass(frozen=True)
class _Wire:
    """What crosses from a client: [parameters, 4 bytes each] [weight, 4] [codec's payload]."""

    codec: Codec
    n: int
    weighted: bool

    @property
    def _names(self) -> list[str]:
        return [*self.codec.default_params()] + ["weight"] * self.weighted

    def encode(self, value, weight, params, seed) -> tf.Tensor:
        """The string of one client; empty if its value or weight is not finite."""
        numbers = dict(params)
        if self.weighted:
            value, numbers["weight"] = value * weight, weight
        # What a client draws differs from client to client, yet is a function of the run's seed.
        fingerprint = tf.fingerprint(tf.reshape(value, [1, -1]))[0, :4]
        seed = tf.stack([seed, tf.bitcast(fingerprint, tf.int32)])
        payload = self.codec.encode(value, numbers, seed)
        prefix = tf.concat([tf.zeros([0]), *[[numbers[name]] for name in self._names]], axis=0)
        whole = tf.strings.join([base.to_string(base.to_bytes(prefix)), payload])
        return tf.where(tf.equal(payload, "") | ~base.is_finite(prefix), "", whole)

    def decode(self, string) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The value times its weight, the weight, and whether they count; else both are zero."""
        length = tf.strings.length(string)
        size = 4 * len(self._names)
        prefix = tf.strings.substr(string, 0, tf.minimum(length, size))
        payload = tf.strings.substr(string, tf.minimum(length, size), length)
        data = tf.io.decode_raw(prefix, tf.uint8)
        data = tf.pad(data, [[0, size - tf.size(data)]])
        numbers = base.from_bytes(tf.ensure_shape(data, [size]), tf.float32)
        named = {name: numbers[i] for i, name in enumerate(self._names)}
        value, ok = self.codec.decode(payload, named, self.n)
        weight = named.get("weight", tf.constant(1.0))
        ok = ok & base.is_finite(numbers)
        value, weight = tf.cond(
            ok, lambda: (value, weight), lambda: (tf.zeros([self.n]), tf.constant(0.0))
        )
        return value, weight, ok


def _squared_norm(x: tf.Tensor) -> tf.Tensor:
    """sum(x^2), in one pass without a temporary vector."""
    return 2 * tf.nn.l2_loss(x)


def _add_totals(a, b):
    """Totals of two groups of clients as one."""
    added = collections.OrderedDict((name, a[name] + b[name]) for name in a)
    added["payload_bits_max"] = tf.maximum(a["payload_bits_max"], b["payload_bits_max"])
    return added
