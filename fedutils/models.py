"""The study's model: the convolutional network of FedAvg."""

from __future__ import annotations

import collections

import tensorflow as tf
import tensorflow_federated as tff

from fedutils import seeds

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

    def glorot(layer: str) -> tf.keras.initializers.Initializer:
        return tf.keras.initializers.GlorotUniform(seed=seeds.stream(seed, "initial", layer))

    def conv(channels: int) -> tf.keras.layers.Layer:
        return tf.keras.layers.Conv2D(
            channels,
            kernel_size=5,
            padding="same",
            activation="relu",
            kernel_initializer=glorot(f"conv{channels}"),
        )

    return tf.keras.Sequential(
        [
            tf.keras.layers.InputLayer(input_shape=(28, 28, 1)),
            conv(32),
            tf.keras.layers.MaxPooling2D(),
            conv(64),
            tf.keras.layers.MaxPooling2D(),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(512, activation="relu", kernel_initializer=glorot("dense")),
            tf.keras.layers.Dense(num_classes, kernel_initializer=glorot("logits")),
        ]
    )


def tff_model(num_classes: int, seed: int) -> tff.learning.models.VariableModel:
    """Wraps `cnn` with the study's loss and metrics; call it where TFF asks for a model."""
    return tff.learning.models.from_keras_model(
        cnn(num_classes, seed),
        input_spec=INPUT_SPEC,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy()],
    )


class Evaluator:
    """Test loss and accuracy of a model's weights on arrays held in memory."""

    def __init__(self, num_classes: int, images, labels, batch_size: int = 500) -> None:
        """Prepares the evaluation.

        Args:
            num_classes: Number of labels.
            images: float32[n, 28, 28, 1].
            labels: int32[n].
            batch_size: Examples evaluated at a time.
        """
        self._model = cnn(num_classes, seed=0)
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
