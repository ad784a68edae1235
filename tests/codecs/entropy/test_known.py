"""Sparse symbols in classes of known rates: exact, bounded, calm, and near what they tell."""

import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs.entropy import bitio, known
from fedutils.codecs.entropy.elias import gamma_fields
from fedutils.codecs.entropy.nonzeros import Nonzeros

VECTOR, SCALAR = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)
ENCODE = tf.function(
    lambda p, v, c, classes, sizes: known.encode(Nonzeros(p, v, c), classes, sizes),
    input_signature=[VECTOR, VECTOR, SCALAR, VECTOR, VECTOR],
)
DECODE = tf.function(
    known.decode, input_signature=[tf.TensorSpec([None], tf.uint8), VECTOR, VECTOR]
)
ALL = np.arange(33)


def i64(*values):
    return [np.asarray(value, np.int64) for value in values]


def encode(symbols, classes, sizes, centre=0):
    positions = np.flatnonzero(symbols)
    values = np.asarray(symbols)[positions]
    return ENCODE(*i64(positions, values, centre, classes, sizes)).numpy()


def cases():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 300, 33)
    m = sizes.sum()
    signs = rng.choice([-1, 1], m)
    yield "no symbols", [], [0], [0]
    yield "no classes", [], [], []
    yield "one zero", [0], [0], [1]
    yield "one", [-7], [0], [1]
    yield "zeros", np.zeros(m), ALL, sizes
    yield "ones", signs, ALL, sizes
    yield "constant", np.full(m, -123_456), ALL, sizes
    yield "one class", signs * (rng.random(m) < 0.03), [0], [m]
    yield "one class of any rate", signs * (rng.random(m) < 0.03), [32], [m]
    yield "all classes", signs * (rng.random(m) < np.repeat(2.0 ** (-ALL / 2), sizes)), ALL, sizes
    yield "rates upside down", signs * (np.arange(m) >= m - sizes[-1]), ALL, sizes
    yield "first of each class", signs * np.isin(np.arange(m), np.cumsum(sizes) - sizes), ALL, sizes
    yield "last of each class", signs * np.isin(np.arange(m), np.cumsum(sizes) - 1), ALL, sizes
    yield "huge", signs * rng.integers(1, 2**31, m), ALL, sizes
    yield "huge and sparse", signs * 2**31 * (rng.random(m) < 0.01), ALL, sizes
    yield "one huge among ones", np.where(np.arange(m) == 77, -(2**31), signs), ALL, sizes
    yield "huge class", np.eye(1, 2000, 1999)[0], [0, 3], [1000, 1000]


CASES = {name: (np.asarray(symbols, np.int64), *rest) for name, symbols, *rest in cases()}


@pytest.mark.parametrize("case", CASES)
def test_round_trip_within_the_bound(case):
    symbols, classes, sizes = CASES[case]
    data = encode(symbols, classes, sizes)
    found, ok = DECODE(data, *i64(classes, sizes))
    assert ok
    np.testing.assert_array_equal(found.positions, np.flatnonzero(symbols))
    np.testing.assert_array_equal(found.values, symbols[found.positions.numpy()])
    assert 8 * len(data) <= known.bound_bits(len(symbols), len(classes))


def test_a_class_of_two_billion_weights():
    sizes, positions = [2**30, 2**30], [0, 2**30 - 1, 2**30, 2**31 - 1]
    data = ENCODE(*i64(positions, [1, -1, 2, -2], 0, [0, 1], sizes))
    found, ok = DECODE(data, *i64([0, 1], sizes))
    assert ok
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_array_equal(found.values, [1, -1, 2, -2])


