import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import tensorflow as tf

from fedutils.codecs.base import chain, tensors
from fedutils.codecs.floats import Raw
from fedutils.codecs.transforms import (
    ClientStep,
    Clip,
    Hadamard,
    Max,
    Norm,
    RelativeStep,
    Rms,
    SetAside,
    Step,
    WeightUnit,
    walsh_hadamard,
)

SEED = tf.constant([3, 4])


@pytest.mark.parametrize("bits", [0, 1, 5, 7, 8, 12])
def test_walsh_hadamard_is_the_hadamard_matrix(bits, rng):
    x = rng.standard_normal(2**bits).astype(np.float32)
    expected = scipy.linalg.hadamard(2**bits) @ x / 2 ** (bits / 2)
    np.testing.assert_allclose(walsh_hadamard(tf.constant(x), bits), expected, atol=1e-4)
    traced = tf.function(walsh_hadamard)(tf.constant(x), tf.constant(bits))
    np.testing.assert_allclose(traced, expected, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 63, 64, 65, 1000, 4097])
def test_rotation_keeps_length_and_norm_and_can_be_undone(n, rng):
    x = rng.standard_normal(n).astype(np.float32)
    y = Hadamard().encode(tf.constant(x), {}, SEED).values
    assert y.shape == (n,)
    np.testing.assert_allclose(np.linalg.norm(y), np.linalg.norm(x), rtol=1e-5)
    back = Hadamard().decode(y, None, {}, SEED, n).values
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_rotation_is_a_matrix_with_orthonormal_columns():
    n = 11
    columns = [Hadamard().encode(tf.constant(e), {}, SEED).values for e in np.eye(n, dtype="f4")]
    np.testing.assert_allclose(np.stack(columns) @ np.stack(columns).T, np.eye(n), atol=1e-6)


@pytest.mark.parametrize("n", [2**14, 2**14 + 2**13, 2**15 - 1])
def test_rotated_update_looks_gaussian_everywhere(n, rng):
    """Energy in one eighth of the vector only, in few numbers: the worst of a real model."""
    x = np.zeros(n, np.float32)
    x[: n // 8] = rng.standard_normal(n // 8) * (rng.random(n // 8) < 0.1)
    y = Hadamard().encode(tf.constant(x), {}, SEED).values.numpy()
    y /= np.sqrt(np.mean(y**2))
    assert scipy.stats.kstest(y, "norm").statistic < 0.02
    eighths = [np.mean(part**2) for part in np.array_split(y, 8)]
    np.testing.assert_allclose(eighths, 1, atol=0.15)


def test_scales_are_their_statistics(rng):
    x = rng.standard_normal(1000).astype(np.float32) * 3
    for stage, expected in [
        (Rms(2.0), 2 * np.sqrt(np.mean(x**2))),
        (Norm(), np.linalg.norm(x)),
        (Max(1.5), 1.5 * np.abs(x).max()),
    ]:
        y, side, _ = stage.encode(tf.constant(x), {}, SEED)
        np.testing.assert_allclose(side[0], expected, rtol=1e-5)
        np.testing.assert_allclose(y, x / expected, rtol=1e-5)


def test_rms_does_not_overflow_where_squares_would():
    x = np.float32([3e30, -4e30])
    _, side, _ = Norm().encode(tf.constant(x), {}, SEED)
    np.testing.assert_allclose(side[0], 5e30, rtol=1e-6)


def test_weight_unit_divides_by_the_weight_of_a_typical_client(through):
    x = np.float32([300, -75, 0])
    codec = chain(WeightUnit(150.0), Raw())
    assert codec.default_params() == {"weight_unit": 150.0}
    values, payload = through(codec, x)
    assert np.array_equal(np.frombuffer(payload[4:], "<f4"), [2, -0.5, 0])
    assert np.array_equal(values, x)
    assert np.array_equal(np.frombuffer(through(codec, x, weight_unit=75.0)[1][4:], "<f4")[0], 4)


@pytest.mark.parametrize("weight, divisor", [(100, 0.5), (800, 0.125), (12.5, 2.0)])
def test_heavier_clients_step_finer_to_the_power_of_two_thirds(weight, divisor, through):
    x = np.float32([1, -3, 0])
    codec = chain(ClientStep(0.5, guess=100.0), Raw())
    values, payload = through(codec, x, weight=weight)
    np.testing.assert_allclose(np.frombuffer(payload[4:], "<f4"), x / divisor, rtol=1e-5)
    np.testing.assert_allclose(values, x, rtol=1e-6)


def test_outside_a_weighted_mean_all_clients_step_alike(rng):
    x = tf.constant(rng.standard_normal(100), tf.float32)
    for unit in (1.0, 77.0):
        params = tensors({"step": 0.3, "weight_unit": unit})
        found = ClientStep().encode(x, params, SEED).values
        assert np.array_equal(found, Step().encode(x, params, SEED).values)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_units_that_are_not_positive_are_refused(bad):
    for stage, params in [
        (WeightUnit(), {"weight_unit": bad}),
        (ClientStep(), {"step": bad, "weight_unit": 1.0}),
    ]:
        assert chain(stage, Raw()).encode([1.0], tensors(params), SEED).numpy() == b""


@pytest.mark.parametrize("weight", [0.0, 1e-30])
def test_a_client_without_weight_has_a_finite_step(weight, through):
    values, _ = through(chain(ClientStep(), Raw()), np.float32([0, 1]), weight=weight)
    np.testing.assert_allclose(values, [0, 1], rtol=1e-5)


def test_clip_is_relative_to_the_standard_deviation(rng):
    x = rng.standard_normal(10_000).astype(np.float32)
    y = Clip(2.0).encode(tf.constant(x), {}, SEED).values
    bound = 2 * np.sqrt(np.mean(x**2))
    np.testing.assert_allclose(y, np.clip(x, -bound, bound), rtol=1e-6)


def test_small_variables_are_set_aside_and_put_back(rng, through):
    sizes = (3, 50, 2, 60)
    x = rng.standard_normal(sum(sizes)).astype(np.float32)
    stage = SetAside(sizes, 10)
    y, side, _ = stage.encode(tf.constant(x), {}, SEED)
    assert np.array_equal(side, np.concatenate([x[:3], x[53:55]]))
    assert np.array_equal(y, np.concatenate([x[3:53], x[55:]]))
    values, payload = through(chain(stage, Raw()), x)
    assert np.array_equal(values, x)
    assert len(payload) == 4 + 4 * x.size


def test_set_aside_names_the_length_it_was_made_for():
    with pytest.raises(ValueError, match="vectors of 5 numbers, not 6"):
        chain(SetAside((2, 3), 3), Raw()).bound_bits(6)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e20])
def test_relative_step_is_rms_and_step_at_once(scale, rng):
    x = tf.constant(scale * rng.standard_normal(1000).astype(np.float32))
    params = tensors({"step": 2.5})
    at_once = RelativeStep().encode(x, params, SEED)
    rms = Rms().encode(x, {}, SEED)
    np.testing.assert_allclose(
        at_once.values, Step().encode(rms.values, params, SEED).values, rtol=1e-6
    )
    assert at_once.side == rms.side
    back = RelativeStep().decode(at_once.values, at_once.side, params, SEED, 1000).values
    np.testing.assert_allclose(back, x, rtol=1e-6)


def test_relative_step_of_zeros_and_of_no_step():
    zeros = RelativeStep().encode(tf.zeros([3]), tensors({"step": 2.0}), SEED)
    assert bool(zeros.ok) and not np.any(zeros.values)
    assert not RelativeStep().encode(tf.ones([3]), tensors({"step": 0.0}), SEED).ok
