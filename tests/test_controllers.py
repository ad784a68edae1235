import collections
import math

import numpy as np
import pytest
import tensorflow as tf

from fedutils import controllers
from fedutils.codecs import shared
from fedutils.codecs.base import chain, tensors
from fedutils.codecs.entropy.elias import EliasGamma
from fedutils.codecs.quantizers import Stochastic
from fedutils.codecs.transforms import Step
from fedutils.wire import Wire

SHAPES = ((3, 4), (5,))
LINES = len(shared.LineSteps(SHAPES).default_params()["lines"])


def params_of(**values):
    return tensors({"step": 0.5, **values})


def observed(**values):
    """A round of four clients, one of them rejected, but for what is given."""
    usual = {
        "clients": 4,
        "rejected_clients": 1,
        "counted_bits_sum": np.int64(3000),
        "value": np.linspace(-1, 1, 17, dtype=np.float32),
        "weight": 60.0,
        "sum_squared_norm": 8.0,
        "reported_error_sum": 2.0,
        "reported_norm_sum": 10.0,
        controllers.LOSS: 2.0,
    }
    return {name: tf.constant(value) for name, value in {**usual, **values}.items()}


def follow(controller, rounds, name="step", params=None):
    """The parameter after each of these rounds."""
    params = params_of() if params is None else params
    state, values = controller.initialize(params), []
    for seen in rounds:
        state, params = controller.next(state, params, seen)
        values.append(np.asarray(params[name]))
    return np.array(values)


def losses(*values):
    return [observed(**{controllers.LOSS: float(value)}) for value in values]


def test_constant():
    assert (follow(controllers.Constant(), [observed()] * 2) == 0.5).all()


def test_schedule_goes_in_equal_ratios_and_stays():
    steps = follow(controllers.Schedule(last=8.0, rounds=4), [observed()] * 6)
    np.testing.assert_allclose(steps, [1, 2, 4, 8, 8, 8], rtol=1e-5)


def test_rate_on_target_stays():
    """3000 bits of three clients that were not rejected."""
    assert follow(controllers.TargetRate(bits=1000), [observed()] * 3) == pytest.approx(0.5)


def test_rate_moves_by_a_power_of_the_deviation_and_no_further_than_fourfold():
    def after(bits):
        return follow(controllers.TargetRate(bits, gain=0.3), [observed()])[0]

    np.testing.assert_allclose(after(500.0), 0.5 * 2**0.3, rtol=1e-5)
    np.testing.assert_allclose(after(2000.0), 0.5 / 2**0.3, rtol=1e-5)
    np.testing.assert_allclose(after(1.0), 0.5 * 4**0.3, rtol=1e-5)
    np.testing.assert_allclose(after(1e6), 0.5 / 4**0.3, rtol=1e-5)


def test_rate_that_doubles():
    steps = follow(controllers.TargetRate(bits=1000, doubling=2, gain=1.0), [observed()] * 3)
    expected = 0.5 / np.cumprod(2.0 ** (np.arange(3) / 2))
    np.testing.assert_allclose(steps, expected, rtol=1e-5)


def test_distortion_moves_by_a_power_of_the_deviation():
    controller = controllers.TargetDistortion(nmse=0.1, gain=0.5)
    seen = [observed(), observed(reported_error_sum=1.0), observed(reported_error_sum=0.01)]
    expected = 0.5 * np.cumprod([(0.1 / 0.2) ** 0.5, 1.0, 4**0.5])
    np.testing.assert_allclose(follow(controller, seen), expected, rtol=1e-5)


def test_client_variance_is_that_around_the_mean():
    """Of the sum's 8, 2 are error; so 6 / 3 are the mean's, and 10 - 2 the clients' own."""
    controller = controllers.ClientVariance(share=0.5, gain=0.5)
    np.testing.assert_allclose(
        follow(controller, [observed()])[0], 0.5 * (0.5 * 8 / 2) ** 0.5, rtol=1e-5
    )


def test_adaquantfl_follows_the_root_of_the_loss():
    """s = s0 sqrt(f0 / f), where the step is 1 / s; no loss is known in the first round."""
    steps = follow(controllers.AdaQuantFL(), losses(0, 4, 1, 0, 9))
    np.testing.assert_allclose(1 / steps, 2 * np.sqrt([1, 1, 4 / 1, 4 / 1, 4 / 9]), rtol=1e-5)


def test_adaquantfl_with_memory_follows_the_running_mean():
    steps = follow(controllers.AdaQuantFL(exponent=1.0, memory=0.75), losses(0, 4, 2, 0, 1))
    means = [4, 4, 0.75 * 4 + 0.25 * 2, 3.5, 0.75 * 3.5 + 0.25 * 1]
    np.testing.assert_allclose(steps, 0.5 * np.array(means) / 4, rtol=1e-5)


