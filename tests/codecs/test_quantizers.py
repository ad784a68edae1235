"""Errors and variances against theory."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from fedutils.codecs import recipes
from fedutils.codecs.base import chain
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.quantizers import (
    DeadZone,
    Dithered,
    MinMax,
    Nearest,
    Stochastic,
    Systematic,
    TwoMeans,
    stochastic_round,
)
from fedutils.codecs.transforms import Norm, Step


def test_nearest_error_at_fine_steps_is_a_twelfth_of_the_step_squared(rng, through):
    x = rng.standard_normal(100_000).astype(np.float32)
    values, _ = through(chain(Step(0.1), Nearest(), FixedWidth()), x)
    np.testing.assert_allclose(np.mean((values - x) ** 2), 0.1**2 / 12, rtol=0.02)


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.3, -0.5, 2.75, -7.999])
def test_stochastic_rounding_has_the_mean_and_variance_of_theory(value):
    n = 1_000_000
    rounded = stochastic_round(tf.fill([n], value), tf.constant([5, 6])).numpy()
    assert set(rounded) <= {np.floor(value), np.ceil(value)}
    fraction = value - np.floor(value)
    variance = fraction * (1 - fraction)
    assert abs(rounded.mean(dtype=np.float64) - value) < 5 * np.sqrt(variance / n) + 1e-6
    assert abs(rounded.var(dtype=np.float64) - variance) < 0.005


def test_stochastic_rounding_of_tiny_numbers_is_not_biased():
    """Adding float32 noise and rounding down never rounds 2^-26 up, or far too often."""
    rounded = stochastic_round(tf.fill([2**30 // 16], 2.0**-20), tf.constant([5, 6]))
    count = tf.reduce_sum(tf.cast(rounded, tf.float64)).numpy()
    assert abs(count - 64) < 5 * 8


SHAPES = ((5, 4), (3,), (), (2, 3, 6))
TOTAL = 20 + 3 + 1 + 36


def by_column(x, shapes=SHAPES):
    """The order in which systematic rounding runs through variables."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    columns = [shape[-1] if shape else 1 for shape in shapes]
    pieces = zip(np.split(x, ends), columns, strict=True)
    return np.concatenate([piece.reshape(-1, c).T.ravel() for piece, c in pieces])


def systematic(x, seed=0, shapes=SHAPES):
    rounded, _, ok = Systematic(shapes).encode(tf.constant(x), {}, tf.constant([5, seed]))
    assert ok
    return rounded.numpy()


@pytest.mark.parametrize("scale", [0.01, 0.5, 3, 1000])
def test_systematic_rounding_keeps_running_sums(scale, rng):
    for seed in range(20):
        x = (scale * rng.standard_normal(TOTAL) * (rng.random(TOTAL) < 0.8)).astype(np.float32)
        rounded = systematic(x, seed)
        assert np.all((rounded == np.floor(x)) | (rounded == np.ceil(x)))
        error = by_column(rounded - x.astype(np.float64))
        for sign in (by_column(x) > 0, by_column(x) < 0):
            assert np.abs(np.cumsum(error * sign)).max() < 1
        starts = np.concatenate([[0], np.cumsum(error)])
        assert np.abs(starts[:, None] - starts).max() < 2  # Of any run, not only from the first.


def test_systematic_rounding_keeps_the_sums_of_a_long_vector(rng):
    x = (0.01 * rng.standard_normal(2_000_000) * (rng.random(2_000_000) < 0.5)).astype(np.float32)
    rounded = systematic(x, shapes=((1000, 2000),))
    assert not np.any(rounded[x == 0])
    assert np.all((rounded == np.floor(x)) | (rounded == np.ceil(x)))
    error = by_column(rounded - x.astype(np.float64), ((1000, 2000),))
    assert np.abs(np.cumsum(error)).max() < 2


def test_systematic_rounding_is_unbiased(rng):
    x = (rng.standard_normal(TOTAL) * 10.0 ** rng.integers(-2, 1, TOTAL)).astype(np.float32)
    stage, trials, given = Systematic(SHAPES), 20_000, tf.constant(x)
    seeds = tf.stack([tf.range(trials), tf.zeros([trials], tf.int32)], 1)
    rounded = tf.function(lambda s: tf.map_fn(lambda seed: stage.encode(given, {}, seed).values, s))
    mean = rounded(seeds).numpy().mean(0)
    fraction = x - np.floor(x)
    assert np.all(np.abs(mean - x) < 5 * np.sqrt(fraction * (1 - fraction) / trials) + 1e-6)


def test_systematic_errors_cancel_in_a_column(rng):
    shapes = ((500, 20),)
    x = (0.1 * rng.standard_normal(10_000)).astype(np.float32)
    errors = {Systematic(shapes): [], Stochastic(): []}
    for stage, found in errors.items():
        for seed in range(20):
            rounded = stage.encode(tf.constant(x), {}, tf.constant([5, seed])).values
            found.append((rounded.numpy() - x).reshape(500, 20).sum(0))
    cancelled, usual = (np.mean(np.square(found)) for found in errors.values())
    fraction = np.abs(x) % 1
    np.testing.assert_allclose(usual, 500 * np.mean(fraction * (1 - fraction)), rtol=0.3)
    assert cancelled < usual / 50


