"""Codecs of others on request: sizes, decoded updates and times. See `turns`."""

import functools
import importlib.metadata
import os

import coders
import numpy as np
import turns


@functools.cache
def _pair(name, strong):
    return coders.coders(strong)[name]()


def size(name, symbols):
    """Bytes of symbols kept in a file; fails if they are not decoded to what they were."""
    given = np.load(symbols)
    encode, decode = _pair(name, True)
    data = encode(given)
    if not np.array_equal(decode(data, len(given)), given):
        raise AssertionError("its decoder does not give back what its encoder was given")
    return len(data)


def seconds(name, symbols):
    """Seconds of encoding and of decoding symbols kept in a file, and the bytes."""
    return turns.timed(*_pair(name, False), _load(symbols))


def grow(name, symbols, elements, repeats):
    """Least seconds over repeats for as many symbols as asked, and the peak memory in MiB."""
    return turns.least(*_pair(name, False), np.resize(_load(symbols), elements), repeats)


@functools.cache
def _load(path):
    return np.load(path)


def eight_bit(name, update, layout, out):
    """Bytes of an update at 8 bits and compressed; what is decoded is written to `out`."""
    encode, decode = coders.eight_bit(layout, *coders.compressors(True)[name])
    data = encode(np.load(update))
    np.save(out, decode(data))
    return len(data)


def fedjax(method, levels, update, layout, out):
    """Bytes by FedJAX's own formula; what it makes of an update is written to `out`."""
    import jax
    from fedjax.aggregators import compression

    key, vector = jax.random.PRNGKey(0), np.load(update)
    ends = np.cumsum([int(np.prod(shape)) for shape in layout])[:-1]
    # Names in the variables' order: JAX sorts them.
    leaves = {
        f"{i:03}": part.reshape(shape)
        for i, (part, shape) in enumerate(zip(np.split(vector, ends), layout, strict=True))
    }
    aggregator = {
        "uniform": lambda: compression.uniform_stochastic_quantizer(levels, key, "arithmetic"),
        "rotated": lambda: compression.rotated_uniform_stochastic_quantizer(levels, key),
        "drive": lambda: compression.structured_drive_quantizer(key),
        "terngrad": lambda: compression.terngrad_quantizer(key),
    }[method]()
    decoded, state = aggregator.apply([(b"client", leaves, 1.0)], aggregator.init())
    np.save(out, np.concatenate([np.ravel(decoded[name]) for name in sorted(decoded)]))
    return float(state.num_bits) / 8


def versions(packages):
    return {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    if os.environ.get("BENCH_THREADS"):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["BENCH_THREADS"]))
        tf.config.threading.set_inter_op_parallelism_threads(int(os.environ["BENCH_THREADS"]))
    turns.serve(
        dict(
            size=size,
            seconds=seconds,
            grow=grow,
            eight_bit=eight_bit,
            fedjax=fedjax,
            versions=versions,
        )
    )