def test_dadaquant_halves_after_patience_rounds_without_improvement():
    controller = controllers.DAdaQuant(patience=3, memory=0.0)
    steps = follow(controller, losses(0, 5, 4, 4, 4, 4, 4, 4, 4, 4))
    # Compared with three rounds before: 4 < 5, then 4 >= 4; the new step gets three rounds, too.
    np.testing.assert_allclose(steps, [0.5] * 5 + [0.25] * 3 + [0.125] * 2)


def test_dadaquant_keeps_the_step_while_the_loss_falls():
    assert (follow(controllers.DAdaQuant(patience=3), losses(*range(50, 1, -1))) == 0.5).all()


def test_dadaquant_compares_running_means():
    """Against the rule written out: means with memory, judged over two rounds, anew after each."""
    drawn = np.random.default_rng(0).uniform(0.5, 1.5, 40)
    steps = follow(controllers.DAdaQuant(patience=2, memory=0.8), losses(*drawn))
    step, mean, since, expected = 0.5, drawn[0], [drawn[0]], [0.5]
    for loss in drawn[1:]:
        mean = 0.8 * mean + 0.2 * loss
        if len(since) >= 2 and mean >= since[-2]:
            step, since = step / 2, []
        since.append(mean)
        expected.append(step)
    assert len(set(expected)) > 3
    np.testing.assert_allclose(steps, np.maximum(expected, 1e-4), rtol=1e-6)


def test_dadaquant_takes_an_unknown_loss_for_no_stall_and_has_a_least_step():
    assert (follow(controllers.DAdaQuant(patience=1), losses(3, 0, 0, 0)) == 0.5).all()
    controller = controllers.DAdaQuant(patience=1, memory=0.0, least=0.2)
    np.testing.assert_allclose(follow(controller, losses(3, 3, 3, 3)), [0.5, 0.25, 0.2, 0.2])
    controller = controllers.DAdaQuant(patience=1, memory=0.0, least=0.7)
    np.testing.assert_allclose(follow(controller, losses(3, 3, 3)), 0.5)


def test_mean_weight_is_that_of_the_clients_that_count():
    units = follow(
        controllers.MeanWeight(),
        [observed(), observed(rejected_clients=4, weight=0.0), observed(weight=30.0)],
        "weight_unit",
        params_of(weight_unit=100.0),
    )
    np.testing.assert_allclose(units, [20, 20, 10])


def test_line_activity_tells_the_levels_of_the_running_sums():
    rng = np.random.default_rng(1)
    values = [(rng.standard_normal(17) ** 3).astype(np.float32) for _ in range(4)]
    controller = controllers.LineActivity(SHAPES, memory=0.5, prior=0.2)
    params = params_of(lines=np.zeros(LINES, np.float32))
    lines = follow(controller, [observed(value=v) for v in values], "lines", params)
    running = np.zeros(LINES)
    for value, told in zip(values, lines, strict=True):
        matrix, vector = np.abs(value[:12].reshape(3, 4)), np.abs(value[12:].reshape(1, 5))
        own = [matrix.sum(1), vector.sum(1), matrix.sum(0), vector.sum(0)]
        running = 0.5 * running + np.concatenate(own)
        expected = shared.levels(SHAPES, tf.constant(running, tf.float32), 0.2)
        np.testing.assert_array_equal(told, expected)
    assert (lines[0] != lines[-1]).any()


def test_lines_of_other_variables_are_refused():
    controller = controllers.LineActivity(SHAPES)
    with pytest.raises(ValueError, match=f"{LINES} rows and columns, the codec's 3.*min_elements"):
        controller.initialize(params_of(lines=np.zeros(3, np.float32)))


def test_together_each_has_its_say():
    both = controllers.Together(
        controllers.Schedule(last=8.0, rounds=4),
        controllers.TargetRate(bits=500, gain=1.0),
        controllers.MeanWeight(),
    )
    params = params_of(weight_unit=100.0, other=3.0)
    state, params = both.next(both.initialize(params), params, observed())
    # The rate's controller is given the schedule's step.
    expected = {"other": 3.0, "step": 2 * 1.0, "weight_unit": 20.0}
    assert {k: float(v) for k, v in params.items()} == pytest.approx(expected)
    assert [int(state[f"part_{i}"]["round"]) for i in range(2)] == [1, 1]


def test_needs_are_those_of_the_parts():
    plain, loss = controllers.Constant(), controllers.AdaQuantFL()
    reports = controllers.TargetDistortion(0.1)
    for parts, wanted in [
        ([plain], (False, False)),
        ([plain, loss], (False, True)),
        ([reports, plain], (True, False)),
        ([loss, controllers.Together(reports)], (True, True)),
    ]:
        together = controllers.Together(*parts)
        needs = controllers.needs_reports(together), controllers.needs_loss(together)
        assert needs == wanted


