"""Encode and decode of one update, beside TFF's own 8-bit path, measured in turn.

    .venv/bin/python benchmarks/speed.py [--recipes default,...] [--turns 40] [--dataset mnist5k]
        [--data-dir DIR] [--rounds 1,10,40,100] [--threads 1] [--between 0] [--out FILE.json]

The updates are those that `benchmarks/codecs.py` keeps. TFF's path is what its
`compression_aggregator` does to each variable: 8-bit stochastic levels, packed, for those above
20,000 elements. Every turn times all of them, one after the other, on one update after another;
what is printed are medians and, turn by turn, the ratios to TFF's. The threads are those within
an operation and between operations; with one within and TensorFlow's own number between, as TFF's
worker has them here.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedutils import data, provenance, race, recipes, results, training, updates
from fedutils.codecs.base import tensors


def ours(codec, n):
    """Functions: a vector to its payload, and back."""
    params = tensors(codec.default_params())
    encode = tf.function(lambda x: codec.encode(x, params, tf.constant([1, 0])), autograph=False)
    decode = tf.function(lambda payload: codec.decode(payload, params, n).values, autograph=False)
    return encode, decode


def tffs(layout):
    """The same of TFF's compression, from a vector to the packed variables and back."""
    sizes = [math.prod(shape) for shape in layout]
    encoders = []
    for shape, size in zip(layout, sizes, strict=True):
        large = size > 20_000
        kind = te.encoders.uniform_quantization(8) if large else te.encoders.identity()
        encoders.append(te.encoders.as_gather_encoder(kind, tf.TensorSpec(shape, tf.float32)))
    params = [encoder.get_params() for encoder in encoders]

    def encode(x):
        parts = [tf.reshape(part, s) for part, s in zip(tf.split(x, sizes), layout, strict=True)]
        return [e.encode(v, p[0])[0] for e, v, p in zip(encoders, parts, params, strict=True)]

    def decode(encoded):
        values = []
        for encoder, part, p in zip(encoders, encoded, params, strict=True):
            value = encoder.decode_before_sum(part, p[1])
            values.append(tf.reshape(encoder.decode_after_sum(value, p[2], 1), [-1]))
        return tf.concat(values, 0)

    return tf.function(encode, autograph=False), tf.function(decode, autograph=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="default")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--rounds", default="1,10,40,100")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--between", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.between)
    config = training.RunConfig(
        data=data.DataConfig(arguments.dataset), client_learning_rate=0.1, seed=7
    )
    rounds = [int(text) for text in arguments.rounds.split(",")]
    kept = updates.collect(config, rounds, clients=2, data_dir=arguments.data_dir)
    codecs = recipes.codecs(kept.layout)
    names = [name for name in race.select(arguments.recipes) if name in codecs]
    timed = {"tff": tffs(kept.layout)}
    timed |= {name: ours(codecs[name], kept.vectors.shape[1]) for name in names}
    vectors = [tf.constant(vector) for vector in kept.vectors]
    for encode, decode in timed.values():
        decode(encode(vectors[0]))  # trace
    seconds = {name: [] for name in timed}
    for turn in range(arguments.turns):
        for name, (encode, decode) in timed.items():
            begin = time.perf_counter()
            encoded = encode(vectors[turn % len(vectors)])
            middle = time.perf_counter()
            decode(encoded)
            seconds[name].append((middle - begin, time.perf_counter() - middle))
    rows = []
    for name, times in seconds.items():
        sums = [sum(pair) for pair in times]
        ratios = [a / sum(b) for a, b in zip(sums, seconds["tff"], strict=True)]
        encode_ms, decode_ms = (
            1000 * statistics.median(column) for column in zip(*times, strict=True)
        )
        ratio = statistics.median(ratios)
        rows.append({"codec": name, "encode_ms": encode_ms, "decode_ms": decode_ms, "ratio": ratio})
        print(f"{name:14} {encode_ms:6.1f} ms {decode_ms:6.1f} ms, {ratio:.3f} of TFF's 8-bit path")
    if arguments.out:
        about = vars(arguments) | {"out": None, "data_dir": None, **provenance.describe()}
        results.write_json(arguments.out, {"about": about, "codecs": rows})


if __name__ == "__main__":
    main()
