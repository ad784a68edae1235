"""What lines tell: levels against numpy, steps that follow them, symbols coded in their classes."""

import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs import shared
from fedutils.codecs.base import chain, tensors
from fedutils.codecs.entropy.rice import SparseRice
from fedutils.codecs.quantizers import Systematic
from fedutils.codecs.shared import LARGEST, LineSteps, SharedContext
from fedutils.codecs.transforms import Step, WeightUnit

SHAPES = ((3, 3, 1, 8), (8,), (200, 40), (40,), ())
SIZE = 72 + 8 + 8000 + 40 + 1
LINES = 9 + 1 + 200 + 1 + 1 + 8 + 8 + 40 + 40 + 1  # Rows, then columns.
SEED = tf.constant([3, 4])


def matrices(x):
    """The variables as matrices with their last axis as columns."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    columns = [shape[-1] if shape else 1 for shape in SHAPES]
    return [p.reshape(-1, c) for p, c in zip(np.split(x, ends), columns, strict=True)]


def sums_of_lines(levels):
    """Each weight's row's number plus its column's."""
    rows, columns = np.split(levels, [212])
    rows = np.split(rows, [9, 10, 210, 211])
    columns = np.split(columns, [8, 16, 56, 96])
    parts = [np.add.outer(r, c).ravel() for r, c in zip(rows, columns, strict=True)]
    return np.concatenate(parts)


@pytest.fixture
def lines(rng):
    return rng.integers(-6, 7, LINES).astype(np.float32)


def test_activity_is_the_sums_of_rows_then_of_columns(rng):
    x = rng.standard_normal(SIZE).astype(np.float32)
    magnitudes = matrices(np.abs(x))
    expected = [m.sum(1) for m in magnitudes] + [m.sum(0) for m in magnitudes]
    found = shared.activity(SHAPES, tf.constant(x))
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5)
    assert found.shape == (LINES,)


def test_levels_of_a_rank_one_matrix_are_its_magnitudes(rng):
    x = np.exp(np.add.outer(rng.normal(size=50), rng.normal(size=30)))
    shapes = ((50, 30),)
    found = shared.levels(shapes, shared.activity(shapes, np.float32(x.ravel())), 1e-6).numpy()
    sums = np.add.outer(found[:50], found[50:])
    assert np.ptp(sums) > 10
    # Two numbers, each rounded to a whole.
    assert np.abs(sums - 2 * np.log2(x / x.mean())).max() <= 1 + 1e-3


def test_levels_are_relative_to_the_model(rng):
    """Variables that differ in all their weights alike differ by that in their columns' levels."""
    magnitudes = [2.0**k * np.ones(m.shape) for k, m in enumerate(matrices(np.ones(SIZE)))]
    x = np.concatenate([m.ravel() for m in magnitudes])
    found = shared.levels(SHAPES, shared.activity(SHAPES, np.float32(x)), 1e-6).numpy()
    assert np.abs(sums_of_lines(found) - 2 * np.log2(x / x.mean())).max() <= 0.5 + 1e-3
    assert np.array_equal(found[:212], np.zeros(212))


def test_levels_are_whole_numbers_in_range_without_negative_zero(rng):
    x = np.float32(np.exp(8 * rng.normal(size=SIZE)))
    found = shared.levels(SHAPES, shared.activity(SHAPES, x), 1e-9).numpy()
    assert found.dtype == np.float32 and np.array_equal(found, np.round(found))
    assert np.abs(found).max() == LARGEST
    even = shared.levels(((9, 7),), shared.activity(((9, 7),), np.ones(63, np.float32))).numpy()
    assert even.tobytes() == bytes(4 * (9 + 7))


def test_the_prior_is_a_floor_for_silent_lines():
    x = np.zeros((64, 64), np.float32)
    x[:32, :32] = 1
    for prior, expected in [(0.5, -2), (2**-3, -6), (2**-5, -10)]:
        found = shared.levels(((64, 64),), shared.activity(((64, 64),), x.ravel()), prior).numpy()
        np.testing.assert_array_equal(found[32:64], expected)
        np.testing.assert_array_equal(found[:32], np.round(2 * np.log2(2 + prior)))


