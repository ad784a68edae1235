import numpy as np
import tensorflow as tf

from fedutils.codecs import recipes
from fedutils.codecs.base import chain
from fedutils.codecs.floats import Raw
from fedutils.codecs.sparsifiers import RandomK, Threshold, TopK
from fedutils.codecs.transforms import Rms

SEED = tf.constant([0, 1])


def test_top_k_keeps_exactly_the_largest(rng, through):
    x = rng.standard_normal(1000).astype(np.float32)
    values, _ = through(chain(TopK(0.05), Raw()), x)
    expected = np.where(np.abs(x) >= np.sort(np.abs(x))[-50], x, 0)
    assert np.array_equal(values, expected)


def test_top_k_of_equal_numbers_keeps_no_more_than_k():
    y = TopK(0.05).encode(tf.ones([1000]), {}, SEED).values
    assert np.count_nonzero(y) == 50


def test_threshold_is_in_standard_deviations_behind_a_scale(rng, through):
    x = 7 * rng.standard_normal(1000).astype(np.float32)
    values, _ = through(chain(Rms(), Threshold(2.0), Raw()), x)
    cut = 2 * np.sqrt(np.mean(x**2))
    np.testing.assert_allclose(values, np.where(np.abs(x) >= cut, x, 0), rtol=1e-6)


def test_random_k_sends_k_numbers_and_scales_them_up(rng, through):
    x = rng.standard_normal(1000).astype(np.float32)
    values, payload = through(recipes.random_k([(1000,)], fraction=0.1), x)
    kept = values != 0
    assert kept.sum() == 100
    np.testing.assert_allclose(values[kept], 10 * x[kept], rtol=1e-6)
    assert len(payload) == 4 + 4 + 400


def test_random_k_keeps_every_position_equally_often():
    n, trials = 500, 400
    counts = np.zeros(n)
    for i in range(trials):
        positions = RandomK(0.1)._positions(tf.constant([i, 0]), n).numpy()
        assert len(set(positions)) == 50
        counts[positions] += 1
    expected = trials * 0.1
    assert 0.8 < np.var(counts) / (expected * 0.9) < 1.2
