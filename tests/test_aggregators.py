import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
import toy

from fedutils import adaptive, ledger
from fedutils.aggregators import (
    CompressedMeanFactory,
    CompressedSumFactory,
    CompressedUnweightedMeanFactory,
    Compression,
    compressed_aggregator,
)
from fedutils.codecs import recipes
from fedutils.codecs.base import Codec, chain
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.floats import Raw
from fedutils.codecs.quantizers import Stochastic
from fedutils.codecs.transforms import Rms, Step
from fedutils.controllers import LineActivity, MeanWeight, TargetDistortion, Together
from fedutils.wire import Wire

pytestmark = pytest.mark.usefixtures("tff_worker")

IDENTITY = chain(Raw())
COARSE = chain(Rms(), Step(2.0), Stochastic(), FixedWidth())
VALUE_TYPE = tff.to_type([(np.float32, (3, 4)), (np.float32, (5,))])
VECTOR_TYPE = tff.TensorType(np.float32, [17])
WEIGHT_TYPE = tff.TensorType(np.float32)
WEIGHTS = [3.0, 0.1, 117.0, 20.0]


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return [[rng.standard_normal((3, 4), "f4"), rng.standard_normal(5, "f4")] for _ in WEIGHTS]


@pytest.fixture
def vectors(values):
    return [np.concatenate([a.ravel(), b]) for a, b in values]


def run(process, *arguments, rounds=1):
    state = process.initialize()
    for _ in range(rounds):
        output = process.next(state, *arguments)
        state = output.state
    return output


def test_identity_codec_gives_tffs_mean_bit_for_bit(values):
    ours = run(CompressedMeanFactory(IDENTITY).create(VALUE_TYPE, WEIGHT_TYPE), values, WEIGHTS)
    plain = tff.aggregators.MeanFactory().create(VALUE_TYPE, WEIGHT_TYPE)
    theirs = run(plain, values, WEIGHTS).result
    for a, b in zip(ours.result, theirs, strict=True):
        assert a.tobytes() == b.tobytes()


def test_identity_codec_gives_tffs_unweighted_mean_and_sum_bit_for_bit(vectors):
    for ours, theirs in [
        (CompressedUnweightedMeanFactory(IDENTITY), tff.aggregators.UnweightedMeanFactory()),
        (CompressedSumFactory(IDENTITY), tff.aggregators.SumFactory()),
    ]:
        a = run(ours.create(VECTOR_TYPE), vectors).result
        assert a.tobytes() == run(theirs.create(VECTOR_TYPE), vectors).result.tobytes()


def test_zeroing_and_clipping_are_tffs(values):
    """Norms beyond the first clipping norm of 1, and one beyond the first zeroing norm of 10."""
    values[3] = [v * 100 for v in values[3]]
    ours = compressed_aggregator(IDENTITY).create(VALUE_TYPE, WEIGHT_TYPE)
    theirs = tff.learning.robust_aggregator().create(VALUE_TYPE, WEIGHT_TYPE)
    a, b = run(ours, values, WEIGHTS, rounds=3), run(theirs, values, WEIGHTS, rounds=3)
    for x, y in zip(a.result, b.result, strict=True):
        assert x.tobytes() == y.tobytes()
    assert a.measurements["zeroing_norm"] == b.measurements["zeroing_norm"]
    assert a.measurements["zeroed_count"] == b.measurements["zeroed_count"] == 1


def test_composes_with_concat_factory(values):
    factory = tff.aggregators.concat_factory(CompressedMeanFactory(IDENTITY))
    composed = run(factory.create(VALUE_TYPE, WEIGHT_TYPE), values, WEIGHTS)
    alone = run(CompressedMeanFactory(IDENTITY).create(VALUE_TYPE, WEIGHT_TYPE), values, WEIGHTS)
    for a, b in zip(composed.result, alone.result, strict=True):
        assert np.array_equal(a, b)


