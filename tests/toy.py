"""Federated averaging that takes no time: one dense layer, three clients of few examples."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


def model() -> tff.learning.models.VariableModel:
    """Four inputs, three classes; kernel from a seed, bias zero."""
    keras = tf.keras.Sequential(
        [
            tf.keras.layers.InputLayer((4,)),
            tf.keras.layers.Dense(3, kernel_initializer=tf.keras.initializers.GlorotNormal(1)),
        ]
    )
    return tff.learning.models.from_keras_model(
        keras,
        input_spec=(tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def clients() -> list[tf.data.Dataset]:
    """The batches of the three clients."""
    rng = np.random.default_rng(1)
    return [
        tf.data.Dataset.from_tensor_slices(
            (rng.standard_normal((k, 4), "f4"), rng.integers(0, 3, k).astype("i4"))
        ).batch(4)
        for k in (7, 3, 12)
    ]


def averaging(
    build=tff.learning.algorithms.build_weighted_fed_avg, **parts
) -> tff.learning.templates.LearningProcess:
    """Weighted averaging as TFF builds it, or another, with parts of it replaced."""
    return build(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        **parts,
    )


def weights(process: tff.learning.templates.LearningProcess, state) -> np.ndarray:
    """The model's weights as one vector, float32[15]."""
    variables = process.get_model_weights(state).trainable
    return np.concatenate([np.ravel(variable) for variable in variables])


def train(**parts) -> tuple[tff.learning.templates.LearningProcess, list[np.ndarray]]:
    """Three rounds; see `averaging`.

    Returns:
        The process, and the weights after each round.
    """
    process = averaging(**parts)
    state, after = process.initialize(), []
    for _ in range(3):
        state = process.next(state, clients()).state
        after.append(weights(process, state))
    return process, after
