"""What every integer coder must do: exact round trips, bounds, and calm in the face of damage."""

import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs import entropy

SHAPES = ((3, 3, 1, 8), (8,), (200, 40), (40,), ())
SIZE = 72 + 8 + 8000 + 40 + 1
CODERS = [
    entropy.FixedWidth(),
    entropy.EliasGamma(),
    entropy.Sparse(),
    entropy.SparseRice(),
    entropy.Huffman(),
    entropy.Ans(),
    entropy.Context(SHAPES),
]


@pytest.fixture(scope="module", params=CODERS, ids=lambda c: type(c).__name__)
def coder(request):
    """A coder and its traced functions, which know no length when they are traced."""
    found = request.param
    encode = tf.function(found.encode, input_signature=[tf.TensorSpec([None], tf.int32)])
    decode = tf.function(
        found.decode,
        input_signature=[tf.TensorSpec([None], tf.uint8), tf.TensorSpec([], tf.int32)],
    )
    return found, encode, decode


def low_rank(rng, scale):
    """Symbols with quiet and busy rows and columns, and a sign for each column."""
    parts = []
    for shape in SHAPES:
        columns = shape[-1] if shape else 1
        size = int(np.prod(shape))
        rows = size // columns
        sizes = np.exp(rng.normal(size=(rows, 1)) + rng.normal(size=(1, columns)))
        x = rng.normal(size=(rows, columns)) + rng.choice([-1, 1], size=(1, columns))
        parts.append((scale * sizes * x).ravel())
    return np.rint(np.concatenate(parts))


def cases():
    rng = np.random.default_rng(0)
    top = 2**30
    yield "empty", []
    yield "one zero", [0]
    yield "one", [-7]
    yield "two", [5, -5]
    yield "zeros", np.zeros(3000)
    yield "constant", np.full(3000, -123_456)
    yield "one nonzero first", np.eye(1, SIZE, 0)[0]
    yield "one nonzero last", -np.eye(1, SIZE, SIZE - 1)[0]
    yield "alternating", np.tile([1, -1], 1500)
    yield "bytes", rng.integers(0, 256, 5000)
    yield "huge", rng.integers(-top, top + 1, 4000)
    yield "extremes", rng.choice([-(2**31), 2**31 - 1], 1000)
    yield "huge and sparse", rng.choice([-top, top, 0, 0, 0, 0, 0, 0], 5000)
    yield "huge and rare", np.where(np.arange(SIZE) == 77, top, rng.integers(-1, 2, SIZE))
    for scale in (0.1, 0.3, 1, 10, 1000):
        yield f"laplace {scale}", np.rint(rng.laplace(size=SIZE) * scale)
        yield f"low rank {scale}", low_rank(rng, scale)


CASES = dict(cases())


@pytest.mark.parametrize("case", CASES)
def test_round_trip(coder, case):
    found, encode, decode = coder
    symbols = np.asarray(CASES[case], np.int64).astype(np.int32)
    payload = encode(symbols)
    decoded, ok = decode(payload, len(symbols))
    assert ok
    np.testing.assert_array_equal(decoded, symbols)
    assert 8 * len(payload) <= found.bound_bits(len(symbols))


def test_eager_is_the_same(coder):
    found, encode, _ = coder
    symbols = CASES["low rank 1"].astype(np.int32)
    payload = found.encode(tf.constant(symbols))
    np.testing.assert_array_equal(payload, encode(symbols))
    decoded, ok = found.decode(payload, len(symbols))
    assert ok
    np.testing.assert_array_equal(decoded, symbols)


def test_v1_graph(coder):
    found, _, _ = coder
    symbols = CASES["low rank 0.3"].astype(np.int32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        given = tf.compat.v1.placeholder(tf.int32, [None])
        decoded = found.decode(found.encode(given), tf.size(given))
        values, ok = session.run(decoded, {given: symbols})
    assert ok
    np.testing.assert_array_equal(values, symbols)


def test_ten_million(coder):
    _, encode, decode = coder
    rng = np.random.default_rng(1)
    symbols = np.zeros(10_000_000, np.int32)
    where = rng.integers(0, len(symbols), 1_000_000)
    symbols[where] = np.rint(rng.laplace(size=len(where)) * 3)
    decoded, ok = decode(encode(symbols), len(symbols))
    assert ok
    assert np.array_equal(decoded, symbols)


def damaged(payload, rng):
    """Payloads near a good one, and far from any."""
    size = len(payload)
    yield payload[:0]
    for cut in (1, 2, size // 2, size - 1):
        yield payload[:cut]
    yield np.append(payload, np.uint8(0))
    yield np.append(payload, rng.integers(0, 256, 50, np.uint8))
    for position in [*range(0, min(size, 60)), *rng.integers(0, size, 15)]:
        flipped = payload.copy()
        flipped[position] ^= 1 << rng.integers(8)
        yield flipped
    for length in (1, 3, 20, 200, 5000):
        for _ in range(6):
            yield rng.integers(0, 256, length, np.uint8)
        yield np.zeros(length, np.uint8)
        yield np.full(length, 255, np.uint8)


@pytest.mark.parametrize("case", ["low rank 0.3", "laplace 10"])
def test_damage(coder, case):
    _, encode, decode = coder
    symbols = CASES[case].astype(np.int32)
    payload = encode(symbols).numpy()
    for data in damaged(payload, np.random.default_rng(2)):
        decoded, ok = decode(data, len(symbols))
        assert decoded.shape == symbols.shape
        if not ok:
            assert not np.any(decoded)
    for cut in (1, len(payload) // 2, len(payload) - 1):
        assert not decode(payload[:cut], len(symbols))[1]
    assert not decode(np.append(payload, np.zeros(9, np.uint8)), len(symbols))[1]


def test_another_length(coder):
    _, encode, decode = coder
    payload = encode(CASES["laplace 1"].astype(np.int32))
    for m in (0, 1, 1000, 2 * SIZE):
        decoded, _ = decode(payload, m)
        assert len(decoded) == m