def test_is_a_mean_factory_as_the_study_asks():
    assert isinstance(CompressedMeanFactory(IDENTITY), tff.aggregators.MeanFactory)
    assert isinstance(compressed_aggregator(COARSE), tff.aggregators.WeightedAggregationFactory)
    unweighted = compressed_aggregator(COARSE, weighted=False)
    assert isinstance(unweighted, tff.aggregators.UnweightedAggregationFactory)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_client_that_is_not_finite_leaves_numerator_and_denominator(bad, values):
    process = CompressedMeanFactory(IDENTITY).create(VALUE_TYPE, WEIGHT_TYPE)
    values[2][0][1, 1] = bad
    output = run(process, values, WEIGHTS)
    kept = [0, 1, 3]
    expected = run(process, [values[i] for i in kept], [WEIGHTS[i] for i in kept])
    for a, b in zip(output.result, expected.result, strict=True):
        assert np.array_equal(a, b)
    assert output.measurements["rejected_clients"] == 1
    assert output.measurements["payload_bits_sum"] == expected.measurements["payload_bits_sum"]


def test_client_whose_weight_is_not_finite_is_rejected(values):
    process = CompressedMeanFactory(IDENTITY).create(VALUE_TYPE, WEIGHT_TYPE)
    output = run(process, values, [1.0, np.nan, 1.0, 1.0])
    assert output.measurements["rejected_clients"] == 1
    assert all(np.isfinite(a).all() for a in output.result)


def test_mean_is_zero_if_every_client_is_rejected(vectors):
    process = CompressedMeanFactory(IDENTITY).create(VECTOR_TYPE, WEIGHT_TYPE)
    output = run(process, [v * np.nan for v in vectors], WEIGHTS)
    assert not output.result.any()
    assert output.measurements["rejected_clients"] == len(vectors)
    assert output.measurements["payload_bits_max"] == 0


@dataclasses.dataclass(frozen=True)
class Damaging(Codec):
    """Flips a bit of the payload of vectors that begin with a number above 100."""

    def encode(self, x, params, seed):
        payload = super().encode(x, params, seed)
        data = tf.io.decode_raw(payload, tf.uint8)
        flipped = tf.concat([data[:-1], tf.bitwise.bitwise_xor(data[-1:], 4)], axis=0)
        damaged = tf.strings.reduce_join(tf.gather(ALL_BYTES, tf.cast(flipped, tf.int32)))
        return tf.where(x[0] > 100, damaged, payload)


ALL_BYTES = [bytes([i]) for i in range(256)]


def test_damaged_payload_is_rejected_and_billed(vectors):
    codec = Damaging(IDENTITY.stages, IDENTITY.coder)
    process = CompressedUnweightedMeanFactory(codec).create(VECTOR_TYPE)
    vectors[1][0] = 1000
    output = run(process, vectors)
    expected = run(process, [vectors[i] for i in (0, 2, 3)])
    assert np.array_equal(output.result, expected.result)
    assert output.measurements["rejected_clients"] == 1
    assert output.measurements["payload_bits_sum"] == 4 * 8 * (4 + 4 * 17)


def test_payload_bits_are_the_strings(values):
    """The step, the weight and the check, 32 bits each; the scale; four bits or so a number."""
    process = CompressedMeanFactory(COARSE).create(VALUE_TYPE, WEIGHT_TYPE)
    wire = Wire(COARSE, 17, weighted=True)
    seed = announced_seed(process)
    lengths = []
    for value, weight in zip(values, WEIGHTS, strict=True):
        x = tf.concat([tf.reshape(v, [-1]) for v in value], axis=0)
        string = wire.encode(
            {"step": tf.constant(2.0), "seed": seed}, x, tf.constant(weight)
        ).numpy()
        lengths.append(8 * len(string))
    measured = run(process, values, WEIGHTS).measurements
    assert measured["payload_bits_sum"] == sum(lengths)
    assert measured["payload_bits_max"] == max(lengths)


