import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
import toy

from fedutils import ledger
from fedutils.codecs import recipes
from fedutils.codecs.base import chain
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.lowrank import low_rank_change
from fedutils.codecs.quantizers import Stochastic
from fedutils.codecs.transforms import Rms, Step
from fedutils.distributors import compressed_distributor
from fedutils.ledger import Content, Direction

pytestmark = pytest.mark.usefixtures("tff_worker")

SHAPES = [(50, 60), (60,), (3, 4)]
MODEL_TYPE = tff.to_type([[(np.float32, shape) for shape in SHAPES[:2]], [(np.float32, (3, 4))]])
COARSE = chain(Rms(), Step(2.0), Stochastic(), FixedWidth())


def initial():
    return [
        tf.random.stateless_uniform(shape, [7, i], -1, 1, alg="philox")
        for i, shape in enumerate(SHAPES)
    ]


def model_of(variables):
    return [list(variables[:2]), [variables[2]]]


def flat(variables):
    return np.concatenate([np.ravel(v) for v in tf.nest.flatten(variables)])


@pytest.fixture
def model():
    """Initial weights and what rounds added to them: of rank 2, and noise."""
    rng = np.random.default_rng(0)
    learned = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    learned[0] = learned[0][:, :2] @ rng.standard_normal((2, 60)).astype(np.float32)
    return [a.numpy() + 0.1 * b for a, b in zip(initial(), learned, strict=True)]


def broadcast(codec, *models, clients=2, seed=0):
    """Gives the models to clients, one a round: the last one's copies, measurements, state."""
    process = compressed_distributor(MODEL_TYPE, codec, initial, seed)
    state_type, weights_type = process.next.type_signature.parameter

    @tff.federated_computation(state_type, weights_type, tff.FederatedType(np.int32, tff.CLIENTS))
    def next_round(state, weights, clients):  # TFF counts clients by an argument of theirs
        output = process.next(state, weights)
        return output.state, output.result, output.measurements

    state = process.initialize()
    for model in models:
        state, copies, measured = next_round(state, model_of(model), [0] * clients)
    return copies, measured, state


def test_every_client_gets_initial_model_plus_decoded_change(model):
    codec = low_rank_change(SHAPES, rank=2)
    copies, measured, _ = broadcast(lambda layout: low_rank_change(layout, 2), model, clients=3)
    change = flat(model) - flat(initial())
    payload = codec.encode(tf.constant(change), {}, tf.constant([0, 0]))
    decoded, ok = codec.decode(payload, {}, change.size)
    assert bool(ok)
    assert len(copies) == 3
    for copy in copies:
        np.testing.assert_allclose(flat(copy), flat(initial()) + decoded, atol=1e-6)
    assert measured["model_payload_bits"] == 8 * len(payload.numpy())
    nmse = np.sum((decoded - change) ** 2) / np.sum(change**2)
    assert 0.01 < nmse < 0.5
    np.testing.assert_allclose(measured["model_nmse"], nmse, rtol=1e-4)


def test_first_round_sends_next_to_nothing_and_is_exact():
    copies, measured, state = broadcast(low_rank_change(SHAPES, rank=2), [*initial()])
    assert flat(copies[0]).tobytes() == flat(initial()).tobytes()
    assert measured["model_nmse"] == 0
    assert measured["model_payload_bits"] < 8 * 40
    assert (state["round"], state["seed"]) == (1, 0)


def test_identity_codec_errs_by_the_rounding_of_two_additions_only(model):
    """W0 + (W - W0): each of the two operations is right to half a unit in the last place."""
    model[0][:, :5] *= 1000
    model[1][:] = initial()[1]
    copies, measured, _ = broadcast(recipes.identity, model)
    weights, before = flat(model).astype(np.float64), flat(initial()).astype(np.float64)
    bound = 2.0**-24 * (np.abs(weights - before) + np.abs(weights)) * 1.001
    assert (np.abs(flat(copies[0]) - weights) <= bound).all()
    assert np.array_equal(copies[0][0][1], model[1])
    assert measured["model_payload_bits"] == 8 * (4 + 4 * weights.size)
    assert measured["model_nmse"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_model_that_is_not_finite_arrives_as_nan(bad, model):
    """No client may take the initial model, or half a model, for the server's."""
    model[0][3, 3] = bad
    copies, measured, _ = broadcast(low_rank_change, model)
    assert all(np.isnan(flat(copy)).all() for copy in copies)
    assert measured["model_payload_bits"] == 0
    assert np.isnan(measured["model_nmse"])


def test_what_is_random_is_the_seed_and_the_round(model):
    def received(*models, seed=1):
        copies, *_ = broadcast(COARSE, *models, seed=seed)
        assert flat(copies[0]).tobytes() == flat(copies[1]).tobytes()
        return flat(copies[0])

    assert np.array_equal(received(model), received(model))
    assert not np.array_equal(received(model), received(model, seed=2))
    assert not np.array_equal(received(model), received(model, model))


def test_exactly_one_string_crosses():
    bill = ledger.of(compressed_distributor(MODEL_TYPE, COARSE, initial).next)
    (crossing,) = bill.crossings
    assert (crossing.direction, crossing.type) == (Direction.BROADCAST, tff.TensorType(np.str_))


def test_what_cannot_be_broadcast_is_refused():
    with pytest.raises(TypeError, match="Only float32 models"):
        compressed_distributor(tff.to_type([(np.int32, (3,))]), COARSE, initial)
    with pytest.raises(ValueError, match="initial model has the shapes"):
        compressed_distributor(tff.to_type([(np.float32, (3,))]), COARSE, initial)


def test_federated_averaging_with_the_identity_codec_is_plain_but_for_rounding():
    def begin():
        return [tf.keras.initializers.GlorotNormal(1)((4, 3)), tf.zeros([3])]

    weights_type = tff.learning.models.weights_type_from_model(toy.model)
    distributor = compressed_distributor(weights_type, recipes.identity, begin)
    process, ours = toy.train(model_distributor=distributor)
    _, plain = toy.train()
    assert ours[0].tobytes() == plain[0].tobytes()  # the change of the first round is exactly 0
    np.testing.assert_allclose(ours[-1], plain[-1], atol=1e-6)
    assert np.abs(plain[-1] - plain[0]).max() > 0.01

    bill = ledger.of(process.next)
    assert bill.measured_strings(Direction.BROADCAST) == 1
    assert bill.bits(Direction.BROADCAST, Content.MODEL) == 0
