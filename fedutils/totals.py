"""The total of what clients sent: strings are collected, then decoded side by side.

    CLIENTS   string, string, …
                  │ federated_aggregate: append, join (and decode, if they become too many bytes)
    SERVER    strings ── decode, two or more at a time ── add in the clients' order ─▶ total

A string says what a client sent in as few bytes as there are, so strings are what is kept, and what
crosses the sockets if clients are simulated on several machines. And whoever collected them, they
are added up in the clients' order: the total is the same, bit for bit. The exception is a part that
became too many bytes before it was joined to the clients in front of it: it is added as one sum,
which may round differently.

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

_MOST_BYTES = 2**24
"""Strings of more bytes than that are decoded before others are collected."""


def total_of(
    decode: Callable[[tf.Tensor, Mapping[str, tf.Tensor] | None], Total],
    n: int,
    state_type: tff.Type,
    *,
    by_the_server: bool,
) -> tff.Computation:
    """(state@SERVER, strings@CLIENTS) -> total@SERVER.

    Args:
      decode: a client's string, a scalar, and the state's `params` to the client's total.
      n: length of values.
      state_type: of the state, an OrderedDict with `params`.
      by_the_server: whether decoding needs the parameters, which only the server and the clients
        know. Then all strings are kept till the end, which suits payloads that are small; else
        `decode` gets None for parameters.
    """

    @tff.tensorflow.computation
    def nothing():
        return collections.OrderedDict(strings=_no_strings(), total=_no_clients(n))

    collected_type = nothing.type_signature.result

    @tff.tensorflow.computation(collected_type, np.str_)
    def append(collected, string):
        strings, total = tf.concat([collected["strings"], [string]], 0), collected["total"]

        def decoded():
            return collections.OrderedDict(
                strings=_no_strings(), total=_with_rows(_decoded(decode, strings, total))
            )

        def kept():
            return collections.OrderedDict(strings=strings, total=total)

        if by_the_server:
            return kept()
        return tf.cond(_bytes(strings) > _MOST_BYTES, decoded, kept)

    @tff.tensorflow.computation(collected_type, collected_type)
    def join(some, others):
        return collections.OrderedDict(
            strings=tf.concat([some["strings"], others["strings"]], 0),
            total=_add(some["total"], others["total"], value=_rows_of_both),
        )

    report = tff.tensorflow.computation(lambda collected: collected, collected_type)

    @tff.tensorflow.computation(state_type, collected_type)
    def finish(state, collected):
        params = state["params"] if by_the_server else None
        return _decoded(decode, collected["strings"], collected["total"], params)

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(np.str_, tff.CLIENTS)
    )
    def total_of_clients(state, strings):
        collected = tff.federated_aggregate(strings, nothing(), append, join, report)
        return tff.federated_map(finish, (state, collected))

    return total_of_clients


def _no_strings() -> tf.Tensor:
    return tf.boolean_mask([""], [False])


def _bytes(strings: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(tf.strings.length(strings), tf.int64))


def _no_clients(n: int) -> Total:
    """The total of no clients, its value as no rows of n: there may be more sums than one."""
    return collections.OrderedDict(
        value=tf.boolean_mask(tf.zeros([1, n]), [False]),
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


def _decoded(decode: Callable, strings: tf.Tensor, total: Total, params=None) -> Total:
    """The total, whose value is rows, with the clients that sent the strings; its value a sum."""

    # Decoding needs nothing of the turns before, so a turn can begin before they end.
    def next_one(i, total):
        return i + 1, _add(total, decode(strings[i], params))

    start = collections.OrderedDict(total, value=tf.reduce_sum(total["value"], 0))
    return tf.while_loop(lambda i, total: i < tf.size(strings), next_one, [tf.constant(0), start])[
        1
    ]


def _with_rows(total: Total) -> Total:
    return collections.OrderedDict(total, value=total["value"][None])


def _rows_of_both(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.concat([a, b], 0)


def _add(a: Total, b: Total, value: Callable = tf.add) -> Total:
    """Totals of two groups of clients as one; `value` says what becomes of the values."""
    added = collections.OrderedDict((name, a[name] + b[name]) for name in a if name != "value")
    added["payload_bits_max"] = tf.maximum(a["payload_bits_max"], b["payload_bits_max"])
    return collections.OrderedDict(value=value(a["value"], b["value"]), **added)