ALL = [
    controllers.Constant(),
    controllers.Schedule(last=1e-3, rounds=5),
    controllers.TargetRate(bits=1000, doubling=3),
    controllers.TargetDistortion(nmse=0.1),
    controllers.ClientVariance(share=0.1),
    controllers.AdaQuantFL(memory=0.5),
    controllers.DAdaQuant(patience=2, memory=0.5),
    controllers.MeanWeight(),
    controllers.LineActivity(SHAPES),
]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("controller", ALL, ids=lambda c: type(c).__name__)
def test_whatever_is_observed_parameters_stay_finite_and_positive(controller, bad):
    zero = np.zeros(17, np.float32)
    numbers = ["weight", "sum_squared_norm", "reported_error_sum", "reported_norm_sum"]
    none = {"rejected_clients": 4, "counted_bits_sum": np.int64(0), "value": zero + bad}
    damaged = observed(**none, **dict.fromkeys([*numbers, controllers.LOSS], bad))
    initial = params_of(weight_unit=100.0, lines=np.zeros(LINES, np.float32))
    step = controller.next
    for worst in [damaged, *(observed(**{name: bad}) for name in (*numbers, controllers.LOSS))]:
        params = initial
        state = controller.initialize(params)
        for seen in [
            observed(),
            *[worst] * 3,
            observed(),
            observed(counted_bits_sum=np.int64(1)),
        ]:
            state, params = step(state, params, seen)
            assert list(params) == list(initial)
            for name, value in params.items():
                assert np.isfinite(value).all(), name
                assert name == "lines" or value > 0
            assert all(np.isfinite(leaf).all() for leaf in tf.nest.flatten(state))


@pytest.mark.parametrize("controller", ALL[2:], ids=lambda c: type(c).__name__)
def test_a_round_without_a_client_that_counts_changes_no_parameter(controller):
    zero = np.zeros(17, np.float32)
    names = ["weight", "sum_squared_norm", "reported_error_sum", "reported_norm_sum"]
    none = observed(
        rejected_clients=4,
        counted_bits_sum=np.int64(800),
        value=zero,
        **dict.fromkeys([*names, controllers.LOSS], 0.0),
    )
    params = params_of(weight_unit=100.0, lines=np.zeros(LINES, np.float32))
    state, params = controller.next(controller.initialize(params), params, observed())
    _, after = controller.next(state, params, none)
    for name, value in params.items():
        np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("bits", [1.0, 1e9])
def test_a_target_out_of_reach_leaves_a_step_that_codecs_take(bits):
    controller = controllers.TargetRate(bits)
    step = tf.function(controller.next)
    state, params = controller.initialize(params_of()), params_of()
    for _ in range(400):
        state, params = step(state, params, observed())
    codec = chain(Step(), Stochastic(), EliasGamma())
    payload = codec.encode(tf.ones([3]), params, tf.constant([1, 2]))
    assert payload.numpy() != b"" or bits > 1e6  # no int32 holds 1e18
    assert 1e-19 < params["step"] < 1e19


def all_alike(seed):
    rng = np.random.default_rng(seed)
    common = rng.laplace(size=2000)
    return [(common + rng.laplace(size=2000)).astype(np.float32) for _ in range(5)]


def settle(controller, rounds=25):
    """The last rounds of a loop of clients, wire and controller, without TFF."""
    codec = chain(Step(1.0), Stochastic(), EliasGamma())
    wire = Wire(codec, 2000, weighted=False, reports=True)
    params = tensors(codec.default_params())
    state = controller.initialize(params)

    @tf.function
    def client(params, value, word):
        string = wire.encode(wire.announce(params, word), value, tf.constant(1.0))
        received = wire.decode(string)
        return tf.strings.length(string), received

    measured = []
    for turn in range(rounds):
        values = all_alike(turn)
        results = [client(params, tf.constant(v), tf.constant(turn)) for v in values]
        decoded = np.array([received.value for _, received in results])
        total = decoded.sum(0)
        bits = 8 * sum(int(length) for length, _ in results)
        seen = observed(
            clients=5,
            rejected_clients=0,
            counted_bits_sum=np.int64(bits),
            sum_squared_norm=total @ total,
            reported_error_sum=sum(received.squared_error for _, received in results),
            reported_norm_sum=sum(received.squared_norm for _, received in results),
        )
        state, params = controller.next(state, params, seen)
        error = np.sum((decoded - values) ** 2)
        measured.append(
            collections.OrderedDict(
                bits=bits / 5,
                nmse=error / np.sum(np.square(values)),
                share=error / np.sum((values - np.mean(values, axis=0)) ** 2),
            )
        )
    return {name: np.mean([m[name] for m in measured[-10:]]) for name in measured[0]}


@pytest.mark.parametrize(
    ("controller", "name", "target"),
    [
        (controllers.TargetRate(bits=6000), "bits", 6000),
        (controllers.TargetRate(bits=4000), "bits", 4000),
        (controllers.TargetDistortion(nmse=0.03), "nmse", 0.03),
        (controllers.TargetDistortion(nmse=3.0), "nmse", 3.0),
        (controllers.ClientVariance(share=0.1), "share", 0.1),
        (controllers.ClientVariance(share=2.0), "share", 2.0),
    ],
)
def test_targets_are_met_in_a_loop_with_a_codec(controller, name, target):
    assert settle(controller)[name] == pytest.approx(target, rel=0.05)