@pytest.mark.parametrize("centre", [-(2**31), -1, 0, 2**31 - 1])
def test_the_centre_and_all_that_an_int32_can_be_away_from_it(centre):
    values = np.array([-(2**31) - centre, 2**31 - 1 - centre, 1])
    values = values[values != 0]
    data = encode(values, [0], [len(values)], centre)
    found, ok = DECODE(data, *i64([0], [len(values)]))
    assert ok and found.centre == centre
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("seed", range(60))
def test_no_symbols_exceed_the_bound(seed):
    """The bound less what is for header and classes: it must be met by the symbols alone."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 6)
    sizes = rng.integers(1, rng.choice([3, 30, 3000]), count)
    density = rng.choice([0, 0.2, 0.3, 0.45, 0.5, 0.95, 1], count)
    symbols = rng.random(sizes.sum()) < np.repeat(density, sizes)
    top = rng.choice([2, 3, 2**16, 2**32])
    symbols = symbols * rng.choice([-1, 1], len(symbols)) * rng.choice([1, top - 1, top // 2])
    symbols = np.where(
        rng.random(len(symbols)) < rng.choice([0, 0.3, 1]), np.sign(symbols), symbols
    )
    classes = np.sort(rng.choice(33, count, replace=False))
    data = encode(symbols, classes, sizes)
    assert 8 * len(data) <= known.bound_bits(len(symbols), count)
    assert DECODE(data, *i64(classes, sizes))[1]


def test_no_nonzeros_cost_a_bit_for_each_class():
    assert len(encode(np.zeros(10**6), ALL, np.full(33, 10**6) // 33)) == -(-(4 + 33) // 8)


@pytest.mark.parametrize("unit", [1, 10, 1000, 100_000])
def test_counts_that_are_as_the_rates_foretell_cost_least(unit):
    """Rates 1, 1/2 and 1/4, and classes of equal size: 4/7, 2/7 and 1/7 of the nonzeros."""
    sizes, counts = np.full(3, 40 * unit), np.array([20, 10, 5]) * unit
    positions = np.concatenate([i * sizes[0] + np.arange(n) for i, n in enumerate(counts)])
    parts = known.fields(Nonzeros(*i64(positions, positions >= 0, 0)), *i64([3, 5, 7], sizes))
    _, lengths = parts["class counts"]
    np.testing.assert_array_equal(lengths[:3], [1, 1, 1])


def drawn(rng, rates, sizes):
    """Symbols, signs even, Poisson magnitudes; and their information in bits."""
    mean = np.repeat(rates, sizes)
    size = rng.poisson(mean)
    bits = mean - size * np.log(mean) + np.array([0, 0, *np.cumsum(np.log(np.arange(2, 30)))])[size]
    return size * rng.choice([-1, 1], len(size)), bits.sum() / np.log(2) + np.sum(size > 0)


@pytest.mark.parametrize("top, about", [(0.003, 150), (0.03, 1500), (0.25, 12_000)])
def test_size_is_near_the_information_and_not_below(top, about):
    rng = np.random.default_rng(1)
    classes = np.arange(0, 30, 2)
    sizes = rng.integers(5000, 20_000, len(classes)) * 3
    excess = []
    for _ in range(10):
        symbols, bits = drawn(rng, top * 2.0 ** (-classes / 2), sizes)
        taken = 8 * len(encode(symbols, classes, sizes))
        assert about / 2 < np.count_nonzero(symbols) < about * 2
        assert taken <= 1.05 * bits + 150
        excess.append(taken - bits)
    assert np.mean(excess) >= 0


def damaged(data, rng):
    yield data[:0]
    for cut in (1, len(data) // 2, len(data) - 1):
        yield data[:cut]
    yield np.append(data, np.uint8(0))
    for bit in rng.integers(0, 8 * len(data), 150):
        flipped = data.copy()
        flipped[bit // 8] ^= 128 >> bit % 8
        yield flipped
    for length in (1, 3, 20, 200, 5000):
        yield from rng.integers(0, 256, (8, length), np.uint8)
        yield np.zeros(length, np.uint8)
        yield np.full(length, 255, np.uint8)
    for _ in range(150):  # Headers that promise too much, or contradict themselves.
        header = rng.integers(0, 2 ** rng.integers(1, 33, 4))
        start = bitio.write_bits(*gamma_fields(tf.constant(header))).numpy()
        yield np.append(start, rng.integers(0, 256, rng.integers(1, 3000), np.uint8))


@pytest.mark.parametrize("case", ["all classes", "huge and sparse", "one class"])
def test_damage(case):
    symbols, classes, sizes = CASES[case]
    data = encode(symbols, classes, sizes)
    m = len(symbols)
    for bad in damaged(data, np.random.default_rng(2)):
        found, _ = DECODE(bad, *i64(classes, sizes))
        assert len(found.positions) == len(found.values) <= m
        assert np.all((found.positions >= 0) & (found.positions < m))
    for cut in range(len(data)):
        assert not DECODE(data[:cut], *i64(classes, sizes))[1]
    assert not DECODE(np.append(data, np.uint8(0)), *i64(classes, sizes))[1]


def test_what_is_accepted_is_in_order():
    """Whatever is accepted of one class are nonzeros that could have been encoded."""
    rng, accepted = np.random.default_rng(3), 0
    for _ in range(1500):
        found, ok = DECODE(rng.integers(0, 256, rng.integers(1, 5), np.uint8), *i64([0], [40]))
        if ok:
            accepted += 1
            assert np.all(np.diff(found.positions) > 0) and np.all(found.values != 0)
    assert accepted > 10