def announced_seed(process):
    state = process.initialize()
    return tf.random.stateless_uniform(
        [], [state["seed"], state["round"]], None, None, tf.int32, alg="philox"
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_exactly_one_string_crosses_from_each_client(weighted):
    factory = compressed_aggregator(COARSE, zeroing=False, clipping=False, weighted=weighted)
    process = factory.create(VALUE_TYPE, *[WEIGHT_TYPE] * weighted)
    crossed = []

    def note(block):
        if isinstance(block, tff.framework.Call):
            function = block.function
            if isinstance(function, tff.framework.Intrinsic) and function.uri.startswith(
                "federated_aggregate"
            ):
                crossed.append(block.argument.type_signature[0].member)
        return block, False

    tff.framework.transform_postorder(process.next.to_building_block(), note)
    assert crossed == [tff.TensorType(np.str_)]


def test_runs_with_equal_seeds_are_equal_and_others_not(vectors):
    def result(seed, rounds=1):
        process = CompressedMeanFactory(Compression(COARSE, seed)).create(VECTOR_TYPE, WEIGHT_TYPE)
        return run(process, vectors, WEIGHTS, rounds=rounds).result

    assert np.array_equal(result(1), result(1))
    assert not np.array_equal(result(1), result(2))
    assert not np.array_equal(result(1), result(1, rounds=2))


def test_mean_of_a_coarse_unbiased_codec_is_right_over_rounds(vectors):
    process = CompressedMeanFactory(COARSE).create(VECTOR_TYPE, WEIGHT_TYPE)
    state, results = process.initialize(), []
    for _ in range(200):
        output = process.next(state, vectors, WEIGHTS)
        state = output.state
        results.append(output.result)
    expected = np.average(vectors, axis=0, weights=WEIGHTS)
    deviation = (np.mean(results, axis=0) - expected) / (np.std(results, axis=0) / np.sqrt(200))
    assert np.abs(deviation).max() < 4.5


class Doubling:
    """Doubles the step when the payload was large; counts how often."""

    def initialize(self, params):
        return collections.OrderedDict(times=tf.constant(0))

    def next(self, state, params, measurements):
        large = measurements["payload_bits_max"] > 0
        step = tf.where(large, 2 * params["step"], params["step"])
        times = state["times"] + tf.cast(large, tf.int32)
        return collections.OrderedDict(times=times), collections.OrderedDict(step=step)


def test_controller_changes_the_parameters_of_the_next_round(vectors):
    compression = Compression(COARSE, controller=Doubling())
    process = CompressedMeanFactory(compression).create(VECTOR_TYPE, WEIGHT_TYPE)
    output = run(process, vectors, WEIGHTS, rounds=3)
    assert output.measurements["params"]["step"] == 8.0
    assert output.measurements["rejected_clients"] == 0
    assert output.state["params"]["step"] == 16.0
    assert output.state["controller"]["times"] == 3


def test_measured_norms_are_those_of_the_decoded_values(vectors):
    measured = run(CompressedSumFactory(IDENTITY).create(VECTOR_TYPE), vectors).measurements
    np.testing.assert_allclose(measured["squared_norm_sum"], np.sum(np.square(vectors)), rtol=1e-5)
    total = np.sum(vectors, axis=0)
    np.testing.assert_allclose(measured["sum_squared_norm"], total @ total, rtol=1e-5)


def test_small_variables_are_whole_if_the_caller_wants_it(values):
    weights = [1.0, 1.0, 1.0, 1.0]
    plain = [np.mean([v[i] for v in values], axis=0) for i in range(2)]
    options = {"zeroing": False, "clipping": False}
    whole = compressed_aggregator(COARSE, min_elements=6, **options)
    output = run(whole.create(VALUE_TYPE, WEIGHT_TYPE), values, weights)
    np.testing.assert_allclose(output.result[1], plain[1], rtol=1e-6)
    assert not np.allclose(output.result[0], plain[0])
    # Whole, five numbers cost 160 bits; coded, hardly any.
    coded = compressed_aggregator(COARSE, **options).create(VALUE_TYPE, WEIGHT_TYPE)
    saved = run(coded, values, weights).measurements["payload_bits_sum"]
    assert output.measurements["payload_bits_sum"] - saved > 4 * 120


def test_builder_is_given_the_shapes_of_the_large_variables():
    given = []

    def build(layout):
        given.append(list(layout))
        return COARSE

    compressed_aggregator(build, min_elements=6).create(VALUE_TYPE, WEIGHT_TYPE)
    compressed_aggregator(build).create(VALUE_TYPE, WEIGHT_TYPE)
    assert given == [[(3, 4)], [(3, 4), (5,)]]


def lined(step=0.01, seed=3):
    """A codec with a vector among its parameters, and what makes that change."""

    def controller(layout):
        return Together(MeanWeight(), LineActivity(tuple(layout)))

    return Compression(lambda layout: adaptive.codec(layout, step), seed, controller)


def announced(process, state, wire):
    seed = tf.random.stateless_uniform(
        [], [state["seed"], state["round"]], None, None, tf.int32, alg="philox"
    )
    params = collections.OrderedDict((k, tf.constant(v)) for k, v in state["params"].items())
    return params, wire.announce(params, seed)


@pytest.mark.parametrize("rejected", [[], [2], [0, 1, 2, 3]])
def test_vectors_among_the_parameters_are_known_to_the_server_alone(values, rejected):
    """The second round's mean from strings that are made and read here."""
    process = CompressedMeanFactory(lined()).create(VALUE_TYPE, WEIGHT_TYPE)
    state = process.next(process.initialize(), values, WEIGHTS).state
    assert state["params"]["lines"].any()
    for i in rejected:
        values[i][1][0] = np.nan
    output = process.next(state, values, WEIGHTS)

    wire = Wire(adaptive.codec([(3, 4), (5,)], 0.01), 17, weighted=True)
    params, message = announced(process, state, wire)
    strings = [
        wire.encode(message, tf.concat([tf.reshape(v, [-1]) for v in value], 0), tf.constant(w))
        for value, w in zip(values, WEIGHTS, strict=True)
    ]
    received = [wire.decode(string, params) for string in strings]
    assert [i for i, r in enumerate(received) if not r.ok] == rejected
    total = np.sum([r.value for r in received], axis=0)
    weight = np.float32(sum(r.weight.numpy() for r in received))
    expected = total / weight if weight else total
    result = np.concatenate([r.ravel() for r in output.result])
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)
    measured = output.measurements
    assert measured["rejected_clients"] == len(rejected)
    assert measured["payload_bits_sum"] == sum(8 * len(s.numpy()) for s in strings)
    assert measured["announcement_bits"] == 8 * len(message["context"].numpy())
    assert sorted(measured["params"]) == ["step", "weight_unit"]


