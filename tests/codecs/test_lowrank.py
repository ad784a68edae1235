import math

import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs import conformance
from fedutils.codecs.base import chain, total
from fedutils.codecs.floats import Raw
from fedutils.codecs.lowrank import LowRank, ScaleParts, low_rank_change
from fedutils.codecs.transforms import Max, Norm, Rms

SEED = tf.constant([3, 4])
TALL, WIDE = (60, 50), (3, 7, 90)  # the latter as a matrix: 21 x 90
LAYOUT = ((5,), TALL, (3, 4), WIDE, ())
CNN = ((5, 5, 1, 32), (32,), (5, 5, 32, 64), (64,), (3136, 512), (512,), (512, 10), (10,))


def truncated(matrix, rank):
    """The nearest matrix of this rank."""
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def split(x, shapes):
    pieces = np.split(x, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def of_rank(rng, shape, rank):
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return (left @ right).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_large_matrices_are_the_nearest_of_their_rank_and_others_themselves(scale, rng, through):
    x = (scale * rng.standard_normal(total(LAYOUT))).astype(np.float32)
    values, _ = through(chain(LowRank(LAYOUT, 3), Raw()), x)
    for shape, before, after in zip(LAYOUT, split(x, LAYOUT), split(values, LAYOUT), strict=True):
        if shape in (TALL, WIDE):
            before, after = (v.reshape(-1, shape[-1]) / scale for v in (before, after))
            np.testing.assert_allclose(after, truncated(before, 3), atol=1e-5)
        else:
            assert np.array_equal(before, after)


@pytest.mark.parametrize("shape", [(60, 50), (50, 60), (300, 20), (20, 300)])
@pytest.mark.parametrize("true_rank", [0, 1, 2, 4])
def test_error_is_that_of_the_truncated_singular_value_decomposition(
    shape, true_rank, rng, through
):
    """Deficient ranks, too: what is of rank 2 or less comes back."""
    noise = 0.0 if true_rank < 4 else 0.01
    matrix = of_rank(rng, shape, true_rank)
    matrix += noise * rng.standard_normal(shape).astype(np.float32)
    values, _ = through(chain(LowRank((shape,), 3), Raw()), matrix.ravel())
    error = np.linalg.norm(values.reshape(shape) - matrix)
    least = np.linalg.norm(truncated(matrix, 3) - matrix)
    norm = np.linalg.norm(matrix)
    assert least - 1e-6 * norm <= error <= 1.0001 * least + 1e-6 * norm
    assert (least > 0.01 * norm) == (true_rank == 4)


def test_factors_have_the_singular_values_as_norms(rng):
    x = rng.standard_normal(total([TALL])).astype(np.float32)
    stage = LowRank((TALL,), 4)
    y, side, ok = stage.encode(tf.constant(x), {}, SEED)
    expected = np.linalg.svd(x.reshape(TALL), compute_uv=False)[:4]
    assert bool(ok)
    np.testing.assert_allclose(side, expected, rtol=1e-5)
    for factor in split(y.numpy(), stage.emitted):
        gram = factor.T @ factor
        np.testing.assert_allclose(gram, np.diag(expected**2), atol=1e-4 * expected[0] ** 2)


def test_emitted_shapes():
    stage = LowRank(CNN, 32)
    others = [shape for shape in CNN if shape != (3136, 512)]
    assert stage.emitted == ((3136, 32), (512, 32), *others)
    assert stage.sizes == (3648 * 32, 57_738)
    assert stage.side_size() == 32
    assert stage.length(1_663_370) == sum(stage.sizes)
    assert LowRank(LAYOUT, 3).emitted == ((60, 3), (50, 3), (21, 3), (90, 3), (5,), (3, 4), ())
    none = LowRank(LAYOUT, 50)
    assert (none.emitted, none.sizes, none.side_size()) == (LAYOUT, (0, total(LAYOUT)), 0)
    with pytest.raises(ValueError, match="vectors of 5 numbers, not 6"):
        chain(LowRank(((5,),), 1), Raw()).bound_bits(6)


def test_whatever_is_decoded_does_not_raise(rng):
    stage = LowRank(LAYOUT, 3)
    y = np.concatenate([rng.standard_cauchy(total(stage.emitted) - 3), [0, -1e38, 1e38]])
    for singular in (0.0, -0.0, 1e-45, -1.0, 3e38):
        side = np.float32([singular, 1, 1] * 2)
        values = stage.decode(tf.constant(y, tf.float32), side, {}, SEED, total(LAYOUT)).values
        assert values.shape == (total(LAYOUT),)
        if abs(singular) != 1e-45:
            assert np.isfinite(values).all()


def test_each_part_has_its_own_scale(rng):
    x = rng.standard_normal(100).astype(np.float32)
    x[30:] *= 1000
    stage = ScaleParts((30, 60, 10), (Rms(0.5), Max(), Norm(2.0)))
    y, side, _ = stage.encode(tf.constant(x), {}, SEED)
    expected = [
        0.5 * np.sqrt(np.mean(x[:30] ** 2)),
        np.abs(x[30:90]).max(),
        2 * np.linalg.norm(x[90:]),
    ]
    np.testing.assert_allclose(side, expected, rtol=1e-5)
    np.testing.assert_allclose(y, x / np.repeat(expected, [30, 60, 10]), rtol=1e-5)
    back = stage.decode(y, tf.stack(side), {}, SEED, 100).values
    np.testing.assert_allclose(back, x, rtol=1e-6)


def test_change_conforms_with_and_without_large_matrices():
    """Of the layouts that are tried, one has a matrix that rank 2 makes small."""
    assert low_rank_change([(59, 50), (50,)], 2).stages[0].sizes == (218, 50)
    conformance.check(lambda layout: low_rank_change(layout, 2))


def test_layout_of_large_matrices_only(rng, through):
    shape = (60, 50)
    x = of_rank(rng, shape, 2).ravel()
    values, _ = through(low_rank_change([shape], rank=2, factor_step=0.01), x)
    assert np.sum((values - x) ** 2) < 1e-4 * np.sum(x**2)


@pytest.fixture(scope="module")
def cnn_change():
    """Encodes and decodes changes of the study's network."""
    codec = low_rank_change(CNN)
    encode = tf.function(lambda x: codec.encode(x, {}, SEED), autograph=False)
    decode = tf.function(lambda p: codec.decode(p, {}, 1_663_370), autograph=False)

    def run(x):
        payload = encode(tf.constant(x)).numpy()
        values, ok = decode(payload)
        assert 8 * len(payload) <= codec.bound_bits(x.size)
        return values.numpy(), bool(ok), payload

    return run


def test_change_of_the_study_network(rng, cnn_change):
    """A matrix of low rank under noise of three times its energy: most of it is gone."""
    signal = np.zeros(total(CNN), np.float32)
    dense = slice(*np.cumsum([total(CNN[:4]), 3136 * 512]))
    signal[dense] = of_rank(rng, (3136, 512), 8).ravel()
    noise = 3**0.5 * signal[dense].std() * rng.standard_normal(3136 * 512, np.float32)
    received = signal.copy()
    received[dense] += noise
    values, ok, payload = cnn_change(received)
    assert ok
    assert 8 * len(payload) < 0.2 * received.size
    error = np.sum((values - signal) ** 2) / np.sum(signal**2)
    assert error < 0.5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("nothing", lambda n, rng: np.zeros(n)),
        ("a constant", lambda n, rng: np.full(n, -3.0)),
        ("one spike", lambda n, rng: np.eye(1, n, n // 2)[0]),
        ("tiny numbers", lambda n, rng: 1e-30 * rng.standard_normal(n)),
        ("denormals", lambda n, rng: 1e-45 * rng.integers(-99, 99, n)),
        ("large numbers", lambda n, rng: 1e15 * rng.standard_normal(n)),
    ],
)
def test_extreme_changes_of_the_study_network(name, change, rng, cnn_change):
    x = change(1_663_370, rng).astype(np.float32)
    values, ok, payload = cnn_change(x)
    assert ok
    assert np.isfinite(values).all()
    if name == "nothing":
        assert not values.any()
        assert len(payload) < 200


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_change_that_is_not_finite_is_refused(bad, cnn_change):
    x = np.zeros(1_663_370, np.float32)
    x[100_000] = bad
    values, ok, payload = cnn_change(x)
    assert (payload, ok, values.any()) == (b"", False, False)