@pytest.mark.parametrize("n", [0, 1, TOTAL - 1, TOTAL, TOTAL + 1])
@pytest.mark.parametrize("shapes", [SHAPES, ()])
def test_systematic_rounding_of_any_length_known_or_not(n, shapes, rng):
    x = rng.standard_normal(n).astype(np.float32)
    rounded = systematic(x, shapes=shapes)
    assert np.all((rounded == np.floor(x)) | (rounded == np.ceil(x)))
    traced = tf.function(
        lambda x: Systematic(shapes).encode(x, {}, tf.constant([5, 0])).values,
        input_signature=[tf.TensorSpec([None])],
    )
    np.testing.assert_array_equal(traced(x), rounded)
    error = rounded - x.astype(np.float64)
    error = by_column(error) if n == TOTAL and shapes else error
    assert n == 0 or np.abs(np.cumsum(error)).max() < 2


def test_systematic_rounding_of_whole_numbers_and_of_empty_variables():
    x = np.float32([0, -0.0, 3, -7, 2**20, -(2**20), 0])
    for shapes in ((), ((7,),), ((0, 5), (7,), (5, 0))):
        assert np.array_equal(systematic(x, shapes=shapes), x)


def test_dither_error_is_uniform_and_independent_of_the_input(rng, through):
    x = np.repeat(np.float32([0.0, 0.1, 0.5, 17.3]), 50_000)
    values, _ = through(chain(Dithered(), FixedWidth()), x)
    error = values - x
    assert scipy.stats.kstest(error, "uniform", args=(-0.5, 1)).pvalue > 1e-3
    for part in np.split(error, 4):
        np.testing.assert_allclose(part.var(), 1 / 12, rtol=0.02)


def test_dead_zone(through):
    x = np.float32([0.0, 0.66, 0.67, -0.67, 1.66, -1.67])
    values, _ = through(chain(DeadZone(1 / 3), FixedWidth()), x)
    assert np.array_equal(values, [0, 0, 1, -1, 1, -2])


def test_qsgd_variance_is_that_of_theory(rng, through):
    """Alistarh et al. 2017: E|Q(v) - v|^2 = (|v| / s)^2 sum f (1 - f), at most lemma 3.1's."""
    n, levels = 5000, 16
    v = rng.standard_normal(n).astype(np.float32)
    codec = recipes.qsgd([(n,)], levels=levels)
    errors = [np.sum((through(codec, v, seed=i)[0] - v) ** 2) for i in range(50)]
    unit = np.linalg.norm(v) / levels
    fraction = np.abs(v) / unit % 1
    expected = unit**2 * np.sum(fraction * (1 - fraction))
    np.testing.assert_allclose(np.mean(errors), expected, rtol=0.02)
    assert np.mean(errors) <= min(n / levels**2, np.sqrt(n) / levels) * np.sum(v**2)


def test_terngrad_symbols_are_signs_of_the_maximum(rng, through):
    x = np.clip(rng.standard_normal(1000), -2, 2).astype(np.float32)
    values, payload = through(recipes.terngrad([(1000,)]), x)
    assert set(np.unique(values)) <= {-np.abs(x).max(), 0, np.abs(x).max()}
    assert len(payload) == 4 + 4 + 200


def test_one_bit_sgd_keeps_the_mean_of_each_sign(rng, through):
    x = rng.standard_normal(1000).astype(np.float32)
    values, payload = through(recipes.one_bit_sgd([(1000,)]), x)
    np.testing.assert_allclose(values[x >= 0], x[x >= 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(values[x < 0], x[x < 0].mean(), rtol=1e-5)
    assert len(payload) <= 4 + 8 + 125 + 2


def test_two_means_of_one_sign_only(through):
    values, _ = through(chain(TwoMeans(), FixedWidth()), np.float32([1, 3]))
    assert np.array_equal(values, [2, 2])


def test_min_max_levels_are_those_of_the_study(rng, through):
    """The encoder that TFF's compression_aggregator uses, here with its rounding fixed."""
    te = pytest.importorskip("tensorflow_model_optimization.python.core.internal.tensor_encoding")
    x = rng.standard_normal(30_000).astype(np.float32)
    encoder = te.encoders.as_simple_encoder(
        te.encoders.uniform_quantization(8, stochastic=False), tf.TensorSpec(x.shape)
    )
    state = encoder.initial_state()
    encoded, state = encoder.encode(x, state)
    values, _ = through(chain(MinMax(8, unbiased=False), FixedWidth()), x)
    np.testing.assert_allclose(values, encoder.decode(encoded, state), atol=1e-6)


def test_study_quantizes_each_large_variable_in_its_own_range(rng, through):
    layout = [(30_000,), (100,), (20_001,)]
    x = np.concatenate(
        [rng.uniform(0, 1, 30_000), rng.standard_normal(100), rng.uniform(0, 1000, 20_001)]
    ).astype(np.float32)
    values, payload = through(recipes.study(layout), x)
    assert np.array_equal(values[30_000:30_100], x[30_000:30_100])
    assert np.abs(values - x)[:30_000].max() < 1 / 255 + 1e-5
    assert np.abs(values - x)[30_100:].max() < 1000 / 255 + 1e-2
    assert abs(8 * len(payload) - (8 * 50_001 + 32 * 100)) < 32 * 8


def test_a_step_too_fine_for_float32_is_refused():
    codec = chain(Norm(1e-9), Stochastic(), FixedWidth())
    assert codec.encode([1.0, 1.0], {}, tf.constant([0, 0])).numpy() == b""
