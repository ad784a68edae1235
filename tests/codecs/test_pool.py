"""The shared pool of weights, and the sparse coder behind it."""

import math

import numpy as np
import pytest
import tensorflow as tf

from fedutils import adaptive
from fedutils.codecs import shared
from fedutils.codecs.base import chain, tensors
from fedutils.codecs.conformance import check
from fedutils.codecs.entropy.sparse import Sparse
from fedutils.codecs.floats import Raw
from fedutils.codecs.quantizers import Systematic
from fedutils.codecs.shared import Pool
from fedutils.codecs.transforms import Step

SHAPES = ((30, 20), (20,), (3, 3, 4, 8), (8,))
N = 30 * 20 + 20 + 288 + 8
SEED = tf.constant([3, 4])


@pytest.fixture
def update(rng):
    """Rows and columns of very different magnitude, as updates of networks have them."""
    rows, columns = np.exp(rng.normal(0, 1, 30)), np.exp(rng.normal(0, 1, 20))
    dense = rng.standard_normal((30, 20)) * rows[:, None] * columns
    return np.concatenate([dense.ravel(), rng.standard_normal(N - 600)]).astype(np.float32)


def params_of(codec, x, **changed):
    params = tensors({**codec.default_params(), **changed})
    params["lines"] = shared.levels(SHAPES, shared.activity(SHAPES, tf.constant(x)))
    return params


def weights_by_loops(lines, exponent):
    """Each weight's odds, column after column, as Python integers: the brute-force twin."""
    lines = [int(level) for level in lines]
    matrices = [(math.prod(shape[:-1]), shape[-1]) for shape in SHAPES]
    rows, rest = [], lines
    for count, _ in matrices:
        rows.append(rest[:count])
        rest = rest[count:]
    odds, positions, start = [], [], 0
    for (height, width), of_rows in zip(matrices, rows, strict=True):
        of_columns, rest = rest[:width], rest[width:]
        for j in range(width):
            for i in range(height):
                half = round((1 + exponent) * (of_rows[i] + of_columns[j]))
                odds.append(round(2 ** (min(max(half, -16), 24) / 2 + 10)))
                positions.append(start + i * width + j)
        start += height * width
    return odds, positions