def test_no_activity_gives_finite_levels():
    found = shared.levels(SHAPES, tf.zeros([LINES]))
    assert np.all(np.abs(found) <= LARGEST)


def test_levels_of_a_change_are_those_of_exact_sums(rng):
    """Small ones among large: sums in float32 would depend on their order."""
    change = (rng.standard_normal(SIZE) * 10 ** rng.uniform(-6, 1, SIZE)).astype(np.float32)
    magnitudes = matrices(np.round(np.float64(np.abs(change)) * 2**24).astype(np.int64))
    sums = np.concatenate([m.sum(1) for m in magnitudes] + [m.sum(0) for m in magnitudes])
    found = shared.levels_of_change(SHAPES, tf.constant(change))
    np.testing.assert_array_equal(found, shared.levels(SHAPES, tf.constant(sums.astype(float))))
    assert found.dtype == tf.float32 and np.ptp(found) > 5


@pytest.mark.parametrize("change", [0.0, np.nan, np.inf])
def test_a_change_that_tells_nothing_leaves_lines_alike(change):
    levels = shared.levels_of_change(SHAPES, tf.fill([SIZE], np.float32(change)))
    assert levels.numpy().tobytes() == bytes(4 * LINES)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_busy_lines_get_finer_steps(exponent, lines, rng):
    x, params = rng.standard_normal(SIZE).astype(np.float32), tensors({"lines": lines})
    stage = LineSteps(SHAPES, exponent)
    y = stage.encode(tf.constant(x), params, SEED).values
    magnitude = 2 ** (sums_of_lines(lines) / 2)  # What the lines expect.
    np.testing.assert_allclose(y, x * magnitude**exponent, rtol=1e-5)
    np.testing.assert_allclose(stage.decode(y, None, params, SEED, SIZE).values, x, rtol=1e-6)
    traced = tf.function(lambda y, n: stage.decode(y, None, params, SEED, n).values)
    np.testing.assert_allclose(traced(y, tf.constant(SIZE)), x, rtol=1e-6)


def test_lines_all_alike_or_of_another_model_change_nothing(lines, rng):
    x = tf.constant(rng.standard_normal(SIZE), tf.float32)
    stage = LineSteps(SHAPES)
    encode = tf.function(
        lambda x, lines: stage.encode(x, {"lines": lines}, SEED).values,
        input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])],
    )
    assert np.array_equal(stage.encode(x, tensors(stage.default_params()), SEED).values, x)
    for other in (x[:0], x[:1], x[1:]):
        assert np.array_equal(stage.encode(other, {"lines": lines}, SEED).values, other)
        assert np.array_equal(encode(other, lines), other)
    assert not np.array_equal(encode(x, lines), x)


def coder(exponent=0.0):
    """The traced functions of `SharedContext`, which know neither length nor lines."""
    found = SharedContext(SHAPES, exponent)
    vector, symbols = tf.TensorSpec([None]), tf.TensorSpec([None], tf.int32)
    data, length = tf.TensorSpec([None], tf.uint8), tf.TensorSpec([], tf.int32)
    encode = tf.function(
        lambda s, lines: found.for_round({"lines": lines}).encode(s),
        input_signature=[symbols, vector],
    )
    decode = tf.function(
        lambda d, m, lines: found.for_round({"lines": lines}).decode(d, m),
        input_signature=[data, length, vector],
    )
    return found, encode, decode


@pytest.fixture(scope="module")
def traced():
    return coder()


def cases():
    rng = np.random.default_rng(0)
    for m in (0, 1, 2, 300, SIZE, SIZE + 1):
        signs = rng.choice([-1, 1], m)
        yield f"zeros {m}", np.zeros(m)
        yield f"constant {m}", np.full(m, -(2**31))
        yield f"sparse {m}", signs * (rng.random(m) < 0.02)
        yield f"dense {m}", rng.poisson(5, m) * signs
        yield f"around a centre {m}", 10**6 + rng.poisson(5, m) * signs
        yield f"extremes {m}", rng.choice([-(2**31), 2**31 - 1], m)


CASES = {name: np.asarray(symbols, np.int64).astype(np.int32) for name, symbols in cases()}