def test_damaged_payload_is_rejected_by_the_server(vectors):
    codec = adaptive.codec([(17,)], 1e-3)
    codec = Damaging(codec.stages, codec.coder)
    process = CompressedUnweightedMeanFactory(codec).create(VECTOR_TYPE)
    vectors[1][0] = 1000
    output = run(process, vectors)
    expected = run(process, [vectors[i] for i in (0, 2, 3)])
    np.testing.assert_allclose(output.result, expected.result, rtol=1e-6)
    assert output.measurements["rejected_clients"] == 1
    assert output.measurements["payload_bits_sum"] > expected.measurements["payload_bits_sum"]


def test_one_string_up_and_one_context_down():
    bill = ledger.of(CompressedMeanFactory(lined()).create(VALUE_TYPE, WEIGHT_TYPE).next)
    up, down = ledger.Direction.AGGREGATED, ledger.Direction.BROADCAST
    assert (bill.measured_strings(up), bill.bits(up)) == (1, 0)
    # The step, the unit of weight and the seed, 32 bits each.
    assert (bill.measured_strings(down), bill.bits(down)) == (1, 3 * 32)


@pytest.mark.parametrize("weighted", [True, False])
def test_reports_are_the_clients_errors_and_cost_eight_bytes(weighted, vectors):
    def process(controller):
        factory = CompressedMeanFactory if weighted else CompressedUnweightedMeanFactory
        compression = Compression(COARSE, 5, **controller)
        return factory(compression).create(VECTOR_TYPE, *[WEIGHT_TYPE] * weighted)

    arguments = [vectors, WEIGHTS] if weighted else [vectors]
    reporting = process({"controller": TargetDistortion(0.1)})
    output, silent = run(reporting, *arguments), run(process({}), *arguments)
    wire = Wire(COARSE, 17, weighted)
    _, message = announced(reporting, reporting.initialize(), wire)
    error = norm = 0
    for vector, weight in zip(vectors, WEIGHTS, strict=True):
        received = wire.decode(wire.encode(message, tf.constant(vector), tf.constant(weight)))
        value = vector * np.float32(weight) if weighted else vector
        error += np.sum((received.value - value) ** 2)
        norm += value @ value
    measured = output.measurements
    np.testing.assert_allclose(measured["reported_error_sum"], error, rtol=1e-5)
    np.testing.assert_allclose(measured["reported_norm_sum"], norm, rtol=1e-5)
    assert measured["payload_bits_sum"] - silent.measurements["payload_bits_sum"] == 4 * 64
    assert "reported_error_sum" not in silent.measurements
    np.testing.assert_array_equal(output.result, silent.result)
    ratio = np.clip(0.1 * norm / error, 0.25, 4)
    np.testing.assert_allclose(output.state["params"]["step"], 2 * ratio**0.5, rtol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_vectors_below_zeroing_and_clipping(weighted, values):
    """With a fine step, what the codec that loses nothing gives there."""
    values[3] = [v * 100 for v in values[3]]
    arguments = [values, WEIGHTS] if weighted else [values]

    def output(compression):
        factory = compressed_aggregator(compression, weighted=weighted)
        return run(factory.create(VALUE_TYPE, *[WEIGHT_TYPE] * weighted), *arguments, rounds=3)

    fine, plain = output(lined(1e-6)), output(IDENTITY)
    for a, b in zip(fine.result, plain.result, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.abs(b).max() > 0.01
    assert fine.measurements["zeroed_count"] == plain.measurements["zeroed_count"] == 1


def test_lines_of_all_variables_but_a_codec_of_the_large_ones_are_refused():
    factory = compressed_aggregator(lined(), min_elements=6)
    with pytest.raises(ValueError, match="min_elements=0"):
        factory.create(VALUE_TYPE, WEIGHT_TYPE)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_works_where_tff_computes(name, values):
    factory = compressed_aggregator(recipes.RECIPES[name].build, zeroing=False, clipping=False)
    output = run(factory.create(VALUE_TYPE, WEIGHT_TYPE), values, WEIGHTS)
    assert output.measurements["rejected_clients"] == 0
    assert output.measurements["payload_bits_sum"] > 0
    assert all(np.isfinite(a).all() for a in output.result)


@pytest.mark.parametrize("norms", [{"zeroing": False}, {"clipping": False}])
def test_norms_of_updates_with_what_clients_derived_are_not_clipped(norms):
    compression = Compression(lined(), derive=lambda layout, change: {})
    with pytest.raises(ValueError, match="zeroing=False and clipping=False"):
        compressed_aggregator(compression, **norms)


def test_only_float32_is_encoded():
    with pytest.raises(TypeError, match="Only float32"):
        CompressedSumFactory(IDENTITY).create(tff.TensorType(np.int32, [3]))
    with pytest.raises(TypeError, match="weight must be a float32"):
        CompressedMeanFactory(IDENTITY).create(VECTOR_TYPE, tff.TensorType(np.int32))


def test_federated_averaging_with_the_identity_codec_is_plain_bit_for_bit():
    def weights(aggregator):
        return toy.train(model_aggregator=aggregator)[1][-1]

    plain = weights(tff.aggregators.MeanFactory())
    ours = weights(compressed_aggregator(recipes.identity, zeroing=False, clipping=False))
    assert plain.tobytes() == ours.tobytes()
