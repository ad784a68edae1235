"""Lossless coders of others, each a pair of functions: int32 symbols to bytes, and back.

What a decoder needs to know is inside the bytes: the frequencies of the symbols are sent as their
counts, deflated. The packages are imported by the coder that uses them, as not every environment
has all of them.
"""

import bz2
import functools
import struct
import zlib

import numpy as np

_PRECISION, _WINDOW = 16, 4095  # of tensorflow-compression's range coder


def _table(symbols, window=None):
    """Counts of a range of values, and the bytes that tell them.

    Returns:
        (least value, counts from there on, bytes); values outside the range count nowhere.
    """
    low, high = int(symbols.min()), int(symbols.max())
    if window is not None and high - low >= window:
        low = max(low, int(np.median(symbols)) - window // 2)
        high = min(high, low + window - 1)
    inside = symbols if window is None else symbols[(symbols >= low) & (symbols <= high)]
    counts = np.bincount(inside - low, minlength=high - low + 1)
    packed = zlib.compress(counts.astype(np.uint32).tobytes(), 6)
    return low, counts, struct.pack("<iI", low, len(packed)) + packed


def _read_table(data):
    """Returns the least value, the counts, and the rest of the bytes."""
    low, size = struct.unpack_from("<iI", data)
    return low, np.frombuffer(zlib.decompress(data[8 : 8 + size]), np.uint32), data[8 + size :]


def _categorical(counts):
    import constriction

    shares = (counts / counts.sum()).astype(np.float32)
    return constriction.stream.model.Categorical(shares, perfect=False)


def _words(data):
    return np.frombuffer(data, np.uint32)


def _with_frequencies(encode_symbols, decode_symbols):
    """A coder of numbers from 0 on, given their frequencies, as one of symbols with its table."""

    def encode(symbols):
        low, counts, table = _table(symbols)
        if len(counts) == 1:
            return table
        return table + encode_symbols(symbols - np.int32(low), _categorical(counts)).tobytes()

    def decode(data, n):
        low, counts, rest = _read_table(data)
        if len(counts) == 1:
            return np.full(n, low, np.int32)
        return decode_symbols(_words(rest), _categorical(counts), n) + np.int32(low)

    return encode, decode


def constriction_ans():
    """constriction's ANS coder with the symbols' frequencies."""
    import constriction

    ans = constriction.stream.stack.AnsCoder

    def encode(numbers, model):
        coder = ans()
        coder.encode_reverse(numbers, model)
        return coder.get_compressed()

    return _with_frequencies(encode, lambda words, model, n: ans(words).decode(model, n))


def constriction_range():
    """constriction's range coder with the symbols' frequencies."""
    import constriction

    queue = constriction.stream.queue

    def encode(numbers, model):
        coder = queue.RangeEncoder()
        coder.encode(numbers, model)
        return coder.get_compressed()

    return _with_frequencies(
        encode, lambda words, model, n: queue.RangeDecoder(words).decode(model, n)
    )


def constriction_huffman():
    """constriction's Huffman code; its interface takes one symbol at a time."""
    import constriction

    symbol = constriction.symbol

    def encode(symbols):
        low, counts, table = _table(symbols)
        used = np.flatnonzero(counts)
        if len(used) == 1:
            return table
        rank = np.cumsum(counts > 0) - 1
        tree = symbol.huffman.EncoderHuffmanTree(counts[used].astype(np.float32))
        coder = symbol.QueueEncoder()
        put = coder.encode_symbol
        for one in rank[symbols - low].tolist():
            put(one, tree)
        return table + coder.get_compressed()[0].tobytes()

    def decode(data, n):
        low, counts, rest = _read_table(data)
        used = np.flatnonzero(counts)
        if len(used) == 1:
            return np.full(n, low + used[0], np.int32)
        tree = symbol.huffman.DecoderHuffmanTree(counts[used].astype(np.float32))
        get = symbol.QueueDecoder(_words(rest)).decode_symbol
        ranks = np.fromiter((get(tree) for _ in range(n)), np.int64, n)
        return (used[ranks] + low).astype(np.int32)

    return encode, decode


def tfc_run_length_gamma():
    """tensorflow-compression's run lengths of zeros and Elias gamma codes, without a table."""
    import tensorflow as tf
    import tensorflow_compression as tfc

    def encode(symbols):
        return tfc.run_length_gamma_encode(tf.constant(symbols)).numpy()

    def decode(data, n):
        return tfc.run_length_gamma_decode(tf.constant(data), [n]).numpy()

    return encode, decode


def tfc_range():
    """tensorflow-compression's range coder with the symbols' frequencies.

    Its frequencies have 16 bits, so that 4,095 values about the median have one each; the others
    follow an escape symbol as Elias gamma codes, as the coder provides.
    """
    import tensorflow as tf
    import tensorflow_compression as tfc

    @functools.cache
    def lookup(counts, escapes):
        counts = np.frombuffer(counts, np.uint32)
        shares = np.append(counts, max(escapes, 0.5)) / (counts.sum() + max(escapes, 0.5))
        cdf = tfc.pmf_to_quantized_cdf(tf.constant(shares, tf.float32), _PRECISION)
        return tf.concat([[-_PRECISION], cdf], 0)

    def encode(symbols):
        low, counts, table = _table(symbols, _WINDOW)
        escapes = len(symbols) - int(counts.sum())
        lookup.cache_clear()
        coder = tfc.create_range_encoder([], lookup(counts.astype(np.uint32).tobytes(), escapes))
        coder = tfc.entropy_encode_channel(coder, tf.constant(symbols - np.int32(low))[:, None])
        stream = tfc.entropy_encode_finalize(coder).numpy()
        return struct.pack("<I", escapes) + table + stream

    def decode(data, n):
        (escapes,) = struct.unpack_from("<I", data)
        low, counts, rest = _read_table(data[4:])
        lookup.cache_clear()
        coder = tfc.create_range_decoder(tf.constant(rest), lookup(counts.tobytes(), escapes))
        coder, decoded = tfc.entropy_decode_channel(coder, [n, 1], tf.int32)
        return decoded.numpy()[:, 0] + np.int32(low)

    return encode, decode


def _general(compress, decompress):
    """A general-purpose compressor of the symbols as the smallest integers that hold them."""
    kinds = (np.int8, np.int16, np.int32)

    def encode(symbols):
        most = max(-int(symbols.min()) - 1, int(symbols.max()), 0)
        which = next(i for i, kind in enumerate(kinds) if most <= np.iinfo(kind).max)
        return bytes([which]) + compress(symbols.astype(kinds[which]).tobytes())

    def decode(data, n):
        return np.frombuffer(decompress(data[1:]), kinds[data[0]], n).astype(np.int32)

    return encode, decode


def compressors(strong):
    """General-purpose compressors of bytes, by name: (compress, decompress).

    Args:
        strong: Whether at their strongest usual level, or at their default one.
    """

    def zstd_compress(data):
        import zstandard

        return zstandard.ZstdCompressor(level=19 if strong else 3).compress(data)

    def zstd_decompress(data):
        import zstandard

        return zstandard.ZstdDecompressor().decompress(data)

    return {
        "zstd": (zstd_compress, zstd_decompress),
        "zlib": (lambda data: zlib.compress(data, 9 if strong else 6), zlib.decompress),
        "bz2": (bz2.compress, bz2.decompress),
    }


def coders(strong=False):
    """All of them by name, as functions that make the pair."""
    return {
        "constriction ANS": constriction_ans,
        "constriction range": constriction_range,
        "constriction Huffman": constriction_huffman,
        "tfc run-length gamma": tfc_run_length_gamma,
        "tfc range": tfc_range,
    } | {name: lambda pair=pair: _general(*pair) for name, pair in compressors(strong).items()}


def eight_bit(layout, compress, decompress, threshold=20_000, seed=0):
    """8-bit stochastic levels of each large variable, then a compressor; the others whole.

    Args:
        layout: Shapes of the variables.
        compress: From bytes to bytes.
        decompress: Its inverse.
        threshold: Variables with no more elements than this are sent as they are.
        seed: Of the rounding.

    Returns:
        Functions: a vector float32[n] to bytes, and back.
    """
    sizes = [int(np.prod(shape)) for shape in layout]
    ends = np.cumsum(sizes)[:-1]

    def encode(vector):
        rng, sides, levels, whole = np.random.default_rng(seed), [], [], []
        for part in np.split(vector, ends):
            if part.size <= threshold:
                whole.append(part)
                continue
            low, high = part.min(), part.max()
            sides.append([low, high])
            scaled = (part - low) / max(high - low, np.finfo(np.float32).tiny) * 255
            levels.append(np.minimum(np.floor(scaled + rng.random(part.size)), 255))
        raw = np.concatenate([np.ravel(sides), *whole]).astype(np.float32).tobytes()
        packed = compress(np.concatenate([np.empty(0), *levels]).astype(np.uint8).tobytes())
        return raw + packed

    def decode(data):
        large = [size for size in sizes if size > threshold]
        count = 2 * len(large) + sum(size for size in sizes if size <= threshold)
        raw = np.frombuffer(data, np.float32, count)
        sides, whole = raw[: 2 * len(large)].reshape(-1, 2), raw[2 * len(large) :]
        levels = np.frombuffer(decompress(data[4 * count :]), np.uint8).astype(np.float32)
        parts, i, at_level, at_whole = [], 0, 0, 0
        for size in sizes:
            if size <= threshold:
                parts.append(whole[at_whole : at_whole + size])
                at_whole += size
            else:
                low, high = sides[i]
                parts.append(low + levels[at_level : at_level + size] * ((high - low) / 255))
                at_level, i = at_level + size, i + 1
        return np.concatenate(parts).astype(np.float32)

    return encode, decode
