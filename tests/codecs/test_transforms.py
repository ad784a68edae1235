import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import tensorflow as tf

from fedutils.codecs.base import chain
from fedutils.codecs.floats import Raw
from fedutils.codecs.transforms import Clip, Hadamard, Max, Norm, Rms, SetAside, walsh_hadamard

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
