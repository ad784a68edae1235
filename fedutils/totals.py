"""Two ways to total what clients sent: decoded where the sum runs, or by the server alone.

A total is an OrderedDict of tensors, of one client or of several: `value`, float32[n], and
numbers. All of them add up but `payload_bits_max`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

Total = Mapping[str, tf.Tensor]


def no_clients(n: int) -> tff.Computation:
    """The total of no clients."""

    @tff.tensorflow.computation
    def zero():
        return collections.OrderedDict(
            value=tf.zeros([n]),
            weight=tf.constant(0.0),
            payload_bits_sum=tf.constant(0, tf.int64),
            payload_bits_max=tf.constant(0, tf.int64),
            counted_bits_sum=tf.constant(0, tf.int64),
            clients=tf.constant(0),
            rejected_clients=tf.constant(0),
            squared_norm_sum=tf.constant(0.0),
            reported_error_sum=tf.constant(0.0),
            reported_norm_sum=tf.constant(0.0),
        )

    return zero


def decoded_on_arrival(
    decode: Callable[[tf.Tensor], Total], zero: tff.Computation, state_type: tff.Type
) -> tff.Computation:
    """(state@SERVER, strings@CLIENTS) -> total@SERVER, decoding where the sum runs.

    Args:
      decode: a client's string, a scalar, to its total.
      zero: the total of no clients.
      state_type: of the state, an OrderedDict.
    """
    total_type = zero.type_signature.result

    @tff.tensorflow.computation(total_type, np.str_)
    def accumulate(total, string):
        return _add(total, decode(string))

    merge = tff.tensorflow.computation(_add, [total_type, total_type])
    report = tff.tensorflow.computation(lambda total: total, total_type)

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(np.str_, tff.CLIENTS)
    )
    def total_of(state, strings):
        return tff.federated_aggregate(strings, zero(), accumulate, merge, report)

    return total_of


def decoded_by_the_server(
    decode: Callable[[tf.Tensor, Mapping[str, tf.Tensor]], Total],
    zero: tff.Computation,
    state_type: tff.Type,
) -> tff.Computation:
    """The same, decoding with parameters that only the server and the clients know.

    Until then the strings are collected, which suits payloads that are small.

    Args:
      decode: a client's string, a scalar, and the state's `params` to its total.
      zero: the total of no clients.
      state_type: of the state, an OrderedDict with `params`.
    """
    strings_type = tff.TensorType(np.str_, [None])

    @tff.tensorflow.computation
    def none():
        return tf.boolean_mask([""], [False])

    @tff.tensorflow.computation(strings_type, np.str_)
    def append(strings, string):
        return tf.concat([strings, [string]], 0)

    @tff.tensorflow.computation(strings_type, strings_type)
    def join(some, others):
        return tf.concat([some, others], 0)

    report = tff.tensorflow.computation(lambda strings: strings, strings_type)

    @tff.tensorflow.computation(state_type, strings_type)
    def decode_all(state, strings):
        def next_one(i, total):
            return i + 1, _add(total, decode(strings[i], state["params"]))

        return tf.while_loop(
            lambda i, total: i < tf.size(strings), next_one, [tf.constant(0), zero()]
        )[1]

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(np.str_, tff.CLIENTS)
    )
    def total_of(state, strings):
        collected = tff.federated_aggregate(strings, none(), append, join, report)
        return tff.federated_map(decode_all, (state, collected))

    return total_of


def _add(a: Total, b: Total) -> Total:
    """Totals of two groups of clients as one."""
    added = collections.OrderedDict((name, a[name] + b[name]) for name in a)
    added["payload_bits_max"] = tf.maximum(a["payload_bits_max"], b["payload_bits_max"])
    return added
