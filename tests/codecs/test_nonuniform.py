"""Levels and errors against published constants."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf

from fedutils.codecs import recipes
from fedutils.codecs.base import chain
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.nonuniform import (
    ExponentialLevels,
    FittedLevels,
    PowersOfTwo,
    gaussian_levels,
)

# Max 1960, "Quantizing for minimum distortion", table I.
PUBLISHED = {
    1: ([0.7980], 0.3634),
    2: ([0.4528, 1.510], 0.1175),
    3: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
    4: ([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
}


def gaussian_distortion(levels):
    grid = np.linspace(-8, 8, 200_001)
    edges = (np.array(levels[1:]) + levels[:-1]) / 2
    nearest = np.array(levels)[np.searchsorted(edges, grid)]
    return scipy.integrate.trapezoid((grid - nearest) ** 2 * scipy.stats.norm.pdf(grid), grid)


@pytest.mark.parametrize("bits", PUBLISHED)
def test_gaussian_levels_are_the_published_ones(bits):
    positive, distortion = PUBLISHED[bits]
    levels = gaussian_levels(bits)
    np.testing.assert_allclose(levels[2 ** (bits - 1) :], positive, atol=6e-4)
    np.testing.assert_allclose(gaussian_distortion(levels), distortion, rtol=1e-3)


def test_many_gaussian_levels_follow_panter_and_dite():
    """The distortion of N levels tends to sqrt(3) pi / (2 N^2)."""
    distortion = gaussian_distortion(gaussian_levels(7))
    np.testing.assert_allclose(distortion * 2**14, np.sqrt(3) * np.pi / 2, rtol=0.03)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_eden_error_is_the_papers(bits, rng, through):
    """With D the distortion above, the unbiased scale's NMSE is 1 / (1 - D) - 1."""
    n = 100_000
    x = rng.standard_cauchy(n).clip(-50, 50).astype(np.float32)
    errors = []
    for seed in range(4):
        values, payload = through(recipes.eden([(n,)], bits), x, seed=seed)
        errors.append(np.sum((values - x) ** 2) / np.sum(x**2))
    distortion = PUBLISHED[bits][1]
    np.testing.assert_allclose(np.mean(errors), 1 / (1 - distortion) - 1, rtol=0.02)
    assert 8 * len(payload) - bits * n < 8 * 20


def test_eden_below_one_bit_pays_for_what_it_leaves_out(rng, through):
    """A random share p of the numbers, scaled up, turns an NMSE of D into (1 + D) / p - 1."""
    n, share = 100_000, 0.05
    x = rng.normal(size=n).astype(np.float32)
    errors = []
    for seed in range(4):
        values, payload = through(recipes.eden_sparse([(n,)], share), x, seed=seed)
        errors.append(np.sum((values - x) ** 2) / np.sum(x**2))
    np.testing.assert_allclose(np.mean(errors), np.pi / 2 / share - 1, rtol=0.02)
    assert 8 * len(payload) - share * n < 8 * 20


def test_drive_errors_are_the_papers(rng, through):
    """Vargaftik et al. 2021: pi/2 - 1 with the unbiased scale, 1 - 2/pi with the least error."""
    n = 100_000
    x = rng.lognormal(size=n).astype(np.float32)
    for unbiased, expected in [(True, np.pi / 2 - 1), (False, 1 - 2 / np.pi)]:
        values, _ = through(recipes.drive([(n,)], unbiased=unbiased), x)
        nmse = np.sum((values - x) ** 2) / np.sum(x**2)
        np.testing.assert_allclose(nmse, expected, rtol=0.02)


def test_mean_of_many_drive_estimates_has_no_bias(rng, through):
    """The error of a mean over clients falls as one over their number."""
    n, clients = 4096, 100
    x = rng.standard_normal(n).astype(np.float32)
    decoded = [through(recipes.drive([(n,)]), x, seed=i)[0] for i in range(clients)]
    nmse = np.sum((np.mean(decoded, axis=0) - x) ** 2) / np.sum(x**2)
    np.testing.assert_allclose(nmse, (np.pi / 2 - 1) / clients, rtol=0.1)


@pytest.mark.parametrize(
    ("sample", "bits", "distortion"),
    [
        ("standard_normal", 3, 0.03454),
        ("laplace", 1, 0.5),  # Jayant and Noll 1984, table 4.7, unit variance
        ("laplace", 2, 0.1762),
        ("laplace", 3, 0.0545),
    ],
)
def test_fitted_levels_reach_the_published_distortions(sample, bits, distortion, rng, through):
    x = getattr(rng, sample)(size=200_000).astype(np.float32)
    x /= x.std()
    values, _ = through(chain(FittedLevels(bits), FixedWidth()), x)
    np.testing.assert_allclose(np.mean((values - x) ** 2), distortion, rtol=0.03)


def test_fitted_levels_decode_to_the_mean_of_their_cell(rng, through):
    x = rng.standard_normal(5000).astype(np.float32)
    values, _ = through(chain(FittedLevels(2), FixedWidth()), x)
    assert len(np.unique(values)) == 4
    for level in np.unique(values):
        np.testing.assert_allclose(x[values == level].mean(), level, atol=1e-5)


def test_powers_of_two_have_natural_compressions_variance(rng, through):
    """Horváth et al. 2019: between 2^a and 2^(a+1), (x - 2^a) (2^(a+1) - x), at most x^2 / 8."""
    x = rng.standard_normal(200_000).astype(np.float32)
    values, payload = through(chain(PowersOfTwo(), FixedWidth()), x)
    below = 2.0 ** np.floor(np.log2(np.abs(x)))
    assert np.all((np.abs(values) == below) | (np.abs(values) == 2 * below))
    assert np.all(np.sign(values) == np.sign(x))
    variance = (np.abs(x) - below) * (2 * below - np.abs(x))
    np.testing.assert_allclose(np.mean((values - x) ** 2), np.mean(variance), rtol=0.02)
    assert np.mean((values - x) ** 2) < np.mean(x**2) / 8
    assert abs(8 * len(payload) / x.size - 9) < 0.01


def test_powers_of_two_are_unbiased_for_denormals(through):
    x = np.full(100_000, 3e-39, np.float32)
    values, _ = through(chain(PowersOfTwo(), FixedWidth()), x)
    smallest = 2.0**-126
    share = np.mean(values.view(np.int32) > 0)
    np.testing.assert_allclose(share * smallest, 3e-39, rtol=0.03)


def test_exponential_levels_are_powers_of_two_and_zero(rng, through):
    x = np.concatenate([rng.uniform(-1, 1, 2000), [1, -1, 0, 2**-5]]).astype(np.float32)
    values, _ = through(chain(ExponentialLevels(4), FixedWidth()), x)
    assert set(np.abs(values)) <= {0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1}
    assert np.array_equal(values[-4:-1], [1, -1, 0])
    assert values[-1] in (0, 1 / 16)
    many = np.full(100_000, 0.3, np.float32)
    values, _ = through(chain(ExponentialLevels(4), FixedWidth()), many)
    assert set(values) == {0.25, 0.5}
    np.testing.assert_allclose(values.mean(), 0.3, atol=0.002)


def test_symbols_without_a_level_are_not_decoded():
    codec = chain(FittedLevels(2), FixedWidth())
    rest = np.zeros(4, "<f4").tobytes() + bytes(FixedWidth().encode([0, 9]).numpy())
    forged = codec.frame(tf.constant(rest), {}, 2)
    assert not bool(codec.decode(forged, {}, 2).ok)