@pytest.mark.parametrize("case", CASES)
def test_round_trip(traced, case, lines):
    found, encode, decode = traced
    symbols = CASES[case]
    for levels in (lines, 0 * lines, np.full_like(lines, -LARGEST), 99 * lines):
        data = encode(symbols, levels)
        decoded, ok = decode(data, len(symbols), levels)
        assert ok
        np.testing.assert_array_equal(decoded, symbols)
        assert 8 * len(data) <= found.bound_bits(len(symbols))


def test_known_lengths_give_the_same(traced, lines):
    symbols = CASES[f"sparse {SIZE}"]
    of_round = SharedContext(SHAPES).for_round({"lines": tf.constant(lines)})
    data = of_round.encode(tf.constant(symbols))
    np.testing.assert_array_equal(data, traced[1](symbols, lines))
    decoded, ok = of_round.decode(data, SIZE)
    assert ok
    np.testing.assert_array_equal(decoded, symbols)


def test_damage(traced, lines):
    _, encode, decode = traced
    rng = np.random.default_rng(2)
    data = encode(CASES[f"sparse {SIZE}"], lines).numpy()
    bad = [rng.integers(0, 256, size, np.uint8) for size in rng.integers(0, 3000, 40)]
    for bit in rng.integers(0, 8 * len(data), 80):
        bad.append(data.copy())
        bad[-1][bit // 8] ^= 128 >> bit % 8
    for damaged in bad:
        decoded, ok = decode(damaged, SIZE, lines)
        assert decoded.shape == (SIZE,)
        assert ok or not np.any(decoded)
    for m in (0, 1, 300, SIZE + 1):
        assert len(decode(data, m, lines)[0]) == m
    for wrong in (data[:-1], data[:0], np.append(data, np.uint8(0))):
        assert not decode(wrong, SIZE, lines)[1]


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("rate", [0.003, 0.05])
def test_size_is_near_the_information_that_lines_leave(exponent, rate):
    """Bernoulli symbols at the rates that the lines tell; at each, a position and a sign."""
    rng = np.random.default_rng(0)
    lines = rng.integers(-4, 5, LINES).astype(np.float32)
    _, encode, _ = coder(exponent)
    expected = 2.0 ** ((1 + exponent) * sums_of_lines(lines) / 2)
    probability = np.minimum(rate * expected / expected.mean(), 0.3)
    excess, plain = [], []
    for _ in range(20):
        nonzero = rng.random(SIZE) < probability
        bits = nonzero.sum() - np.log2(np.where(nonzero, probability, 1 - probability)).sum()
        symbols = (nonzero * rng.choice([-1, 1], SIZE)).astype(np.int32)
        taken = 8 * len(encode(symbols, lines))
        assert taken <= 1.05 * bits + 150
        excess.append(taken - bits)
        plain.append(8 * len(SparseRice().encode(symbols)) - bits)
    assert np.mean(excess) >= 0
    assert rate < 0.05 or np.mean(excess) < np.mean(plain) / 2


def test_lines_are_part_of_the_contract_of_a_round(lines, rng, through):
    codec = chain(
        WeightUnit(),
        Step(0.01),
        LineSteps(SHAPES, 0.5),
        Systematic(SHAPES),
        SharedContext(SHAPES, 0.5),
    )
    start = codec.default_params()
    assert list(start) == ["lines", "step", "weight_unit"]
    assert np.array_equal(start["lines"], np.zeros(LINES))
    x = (rng.standard_normal(SIZE) * 2 ** (sums_of_lines(lines) / 2)).astype(np.float32)
    values, payload = through(codec, x, lines=lines)
    # Off by a step of its lines at most, each.
    assert np.all(np.abs(values - x) <= 1.001 * 2 ** (-sums_of_lines(lines) / 4))
    other = tensors({**start, "lines": lines + np.eye(1, LINES, 7)[0]})
    assert not codec.decode(payload, other, SIZE).ok


def test_a_model_without_variables():
    found = SharedContext(()).for_round({"lines": tf.zeros([0])})
    for symbols in (np.zeros(0, np.int32), np.int32([3, 0, -1])):
        decoded, ok = found.decode(found.encode(tf.constant(symbols)), len(symbols))
        assert ok and np.array_equal(decoded, symbols)
