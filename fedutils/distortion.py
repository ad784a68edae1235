"""Rate and distortion: what codecs make of real updates, and what theory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import tensorflow as tf

from fedutils.codecs.base import Codec, tensors
from fedutils.updates import Updates


def measure(
    codec: Codec,
    vectors: np.ndarray,
    settings: Sequence[Mapping[str, float | np.ndarray]] | None = None,
    seed: int = 1,
) -> list[tuple[float, float]]:
    """Encodes and decodes updates.

    Args:
        codec: The codec.
        vectors: float32[updates, n].
        settings: For each update, the codec's parameters; its default ones if not given.
        seed: Of the codec's randomness.

    Returns:
        For each update the rate in bits per parameter, measured on the payload, and the distortion
        as NMSE: the squared error's sum over the squared update's.

    Raises:
        ValueError: If the codec cannot read its own payload.
    """
    n = vectors.shape[1]
    settings = settings or [codec.default_params()] * len(vectors)
    param_specs = tf.nest.map_structure(lambda p: tf.TensorSpec(p.shape), tensors(settings[0]))
    # Traced here and once: called, each codec's functions would warn of being traced anew.
    encode = tf.function(
        lambda x, params: codec.encode(x, params, tf.constant([seed, 0])), autograph=False
    ).get_concrete_function(tf.TensorSpec([n]), param_specs)
    decode = tf.function(
        lambda payload, params: codec.decode(payload, params, n), autograph=False
    ).get_concrete_function(tf.TensorSpec([], tf.string), param_specs)
    measured = []
    for vector, setting in zip(vectors, settings, strict=True):
        params = tensors(setting)
        payload = encode(tf.constant(vector), params)
        decoded = decode(payload, params)
        size = len(payload.numpy())
        if not decoded.ok:
            raise ValueError(f"{codec!r} rejected its own payload of {size} bytes")
        measured.append((8 * size / n, nmse(decoded.values.numpy(), vector)))
    return measured


def nmse(decoded: np.ndarray, vector: np.ndarray) -> float:
    """Returns the squared error's sum over the squared vector's, in double precision.

    Args:
        decoded: float[n].
        vector: float[n], what was encoded.
    """
    error = decoded.astype(np.float64) - vector
    return float(np.sum(error**2) / np.sum(vector.astype(np.float64) ** 2))


def table(codecs: Mapping[str, Codec], updates: Updates) -> pd.DataFrame:
    """Measures codecs on updates.

    Args:
        codecs: By the recipe's name.
        updates: Real updates.

    Returns:
        A row a recipe and update: `recipe`, `round`, `client`, `bits_per_parameter`, `nmse`.
    """
    rows = [
        (name, where.round, where.client, rate, nmse)
        for name, codec in codecs.items()
        for where, (rate, nmse) in zip(
            updates.table.itertuples(), measure(codec, updates.vectors), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=["recipe", "round", "client", "bits_per_parameter", "nmse"])


def sweep(codec: Codec, vector: np.ndarray, steps: Sequence[float]) -> pd.DataFrame:
    """Measures a codec on one update with one quantization step after another.

    Args:
        codec: A codec with a parameter `step`, in standard deviations of the update.
        vector: float32[n].
        steps: Values of the parameter.

    Returns:
        A row a step: `step`, `bits_per_parameter`, `nmse`.
    """
    vectors = np.broadcast_to(vector, [len(steps), len(vector)])
    measured = measure(codec, vectors, [{**codec.default_params(), "step": s} for s in steps])
    rows = [(step, rate, nmse) for step, (rate, nmse) in zip(steps, measured, strict=True)]
    return pd.DataFrame(rows, columns=["step", "bits_per_parameter", "nmse"])


def gaussian_bound(rate: np.ndarray) -> np.ndarray:
    """The least NMSE at which independent Gaussian numbers can be sent: 2^(-2 rate).

    Shannon 1959; Cover and Thomas, Elements of Information Theory, theorem 10.3.2. Updates are
    not Gaussian and not independent, so a codec that knows their structure may go below.

    Args:
        rate: Bits per parameter.
    """
    return 2.0 ** (-2.0 * np.asarray(rate))


def entropy_curve(vector: np.ndarray, steps: Sequence[float]) -> pd.DataFrame:
    """Rounds an update to one uniform grid after another and takes the symbols' entropy.

    It is an estimate of what a coder needs that knows the symbols' frequencies and nothing else,
    tables not counted; no payload is made.

    Args:
        vector: float32[n].
        steps: Grid steps in standard deviations of the update.

    Returns:
        A row a step: `step`, `entropy_bits_per_parameter`, `nmse`.
    """
    rows = []
    for step in steps:
        size = step * vector.std(dtype=np.float64)
        symbols = np.rint(vector / size)
        _, counts = np.unique(symbols, return_counts=True)
        shares = counts / len(vector)
        rows.append((step, -np.sum(shares * np.log2(shares)), nmse(symbols * size, vector)))
    return pd.DataFrame(rows, columns=["step", "entropy_bits_per_parameter", "nmse"])
