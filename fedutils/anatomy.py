"""Where the bits of a sparse payload go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import tensorflow as tf

from fedutils.codecs import base, shared
from fedutils.codecs.base import Codec

_DRAWS = 16  # for an error; that of a pool varies from draw to draw
_PARTS = {
    "Positions": ("class counts", "gaps"),
    "Signs": ("signs",),
    "Magnitudes": ("large ones", "excess"),
}


def table(
    codecs: Mapping[str, Codec],
    vectors: np.ndarray,
    layout: Sequence[tuple[int, ...]],
    nonzeros: Sequence[int],
) -> pd.DataFrame:
    """Encodes an update at several rates and takes the payloads apart.

    Args:
        codecs: Of `adaptive`, by the names that rows begin with.
        vectors: float32[updates, n]; the first is encoded, the others, if there are any, tell
            busy lines from quiet.
        layout: Shapes of the model's variables.
        nonzeros: About how many numbers are sent, in each row; decides the step.

    Returns:
        Bits by part: `Positions`, `Signs`, `Magnitudes` (of those that are not 1), and `Rest`
        (check, seed, how many there are, bits that fill the last byte). A row's parts add up to
        the measured length of its payload. Beside them `NMSE`, the squared error of what is
        decoded over the squared norm of the update, in the mean over 16 random draws.
    """
    others = vectors[1:] if len(vectors) > 1 else vectors
    busy = tf.constant(np.abs(others).sum(0))
    shapes = tuple(map(tuple, layout))
    lines = shared.levels(shapes, shared.activity(shapes, busy))
    rows = {
        f"{name}, {count:,} nonzeros": _parts(codec, tf.constant(vectors[0]), lines, count)
        for count in nonzeros
        for name, codec in codecs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _parts(codec: Codec, x: tf.Tensor, lines: tf.Tensor, nonzeros: int) -> dict[str, float]:
    seed = tf.constant([1, 2])
    params = base.tensors(codec.default_params())
    params["lines"] = lines
    *_, scaled, _ = _after_stages(codec, x, params, seed)
    params["step"] *= tf.reduce_sum(tf.abs(scaled)) / nonzeros
    *_, symbols = _after_stages(codec, x, params, seed)
    fields = codec.coder_for(params).fields(symbols)
    sizes = {name: int(tf.reduce_sum(lengths)) for name, (_, lengths) in fields.items()}
    parts = {part: sum(sizes[name] for name in names) for part, names in _PARTS.items()}
    whole = 8 * len(codec.encode(x, params, seed).numpy())
    parts["Rest"] = whole - sum(parts.values())
    return {**parts, "NMSE": _nmse(codec, x, params)}


def _nmse(codec: Codec, x: tf.Tensor, params) -> float:
    errors = []
    for draw in range(_DRAWS):
        string = codec.encode(x, params, tf.constant([draw, 0]))
        decoded, _ = codec.decode(string, params, len(x))
        errors.append(tf.nn.l2_loss(decoded - x))
    return float(tf.reduce_mean(errors) / tf.nn.l2_loss(x))


def _after_stages(codec: Codec, x: tf.Tensor, params, seed: tf.Tensor) -> list[tf.Tensor]:
    """The vector after each stage, as `Codec.encode` makes them."""
    word = tf.random.stateless_uniform([], seed, None, None, tf.int32, alg="philox")
    after = []
    for i, stage in enumerate(codec.stages):
        x = stage.encode(x, params, tf.stack([word, i])).values
        after.append(x)
    return after
