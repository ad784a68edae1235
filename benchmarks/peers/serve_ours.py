"""This project's codecs on request, timed as `serve_codecs` times those of others. See `turns`."""

import os

import numpy as np
import tensorflow as tf
import turns

from fedutils.codecs import entropy, recipes
from fedutils.codecs.base import tensors

DEFAULT = "default, floats to payload"


def _coder(coder):
    encode = tf.function(coder.encode, input_signature=[tf.TensorSpec([None], tf.int32)])
    decode = tf.function(
        coder.decode, input_signature=[tf.TensorSpec([None], tf.uint8), tf.TensorSpec([], tf.int32)]
    )
    return lambda x: encode(x).numpy(), lambda data, n: decode(data, n)[0].numpy()


def _codec(layout):
    codec = recipes.default(layout)
    params, n = tensors(codec.default_params()), sum(int(np.prod(shape)) for shape in layout)
    encode = tf.function(lambda x: codec.encode(x, params, tf.constant([1, 0])), autograph=False)
    decode = tf.function(lambda payload: codec.decode(payload, params, n).values, autograph=False)
    return lambda x: encode(x).numpy(), lambda data, _: decode(data).numpy()


_known = {}


def _traced(name, given, layout):
    """Encoder and decoder of a vector like this one."""
    key = (name, tuple(map(tuple, layout)))
    if key not in _known:
        make = {
            "sparse": lambda: _coder(entropy.Sparse()),
            "context": lambda: _coder(entropy.Context(key[1])),
            "ANS": lambda: _coder(entropy.Ans()),
            DEFAULT: lambda: _codec(key[1]),
        }
        encode, decode = _known[key] = make[name]()
        decode(encode(given), len(given))
    return _known[key]


def seconds(name, symbols, update, layout):
    """Seconds of encoding and decoding symbols, or the update, kept in files; and the bytes."""
    given = tf.constant(np.load(update if name == DEFAULT else symbols))
    return turns.timed(*_traced(name, given, layout), given)


def grow(name, update, elements, repeats):
    """Least seconds over repeats for an update as long as asked, and the peak memory in MiB."""
    layout = [(elements // 512, 512), (elements % 512,)]
    given = tf.constant(np.resize(np.load(update), elements))
    return turns.least(*_traced(name, given, layout), given, repeats)


if __name__ == "__main__":
    threads = int(os.environ.get("BENCH_THREADS", "0"))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    turns.serve({"seconds": seconds, "grow": grow})
