"""Sizes against independent truths: empirical entropies, heap-built codes, another library."""

import functools
import heapq

import constriction
import numpy as np
import pytest
import tensorflow as tf

from fedutils.codecs import entropy
from fedutils.codecs.entropy import bitio, huffman, models, rans, tokens

SIZE = 1_663_370  # Parameters of the study's CNN.


def order0_bits(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    return np.sum(counts * np.log2(len(symbols) / counts))


def laplace(scale):
    return np.rint(np.random.default_rng(0).laplace(size=SIZE) * scale).astype(np.int32)


def mixture(scale):
    rng = np.random.default_rng(0)
    return np.rint(rng.normal(size=SIZE) * np.exp(rng.normal(size=SIZE)) * scale).astype(np.int32)


@functools.cache
def traced(coder):
    encode = tf.function(coder.encode, input_signature=[tf.TensorSpec([None], tf.int32)])
    vector, length = tf.TensorSpec([None], tf.uint8), tf.TensorSpec([], tf.int32)
    return encode, tf.function(coder.decode, input_signature=[vector, length])


def payload_bits(coder, symbols):
    encode, decode = traced(coder)
    payload = encode(symbols)
    decoded, ok = decode(payload, len(symbols))
    assert ok and np.array_equal(decoded, symbols)
    return 8 * len(payload)


RATES = [
    (laplace, 0.081, 0.02),
    (laplace, 0.12, 0.12),
    (laplace, 0.3, 0.9),
    (laplace, 2, 3.5),
    (laplace, 48, 8),
    (mixture, 0.042, 0.1),
    (mixture, 0.3, 1.2),
    (mixture, 40, 8),
]


@pytest.mark.parametrize("source, scale, about", RATES)
def test_ans_is_within_two_percent_of_the_entropy(source, scale, about):
    symbols = source(scale)
    bits = order0_bits(symbols)
    assert bits / SIZE == pytest.approx(about, rel=0.3)
    assert payload_bits(entropy.Ans(), symbols) <= 1.02 * bits


@pytest.mark.parametrize("source, scale, about", RATES)
def test_huffman_is_within_a_bit_of_the_entropy_and_below_packing(source, scale, about):
    symbols = source(scale)
    bits = payload_bits(entropy.Huffman(), symbols)
    assert order0_bits(symbols) <= bits <= order0_bits(symbols) + 1.0 * SIZE
    assert bits <= 8 + payload_bits(entropy.FixedWidth(), symbols)


def test_rice_is_near_the_entropy_of_sparse_symbols():
    symbols = laplace(0.12)
    assert payload_bits(entropy.SparseRice(), symbols) <= 1.15 * order0_bits(symbols)


def test_elias_gamma_has_the_lengths_of_its_definition():
    symbols = np.random.default_rng(0).integers(-1000, 1000, 5000).astype(np.int32)
    zigzag = np.where(symbols < 0, -2 * symbols - 1, 2 * symbols)
    expected = sum(2 * int(u + 1).bit_length() - 1 for u in zigzag)
    assert payload_bits(entropy.EliasGamma(), symbols) == 8 * -(-expected // 8)


SHAPES = ((400, 256), (256,), (256, 10), (10,))


def low_rank(noise, scale, rows_spread=1.5, seed=0):
    """Symbols whose rows and columns have scales, and whose columns have a sign."""
    rng = np.random.default_rng(seed)
    parts = []
    for shape in SHAPES:
        columns = shape[-1]
        rows = int(np.prod(shape)) // columns
        spread = rng.normal(size=(rows, 1)) + rng.normal(size=(1, columns))
        sign = rng.choice([-1, 1], size=(1, columns))
        x = np.exp(rows_spread * spread) * (sign + noise * rng.normal(size=(rows, columns)))
        parts.append((scale * x).ravel())
    return np.rint(np.concatenate(parts)).astype(np.int32)


@pytest.mark.parametrize("scale", [0.003, 0.03, 0.1])
def test_contexts_find_rows_columns_and_signs(scale):
    symbols = low_rank(1.0, scale)
    assert payload_bits(entropy.Context(SHAPES), symbols) <= 0.62 * order0_bits(symbols)


@pytest.mark.parametrize("scale", [0.1, 1, 30])
def test_contexts_cost_nothing_where_there_are_none(scale):
    size = sum(int(np.prod(shape)) for shape in SHAPES)
    symbols = laplace(scale)[:size]
    context = payload_bits(entropy.Context(SHAPES), symbols)
    assert context <= 1.01 * payload_bits(entropy.Ans(), symbols) + 8


def heap_lengths(counts):
    """Total length of a Huffman code, the textbook way."""
    heap, total = sorted(counts), 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    return total


@pytest.mark.parametrize("seed", range(20))
def test_huffman_lengths_are_optimal(seed):
    rng = np.random.default_rng(seed)
    size, power = rng.integers(1, 400), rng.integers(1, 8)
    counts = 1 + (100 * rng.exponential(size=size) ** power).astype(np.int64)
    lengths = huffman.code_lengths(tf.constant(counts)).numpy()
    assert np.sum(lengths * counts) == heap_lengths(counts)
    assert size == 1 or np.sum(0.5**lengths) == 1


def test_the_longest_huffman_code_fits_its_field():
    counts = [1, 1]
    while sum(counts) < 2**20:
        counts.append(counts[-1] + counts[-2])
    assert np.max(huffman.code_lengths(tf.constant(counts, tf.int64))) <= 31


def test_rans_is_as_good_as_constriction():
    rng = np.random.default_rng(0)
    weights = (1e6 * rng.dirichlet(np.full(60, 0.3), 5)).astype(np.int64)
    frequencies = models.frequencies(tf.constant(weights), tf.ones([5, 60], tf.bool)).numpy()
    context = np.sort(rng.integers(0, 5, 300_000)).astype(np.int32)
    probability = frequencies / frequencies.sum(1, keepdims=True)
    token = np.concatenate(
        [rng.choice(60, np.sum(context == c), p=probability[c]) for c in range(5)]
    ).astype(np.int32)

    seeds = tf.constant(rng.integers(0, 1 << rans.STATE_BITS, 512))
    found = rans.encode(context, token, frequencies, seeds)
    ours = np.sum(found.fields[1])

    theirs = constriction.stream.stack.AnsCoder()
    for c in reversed(range(5)):
        model = constriction.stream.model.Categorical(probability[c], perfect=False)
        theirs.encode_reverse(token[context == c], model)
    assert ours == pytest.approx(theirs.num_bits(), rel=0.01)
    ideal = -np.sum(np.log2(probability[context, token]))
    assert ideal <= ours <= 1.01 * ideal

    data, start = bitio.write_bits(*found.fields), tf.constant(0, tf.int64)
    decoded = rans.decode(context, frequencies, found.states, data, start)
    assert decoded.end == ours
    np.testing.assert_array_equal(decoded.tokens, token)
    np.testing.assert_array_equal(decoded.seeds, seeds)


def test_ans_is_as_good_as_constriction_on_whole_symbols():
    symbols = laplace(1.0)
    values, index, counts = np.unique(symbols, return_inverse=True, return_counts=True)
    theirs = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Categorical(counts / SIZE, perfect=False)
    theirs.encode_reverse(index.astype(np.int32), model)
    table = 16 * len(values)
    assert payload_bits(entropy.Ans(), symbols) <= 1.01 * (theirs.num_bits() + table)


def test_frequencies_fill_the_slots():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.exponential(size=(30, 256)) ** 6)
    counts[0] = 0
    counts[1] = 1
    counts[2] = np.where(np.arange(256) == 9, 10**7, 1)
    rows = models.histogram(models.histogram_codes(tf.constant(counts, tf.int64))).numpy()
    assert np.all(rows.sum(1) == 1 << rans.PRECISION)
    assert np.all(rows[1:][counts[1:] > 0] > 0) and not np.any(rows[1:][counts[1:] == 0])


def test_geometric_frequencies_are_those_of_gaps():
    rate = 1 / 40
    code = models.rate_codes(tf.constant([1000], tf.int64), tf.constant([40_000], tf.int64))
    row = models.geometric(code, tf.constant(10**6, tf.int64)).numpy()[0]
    edges = tokens.detokenize(tf.range(129, dtype=tf.int64), tf.zeros([129], tf.int64)).numpy()
    below = 1 - (1 - rate) ** edges.astype(float)
    np.testing.assert_allclose(row / row.sum(), np.diff(below), atol=0.002)


def test_tokens_are_invertible_and_in_order():
    u = np.concatenate([np.arange(2000), 2 ** np.arange(33), 2 ** np.arange(34) - 1])
    token, raw, size = tokens.tokenize(tf.constant(u))
    assert np.max(token) < tokens.ALPHABET
    np.testing.assert_array_equal(tokens.raw_bits(token), size)
    np.testing.assert_array_equal(tokens.detokenize(token, raw), u)


def test_bits_are_those_of_python_integers():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 33, 500)
    values = rng.integers(0, 2**62, 500) >> (62 - lengths)
    text = "".join(f"{v:0{n}b}" if n else "" for v, n in zip(values, lengths, strict=True))
    payload = bitio.write_bits(tf.constant(values), tf.constant(lengths)).numpy()
    assert "".join(f"{b:08b}" for b in payload) == text + "0" * (-len(text) % 8)
    words = bitio.bytes_to_words(tf.constant(payload))
    starts = np.cumsum(lengths) - lengths
    np.testing.assert_array_equal(bitio.read_bits(words, starts, lengths), values)
    ones = [i for i, bit in enumerate(text[77:]) if bit == "1"]
    limit = tf.constant(len(text) - 77, tf.int64)
    found = bitio.find_ones(words, tf.constant(77, tf.int64), len(ones), limit)
    np.testing.assert_array_equal(found, ones)