def test_drawn_as_by_loops_over_all_weights(update):
    pool = Pool(SHAPES, 50)
    params = params_of(chain(pool, Raw()), update)
    drawn, scale, probability = (t.numpy() for t in pool._draw(params, SEED))
    odds, order = weights_by_loops(params["lines"].numpy(), 0.5)
    whole = sum(odds)
    offset = int(tf.random.stateless_uniform([], SEED, 0, whole, tf.int64))
    ends = np.cumsum(odds)
    expected = [
        order[int(np.searchsorted(ends, (j * whole + offset) // 50, side="right"))]
        for j in range(50)
    ]
    assert drawn.tolist() == expected
    by_position = dict(zip(order, odds, strict=True))
    assert np.allclose(probability, [50 * by_position[p] / whole for p in expected], rtol=1e-6)
    assert np.allclose(scale.min(), scale.max()) is False  # lines do differ here


def test_numbers_that_would_overflow_are_refused():
    """A pool's size times the sum of the odds of all weights must be within 64-bit integers."""
    most = int(tf.reduce_max(shared._odds(0.5)))
    weights, size = 2**30, 2**11
    assert size * weights * most == 2**63
    assert Pool(((2**20, 2**10),), size).size == size
    with pytest.raises(ValueError, match=r"2049 of 1073741824 weights .* at most 2048"):
        Pool(((2**20, 2**10),), size + 1)


def test_both_sides_draw_the_same_and_elements_are_kept(update):
    codec = chain(Pool(SHAPES, 64), Raw())
    params = params_of(codec, update)
    payload = codec.encode(update, params, SEED)
    values, ok = codec.decode(payload, params, N)
    assert bool(ok)
    told = np.flatnonzero(values)
    assert 10 < len(told) <= 64
    # A drawn element comes back larger by the inverse of its probability, sign and all.
    assert np.all(np.sign(values.numpy()[told]) == np.sign(update[told]))
    assert len(payload.numpy()) == 4 + 4 + 4 * 64


@pytest.mark.parametrize("quantized", [False, True])
def test_unbiased_whatever_the_lines_say(update, quantized):
    parts = [Step(2.0), Systematic(), Sparse()] if quantized else [Raw()]
    codec = chain(Pool(SHAPES, 200), *parts)
    params = params_of(codec, update[::-1].copy())  # not the update's own lines
    both = tf.function(
        lambda seed: codec.decode(codec.encode(update, params, seed), params, N).values
    )
    draws = np.stack([both(tf.constant([5, i])).numpy() for i in range(1500)]).astype(np.float64)
    error = draws.mean(0) - update
    often = np.mean(draws != 0, axis=0)
    tried = (often > 0.03) & (often < 0.97)  # else the sample says little of its own spread
    assert tried.sum() > 100
    z = error[tried] / (draws[:, tried].std(0) / math.sqrt(len(draws)))
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert np.mean(z**2) < 2  # one offset decides a whole draw, so the z are not independent
    projected = draws @ update / (update @ update)
    assert abs(projected.mean() - 1) < 4 * projected.std() / math.sqrt(len(projected))


def test_known_lines_make_the_error_smaller(update):
    codec = chain(Pool(SHAPES, 200, exponent=0.0), Raw())
    known, unknown = params_of(codec, update), tensors(codec.default_params())

    def error(params):
        errors = []
        for i in range(40):
            payload = codec.encode(update, params, tf.constant([1, i]))
            values = codec.decode(payload, params, N).values
            errors.append(np.sum((values - update) ** 2) / np.sum(update**2))
        return np.mean(errors)

    # By chance alone, weights of one size that are drawn 200 times of N err by N / 200 - 1.
    assert error(known) < 0.5 * error(unknown)
    assert error(unknown) > 0.5 * (N / 200 - 1)


def test_conforms():
    for build in (
        lambda layout: chain(Pool(tuple(layout), 8), Raw()),
        lambda layout: adaptive.pooled(layout, step=0.5, size=40),
        lambda layout: chain(Step(0.2), Systematic(tuple(layout)), Sparse()),
    ):
        # Unbiasedness is tested above: so few offsets make so few pools that the check's
        # tolerance, meant for independent errors, is too narrow.
        assert "bit/parameter" in check(build, trials=0)


def test_sparse_payload_is_near_its_information(rng):
    """400 of 4,096 positions, then a bit a sign: no code of fixed density does with less."""
    sizes = []
    for _ in range(20):
        symbols = np.zeros(4096, np.int32)
        symbols[rng.choice(4096, 400, replace=False)] = rng.choice([-1, 1], 400)
        data = Sparse().encode(tf.constant(symbols))
        decoded, ok = Sparse().decode(data, 4096)
        assert bool(ok) and np.array_equal(decoded, symbols)
        sizes.append(8 * len(data.numpy()))
    information = math.log2(math.comb(4096, 400)) + 400
    assert information < np.mean(sizes) < 1.03 * information + 40


@pytest.mark.parametrize("largest", [1, 2, 100, 2**31 - 1])
def test_sparse_keeps_any_symbols(rng, largest):
    for density in (0, 0.01, 0.5, 1):
        symbols = rng.integers(-largest, largest, 500, endpoint=True)
        symbols = np.where(rng.random(500) < density, symbols, 0).astype(np.int32)
        data = Sparse().encode(tf.constant(symbols))
        decoded, ok = Sparse().decode(data, 500)
        assert bool(ok) and np.array_equal(decoded, symbols)
        assert 8 * len(data.numpy()) <= Sparse().bound_bits(500)


def test_damaged_sparse_payload_is_found_out_or_well_formed(rng):
    symbols = (rng.random(300) < 0.1).astype(np.int32)
    whole = Sparse().encode(tf.constant(symbols)).numpy()
    decode = tf.function(
        lambda data: Sparse().decode(data, 300), input_signature=[tf.TensorSpec([None], tf.uint8)]
    )
    for trial in range(300):
        data = whole.copy()
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        elif trial % 3 == 1:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            data = rng.integers(0, 256, rng.integers(1, 80)).astype(np.uint8)
        decoded, ok = decode(data)
        assert decoded.shape == (300,)
        if not bool(ok):
            assert not decoded.numpy().any()
