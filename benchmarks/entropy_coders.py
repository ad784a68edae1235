"""Sizes and times of the lossless coders, at rates from 0.02 to 8 bits per parameter.

    python benchmarks/entropy_coders.py [--updates UPDATE.npy …] [--threads N]

Symbols are rounded Laplace and Gaussian-mixture numbers, as many as the study's CNN has
parameters, and rounded updates of that CNN if any are given (float32 vectors, in the order of
its variables).  A row holds the empirical order-0 entropy of the symbols in bits per parameter,
and for each coder the bytes, all side information included, over the entropy, and the
milliseconds of encoding and decoding.
"""

import argparse
import pathlib
import time

import numpy as np
import tensorflow as tf

from fedutils.codecs import entropy

SHAPES = ((5, 5, 1, 32), (32,), (5, 5, 32, 64), (64,), (3136, 512), (512,), (512, 10), (10,))
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)
CODERS = (
    entropy.FixedWidth(),
    entropy.EliasGamma(),
    entropy.Sparse(),
    entropy.SparseRice(),
    entropy.Huffman(),
    entropy.Ans(),
    entropy.Context(SHAPES),
)


def order0_bits(symbols: np.ndarray) -> float:
    """Empirical entropy of all symbols together, in bits."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(np.sum(counts * np.log2(len(symbols) / counts)))


def sources(updates):
    """Pairs of a name and symbols."""
    rng = np.random.default_rng(0)
    laplace = rng.laplace(size=SIZE)
    mixture = rng.normal(size=SIZE) * np.exp(rng.normal(size=SIZE))
    for scale in (0.081, 0.12, 0.22, 0.5, 2, 40):
        yield f"laplace, scale {scale}", np.rint(laplace * scale)
    for scale in (0.042, 0.1, 0.3, 1, 40):
        yield f"mixture, scale {scale}", np.rint(mixture * scale)
    for path in updates:
        update = np.load(path).astype(np.float64)
        for steps in (32, 16, 8, 4, 2, 1, 0.1, 0.01):
            step = steps * update.std()
            symbols = np.rint(update / step)
            nmse = np.sum((symbols * step - update) ** 2) / np.sum(update**2)
            yield f"{path.stem}, step {steps} std, NMSE {nmse:.2g}", symbols


def measure(coder, repeats: int = 3):
    """A function from symbols to (bytes, seconds to encode, seconds to decode)."""
    encode = tf.function(coder.encode, input_signature=[tf.TensorSpec([None], tf.int32)])
    decode = tf.function(
        coder.decode, input_signature=[tf.TensorSpec([None], tf.uint8), tf.TensorSpec([], tf.int32)]
    )

    def run(symbols):
        given, times = tf.constant(symbols, tf.int32), []
        for _ in range(1 + repeats):
            start = time.perf_counter()
            payload = encode(given)
            middle = time.perf_counter()
            decoded, ok = decode(payload, len(symbols))
            times.append((middle - start, time.perf_counter() - middle))
        if not ok or not np.array_equal(decoded, given):
            raise AssertionError(f"{coder} did not give back what it was given.")
        return len(payload), *np.min(times[1:], axis=0)

    return run


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", nargs="*", type=pathlib.Path, default=[])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    runs = [(type(coder).__name__, measure(coder)) for coder in CODERS]
    print(f"{'symbols':<42} {'entropy':>8}", *(f"{name:>20}" for name, _ in runs))
    for name, symbols in sources(arguments.updates):
        bits = order0_bits(symbols)
        print(f"{name:<42} {bits / SIZE:8.4f}", end="")
        for _, run in runs:
            size, encoding, decoding = run(symbols)
            cell = f"{8 * size / bits:.4f} {1e3 * encoding:.0f}+{1e3 * decoding:.0f}ms"
            print(f" {cell:>20}", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
