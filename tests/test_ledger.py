import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import ledger, study
from fedutils.ledger import Content, Direction


@pytest.mark.parametrize("recipe", ["none", "tff-compression"])
def test_all_published_numbers_digit_for_digit(recipe):
    table = study.comparison(recipe)
    assert len(table) == 10
    for direction in Direction:
        ours, published = table[f"{direction.value} ours"], table[f"{direction.value} published"]
        assert ours.tolist() == published.tolist()
    # Not only equal to a list of ours: two of the numbers, as the study's text has them.
    last = table.iloc[-1]
    assert last["broadcast ours"] == "4.96Gibit"
    assert last["aggregated ours"] == {"none": "4.96Gibit", "tff-compression": "1.43Gibit"}[recipe]


def test_plain_fedavg_by_hand():
    bill = study.bill("none")
    parameters = 32 * (5 * 5 * 32 + 32 + 5 * 5 * 32 * 64 + 64 + 3136 * 512 + 512 + 512 * 10 + 10)
    assert ledger.summary(bill) == {
        "broadcast/model": parameters,
        "broadcast/other": 32,  # the learning rate
        "aggregated/model": parameters,
        # two means of two floats and two 64-bit counts
        "aggregated/metrics": 4 * 32 + 2 * 64,
        "aggregated/other": 32,  # the number of examples, as weight
    }


def _server(type_):
    return tff.FederatedType(type_, tff.SERVER)


def _clients(type_):
    return tff.FederatedType(type_, tff.CLIENTS)


def test_every_intrinsic_is_counted_once():
    vector, scalar = tff.TensorType(np.float32, [3]), tff.TensorType(np.int64)

    @tff.federated_computation(_server(vector), _clients(vector), _clients(scalar))
    def computation(model, updates, counts):
        sent = tff.federated_broadcast(model)
        total = tff.federated_sum(updates)
        most = tff.federated_max(counts)
        mean = tff.federated_mean(updates, tff.federated_map(_to_float, counts))
        return sent, total, most, mean

    bill = ledger.of(computation)
    assert bill.bits(Direction.BROADCAST) == 3 * 32
    # the sum's vector, the maximum's count, the mean's vector and its weight
    assert bill.bits(Direction.AGGREGATED) == 3 * 32 + 64 + (3 * 32 + 32)
    assert bill.bits(Direction.AGGREGATED, Content.OTHER) == 64 + 32
    assert [c.intrinsic for c in bill.crossings].count("federated_sum") == 1


@tff.tensorflow.computation(np.int64)
def _to_float(count):
    return tf.cast(count, tf.float32)


def test_strings_are_left_to_be_measured():
    text = tff.TensorType(np.str_)

    @tff.tensorflow.computation(np.int32, text)
    def accumulate(total, payload):
        return total + tf.strings.length(payload)

    @tff.tensorflow.computation(np.int32, np.int32)
    def merge(a, b):
        return a + b

    @tff.tensorflow.computation(np.int32)
    def report(total):
        return total

    @tff.federated_computation(_clients(text))
    def computation(payloads):
        return tff.federated_aggregate(payloads, 0, accumulate, merge, report)

    bill = ledger.of(computation)
    assert bill.bits(Direction.AGGREGATED) == 0
    assert bill.measured_strings(Direction.AGGREGATED) == 1
    assert bill.crossings[0].content is Content.MODEL


def test_what_types_do_not_tell_is_refused():
    vector = tff.TensorType(np.float32, [None])

    @tff.federated_computation(_server(vector))
    def unknown_length(model):
        return tff.federated_broadcast(model)

    with pytest.raises(NotImplementedError, match="static size"):
        ledger.of(unknown_length)

    @tff.tensorflow.computation(tff.TensorType(np.float32, [5]), np.int32)
    def pick(values, key):
        return tf.gather(values, key)

    @tff.federated_computation(
        _clients(tff.TensorType(np.int32, [2])),
        _server(np.int32),
        _server(tff.TensorType(np.float32, [5])),
    )
    def selecting(keys, largest, values):
        return tff.federated_select(keys, largest, values, pick)

    with pytest.raises(NotImplementedError, match="federated_select"):
        ledger.of(selecting)
