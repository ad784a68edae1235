"""Every recipe on real updates: rate, distortion, time to encode and decode.

    .venv/bin/python benchmarks/codecs.py [--dataset mnist5k|emnist] [--data-dir DIR]
        [--rounds 1,10,40,100] [--clients 2] [--out FILE.csv]

The updates are those of plain federated averaging of the study's CNN (client learning rate 0.1)
and are kept in results/runs, so that only the first call trains. Times are medians over the
updates, of traced functions, with TensorFlow's default threads.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from fedutils import data, provenance, recipes, results, training, updates
from fedutils.codecs.base import tensors


def measure(codec, vectors):
    """Rows of (bits per parameter, NMSE), and median encode and decode milliseconds."""
    params, n = tensors(codec.default_params()), vectors.shape[1]
    encode = tf.function(lambda x: codec.encode(x, params, tf.constant([1, 0])), autograph=False)
    decode = tf.function(lambda payload: codec.decode(payload, params, n).values, autograph=False)
    decode(encode(vectors[0]))  # trace
    rows, times = [], []
    for vector in map(tf.constant, vectors):
        begin = time.perf_counter()
        payload = encode(vector)
        middle = time.perf_counter()
        values = decode(payload)
        times.append((middle - begin, time.perf_counter() - middle))
        error = float(tf.reduce_sum((values - vector) ** 2) / tf.reduce_sum(vector**2))
        rows.append((8 * len(payload.numpy()) / n, error))
    return rows, [1000 * statistics.median(column) for column in zip(*times, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--rounds", default="1,10,40,100")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    config = training.RunConfig(
        data=data.DataConfig(arguments.dataset), client_learning_rate=0.1, seed=7
    )
    rounds = [int(text) for text in arguments.rounds.split(",")]
    kept = updates.collect(config, rounds, arguments.clients, data_dir=arguments.data_dir)
    lines = []
    for name, codec in recipes.codecs(kept.layout).items():
        rows, (encode, decode) = measure(codec, kept.vectors)
        table = kept.table.assign(recipe=name)
        table[["bits_per_parameter", "nmse"]] = np.array(rows)
        table["encode_ms"], table["decode_ms"] = round(encode, 1), round(decode, 1)
        lines.append(table)
        print(f"{name:14} {encode:6.0f} ms {decode:6.0f} ms", flush=True)
    result = pd.concat(lines)
    shown = result.pivot_table(
        index="recipe", columns="round", values=["bits_per_parameter", "nmse"], sort=False
    )
    print(shown.round(4).to_string())
    if arguments.out:
        result.to_csv(arguments.out, index=False)
        origin = {"data": arguments.dataset, "clients": arguments.clients, **provenance.describe()}
        results.write_json(Path(arguments.out).with_suffix(".json"), origin)


if __name__ == "__main__":
    main()
