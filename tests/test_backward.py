"""Lines that both sides see in the model, against lines that the server announces."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
import toy

from fedutils import adaptive, backward, ledger
from fedutils.aggregators import derives
from fedutils.ledger import Direction

pytestmark = pytest.mark.usefixtures("tff_worker")

PRIOR = 0.5
UP, DOWN = Direction.AGGREGATED, Direction.BROADCAST


def aggregator(backward):
    return adaptive.lean(1, step=0.01, size=9, prior=PRIOR, backward=backward)


@pytest.fixture(scope="module")
def announcing():
    return toy.averaging(model_aggregator=aggregator(False))


@pytest.fixture(scope="module")
def start(tff_worker):
    """The initial model's variables."""
    plain = toy.averaging()
    return plain.get_model_weights(plain.initialize()).trainable


@pytest.fixture(scope="module")
def deriving(start):
    return toy.averaging(
        functools.partial(
            backward.build_weighted_fed_avg,
            initial=lambda: [tf.constant(variable) for variable in start],
            loop_implementation=tff.learning.LoopImplementation.DATASET_ITERATOR,
        ),
        model_aggregator=aggregator(True),
    )


def lines_of(process, state, start):
    """Levels of the model's change, in numpy: the kernel's rows, the bias's, then the columns'."""
    change = toy.weights(process, state) - np.concatenate([np.ravel(v) for v in start])
    if not change.any():
        return np.zeros(11)
    kernel, bias = np.abs(change[:12].reshape(4, 3)), np.abs(change[12:].reshape(1, 3))
    share = [m.sum() / (kernel.sum() + bias.sum()) + PRIOR / 100 for m in (kernel, bias)]
    rows = [m.sum(1) / m.sum() * m.shape[0] + PRIOR for m in (kernel, bias)]
    columns = [
        (m.sum(0) / m.sum() * 3 + PRIOR) * of_variable * 15 / m.size
        for m, of_variable in zip((kernel, bias), share, strict=True)
    ]
    return np.round(2 * np.log2(np.concatenate([*rows, *columns]))) + 0.0  # no -0


def test_both_sides_use_the_lines_of_the_model_that_clients_get(deriving, start):
    state, seen = deriving.initialize(), []
    for _ in range(4):
        expected = lines_of(deriving, state, start)
        output = deriving.next(state, toy.clients())
        state = output.state
        np.testing.assert_array_equal(state.aggregator["params"]["lines"], expected)
        assert output.metrics["aggregator"]["rejected_clients"] == 0
        seen.append(expected)
    assert not seen[0].any() and all(np.ptp(lines) >= 2 for lines in seen[1:])


def test_it_is_what_announcing_these_lines_gives_bit_for_bit(deriving, announcing, start):
    state, told = deriving.initialize(), announcing.initialize()
    for _ in range(3):
        told.aggregator["params"]["lines"] = np.float32(lines_of(announcing, told, start))
        told = announcing.next(told, toy.clients()).state
        state = deriving.next(state, toy.clients()).state
        assert toy.weights(deriving, state).tobytes() == toy.weights(announcing, told).tobytes()


def test_nothing_crosses_but_what_did_before_and_no_announcement(deriving, announcing):
    derived, announced = ledger.of(deriving.next), ledger.of(announcing.next)
    for direction in Direction:
        assert derived.bits(direction) == announced.bits(direction)
    assert (announced.measured_strings(UP), announced.measured_strings(DOWN)) == (1, 1)
    assert (derived.measured_strings(UP), derived.measured_strings(DOWN)) == (1, 0)
    output = deriving.next(deriving.initialize(), toy.clients())
    assert "announcement_bits" not in output.metrics["aggregator"]


def test_a_model_that_was_put_in_its_place_is_what_both_sides_see(deriving, start):
    rng = np.random.default_rng(5)
    moved = [v + rng.standard_normal(v.shape).astype("f4") for v in start]
    model = tff.learning.models.ModelWeights(moved, [])
    state = deriving.set_model_weights(deriving.initialize(), model)
    output = deriving.next(state, toy.clients())
    expected = lines_of(deriving, state, start)
    assert expected.any()
    np.testing.assert_array_equal(output.state.aggregator["params"]["lines"], expected)
    assert output.metrics["aggregator"]["rejected_clients"] == 0


def test_a_client_that_derived_other_lines_is_left_out():
    update_type = tff.to_type([(np.float32, (4, 3)), (np.float32, (3,))])
    handed = tff.to_type({"update": update_type, "derived": {"lines": (np.float32, (11,))}})
    process = aggregator(True).create(handed, tff.TensorType(np.float32))
    update = [np.ones((4, 3), "f4"), np.ones(3, "f4")]
    other = np.eye(11, dtype="f4")[2]
    clients = [{"update": update, "derived": {"lines": lines}} for lines in (0 * other, other)]
    output = process.next(process.initialize(), clients, [10.0, 10.0])
    alone = process.next(process.initialize(), clients[:1], [10.0])
    assert output.measurements["rejected_clients"] == 1
    for a, b in zip(output.result, alone.result, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_initial_model_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match="initial model has the shapes"):
        toy.averaging(
            functools.partial(
                backward.build_weighted_fed_avg,
                initial=lambda: [tf.zeros([3, 4]), tf.zeros([3])],
                loop_implementation=tff.learning.LoopImplementation.DATASET_ITERATOR,
            ),
            model_aggregator=aggregator(True),
        )


def test_who_derives():
    assert derives(aggregator(True)) and not derives(aggregator(False))
    assert not derives(adaptive.lean(1, learns_lines=False, backward=True))
    assert not derives(tff.aggregators.MeanFactory())
