"""The coder against a plain reading of the paper, byte by byte."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs.ternary import Ternary


def by_the_paper(symbols, zero_runs):
    """Lim et al. 2019, sections 3.2 and 3.3, with loops."""
    symbols = list(symbols) + [0] * (-len(symbols) % 5)
    numbers = []
    for i in range(0, len(symbols), 5):
        a, b, c, d, e = (s + 1 for s in symbols[i : i + 5])
        numbers.append(81 * a + 27 * b + 9 * c + 3 * d + e)
    if not zero_runs:
        return bytes(numbers)
    out = []
    for value, group in itertools.groupby(numbers):
        count = len(list(group))
        if value != 121:
            out += [value] * count
            continue
        while count:
            run = min(count, 14)
            out.append(121 if run == 1 else 243 + run - 2)
            count -= run
    return bytes(out)


@pytest.mark.parametrize("zero_runs", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("m", [1, 4, 5, 6, 70, 75, 76, 5000])
def test_bytes_are_the_papers_and_decode(m, density, zero_runs, rng):
    symbols = (rng.choice([-1, 1], m) * (rng.random(m) < density)).astype(np.int32)
    coder = Ternary(zero_runs)
    data = coder.encode(symbols)
    assert data.numpy().tobytes() == by_the_paper(symbols, zero_runs)
    decoded, ok = coder.decode(data, m)
    assert bool(ok)
    assert np.array_equal(decoded, symbols)
    assert 8 * len(data) <= coder.bound_bits(m)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x79\x79\x79", b"\xff" * 1000])
def test_bytes_for_another_length_are_rejected(data):
    symbols, ok = Ternary().decode(np.frombuffer(data, np.uint8), 10)
    assert not bool(ok)
    assert symbols.shape == (10,)


def test_bytes_of_runs_are_rejected_where_there_are_none():
    assert not bool(Ternary(zero_runs=False).decode(np.uint8([243]), 10)[1])


@pytest.mark.parametrize("zero_runs", [True, False])
@pytest.mark.parametrize("bad", [2, -2, 2**31 - 1])
def test_other_symbols_give_nothing_that_decodes(zero_runs, bad):
    coder = Ternary(zero_runs)
    for m in (1, 5, 12):
        values = tf.constant([0] * (m - 1) + [bad])
        data = coder.encode(values)
        assert tf.size(data) == 0
        assert not coder.decode(data, m)[1]
