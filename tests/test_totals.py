import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import totals

pytestmark = pytest.mark.usefixtures("tff_worker")

N = 5
STATE = tff.to_type(collections.OrderedDict(params=collections.OrderedDict(factor=np.float32)))
# Magnitudes so far apart that another order of additions gives another sum.
STRINGS = ["1e8", "3.3", "-1e8", "0.7", "2e7", "1.1", "5e-3"]


def decode(string, params):
    """A number as five of its multiples, times the state's factor if that is known."""
    number = tf.strings.to_number(string) * (1.0 if params is None else params["factor"])
    bits = tf.cast(8 * tf.strings.length(string), tf.int64)
    none = tf.constant(0.0)
    return collections.OrderedDict(
        value=number * tf.range(1.0, N + 1),
        weight=tf.constant(1.0),
        payload_bits_sum=bits,
        payload_bits_max=bits,
        counted_bits_sum=bits,
        clients=tf.constant(1),
        rejected_clients=tf.constant(0),
        squared_norm_sum=none,
        reported_error_sum=none,
        reported_norm_sum=none,
    )


def total(by_the_server=False, strings=STRINGS):
    total_of = totals.total_of(decode, N, STATE, by_the_server=by_the_server)
    return total_of({"params": {"factor": 0.1}}, strings)


def added_one_by_one(factor=np.float32(1), strings=STRINGS):
    value = np.zeros(N, "f4")
    for string in strings:
        value = value + np.float32(string) * factor * np.arange(1, N + 1, dtype="f4")
    return value


@pytest.mark.parametrize("most_bytes", [0, 8, 2**24])
def test_sum_is_in_the_clients_order_whenever_strings_are_decoded(most_bytes, monkeypatch):
    monkeypatch.setattr(totals, "_MOST_BYTES", most_bytes)
    of_all = total()
    np.testing.assert_array_equal(of_all["value"], added_one_by_one())
    assert of_all["clients"] == len(STRINGS)
    assert of_all["payload_bits_sum"] == 8 * len("".join(STRINGS))
    assert of_all["payload_bits_max"] == 8 * max(map(len, STRINGS))


def joined(parts, most_bytes, monkeypatch):
    """The total of strings that several collected, each a part, and the first one was joined."""
    monkeypatch.setattr(totals, "_MOST_BYTES", most_bytes)
    total_of = totals.total_of(decode, N, STATE, by_the_server=False)

    @tff.federated_computation(
        tff.FederatedType(STATE, tff.SERVER), tff.FederatedType(np.str_, tff.CLIENTS)
    )
    def a_round(state, strings):
        return state, total_of(state, strings)

    form = tff.backends.mapreduce.get_map_reduce_form_for_computation(a_round)
    state = {"params": {"factor": 0.1}}
    collected = []
    for strings in parts:
        one = form.zero()
        for string in strings:
            one = form.accumulate(one, form.work(string, form.prepare(state))[0])
        collected.append(one)
    everything = functools.reduce(form.merge, collected)
    return form.update(state, [form.report(everything), (), (), ()])[1]


@pytest.mark.parametrize(
    ("ends", "most_bytes"),
    [
        ([4], 2**24),
        ([1, 3, 3], 2**24),  # and one that collected nothing
        ([4], 10),  # only the first becomes too many bytes
        ([5], 8),
    ],
)
def test_joined_sum_is_in_the_clients_order(ends, most_bytes, monkeypatch):
    parts = [STRINGS[a:b] for a, b in zip([0, *ends], [*ends, None], strict=True)]
    too_many = [len("".join(part)) > most_bytes for part in parts]
    assert not any(too_many[1:])
    of_all = joined(parts, most_bytes, monkeypatch)
    np.testing.assert_array_equal(of_all["value"], added_one_by_one())
    assert of_all["clients"] == len(STRINGS)
    assert of_all["payload_bits_sum"] == 8 * len("".join(STRINGS))
    assert of_all["payload_bits_max"] == 8 * max(map(len, STRINGS))


def test_part_of_too_many_bytes_is_added_as_a_sum(monkeypatch):
    value = joined([STRINGS[:4], STRINGS[4:]], 0, monkeypatch)["value"]
    both = added_one_by_one(strings=STRINGS[:4]) + added_one_by_one(strings=STRINGS[4:])
    np.testing.assert_array_equal(value, both)


def test_order_would_show():
    assert (added_one_by_one() != added_one_by_one(strings=STRINGS[::-1])).any()


def test_parameters_of_the_state_wait_for_the_server(monkeypatch):
    monkeypatch.setattr(totals, "_MOST_BYTES", 0)
    value = total(by_the_server=True)["value"]
    np.testing.assert_array_equal(value, added_one_by_one(np.float32(0.1)))


def test_no_clients_are_zero():
    of_none = total(strings=[])
    np.testing.assert_array_equal(of_none["value"], np.zeros(N))
    assert of_none["clients"] == 0
