"""The networks: the study's convolutional one, and two others to try the recipes on."""

from __future__ import annotations

import collections
from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from fedutils import seeds
from fedutils.errors import UsageError

INPUT_SPEC = (
    tf.TensorSpec([None, 28, 28, 1], tf.float32),
    tf.TensorSpec([None], tf.int32),
)


def cnn(num_classes: int, seed: int) -> tf.keras.Model:
    """Builds the CNN of McMahan et al. 2017 (https://arxiv.org/abs/1602.05629), section 3.

    Two 5x5 convolutions (32 and 64 channels, each with 2x2 max pooling), a dense layer of 512
    and the logits: 1,663,370 parameters for 10 classes, 1,690,046 for 62.

    Args:
        num_classes: Number of labels.
        seed: Seed of the initial weights; each layer draws from a stream of its own.

    Returns:
        A Keras model from images float32[batch, 28, 28, 1] to logits float32[batch, classes].
    """

    def conv(channels: int) -> tf.keras.layers.Layer:
        return tf.keras.layers.Conv2D(
            channels,
            kernel_size=5,
            padding="same",
            activation="relu",
            kernel_initializer=_glorot(seed, f"conv{channels}"),
        )

    return _sequential(
        conv(32),
        tf.keras.layers.MaxPooling2D(),
        conv(64),
        tf.keras.layers.MaxPooling2D(),
        tf.keras.layers.Flatten(),
        _relu(512, seed, "dense"),
        _logits(num_classes, seed),
    )


def dense(num_classes: int, seed: int) -> tf.keras.Model:
    """Builds the 2NN of McMahan et al. 2017 (https://arxiv.org/abs/1602.05629), section 3.

    Two dense layers of 200 and the logits: 199,210 parameters for 10 classes. Arguments and
    result are those of `cnn`.
    """
    return _sequential(
        tf.keras.layers.Flatten(),
        _relu(200, seed, "dense1"),
        _relu(200, seed, "dense2"),
        _logits(num_classes, seed),
    )


def logistic_regression(num_classes: int, seed: int) -> tf.keras.Model:
    """Builds multinomial logistic regression: 7,850 parameters for 10 classes.

    Arguments and result are those of `cnn`.
    """
    return _sequential(tf.keras.layers.Flatten(), _logits(num_classes, seed))


MODELS: dict[str, Callable[[int, int], tf.keras.Model]] = {
    "cnn": cnn,
    "dense": dense,
    "logistic": logistic_regression,
}
"""Functions from the number of labels and a seed to a model, by name. Layers that have weights
have a `kernel` and a `bias`."""


def get(name: str) -> Callable[[int, int], tf.keras.Model]:
    """Returns the function that builds the model of a name.

    Raises:
        UsageError: If there is none; the message names those that exist.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name]


def _sequential(*layers: tf.keras.layers.Layer) -> tf.keras.Model:
    return tf.keras.Sequential([tf.keras.layers.InputLayer(input_shape=(28, 28, 1)), *layers])


def _relu(units: int, seed: int, layer: str) -> tf.keras.layers.Layer:
    return tf.keras.layers.Dense(units, activation="relu", kernel_initializer=_glorot(seed, layer))


def _logits(num_classes: int, seed: int) -> tf.keras.layers.Layer:
    return tf.keras.layers.Dense(num_classes, kernel_initializer=_glorot(seed, "logits"))


def _glorot(seed: int, layer: str) -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.GlorotUniform(seed=seeds.stream(seed, "initial", layer))


def initial_weights(name: str, num_classes: int, seed: int) -> list[tf.Tensor]:
    """Computes the weights that a model begins with, bit for bit, wherever TensorFlow runs.

    Who knows the seed of a run needs no communication to know its initial model.

    Args:
        name: Name of the model.
        num_classes: Number of labels.
        seed: Seed of the initial weights.

    Returns:
        float32 tensors in the order of the model's weights; operations of the graph in which it
        is called, if it is called in one.
    """
    with tf.Graph().as_default():  # for the layers' shapes and initializers; makes no variable here
        layers = [layer for layer in get(name)(num_classes, seed).layers if layer.weights]
    return [
        initializer(variable.shape)
        for layer in layers
        for initializer, variable in (
            (layer.kernel_initializer, layer.kernel),
            (layer.bias_initializer, layer.bias),
        )
    ]


def tff_model(name: str, num_classes: int, seed: int) -> tff.learning.models.VariableModel:
    """Wraps a model with the study's loss and metrics; call it where TFF asks for a model."""
    return tff.learning.models.from_keras_model(
        get(name)(num_classes, seed),
        input_spec=INPUT_SPEC,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy()],
    )


class Evaluator:
    """Test loss and accuracy of a model's weights on arrays held in memory."""

    def __init__(self, name: str, num_classes: int, images, labels, batch_size: int = 500) -> None:
        """Prepares the evaluation.

        Args:
            name: Name of the model.
            num_classes: Number of labels.
            images: float32[n, 28, 28, 1].
            labels: int32[n].
            batch_size: Examples evaluated at a time.
        """
        self._model = get(name)(num_classes, seed=0)
        self._size = len(labels)
        self._data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
        self._forward = tf.function(self._model, input_signature=[INPUT_SPEC[0]])

    def __call__(self, weights: tff.learning.models.ModelWeights) -> dict[str, float]:
        """Returns `test_accuracy` (a fraction) and `test_loss` (nats an example)."""
        weights.assign_weights_to(self._model)
        correct, loss = 0, 0.0
        for images, labels in self._data:
            logits = self._forward(images)
            correct += int(
                tf.reduce_sum(tf.cast(tf.argmax(logits, 1) == tf.cast(labels, tf.int64), tf.int64))
            )
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss += float(tf.reduce_sum(tf.cast(losses, tf.float64)))
        return collections.OrderedDict(
            test_accuracy=correct / self._size, test_loss=loss / self._size
        )
