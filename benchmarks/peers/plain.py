"""The arithmetic of a round in plain TensorFlow: a client's SGD in one `tf.function`, and the mean.

Nothing of federated learning's machinery: what it takes is the limit on a machine.
"""

import functools

import numpy as np
import tensorflow as tf


def network():
    """McMahan et al.'s CNN, as `fedutils.models.cnn`."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.InputLayer(input_shape=(28, 28, 1)),
            layers.Conv2D(32, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(10),
        ]
    )


class Client:
    """One client's training; several can train at the same time, each on its own variables."""

    def __init__(self, learning_rate=0.1):
        self.model = network()

        @tf.function
        def epoch(dataset):
            for images, labels in dataset:
                with tf.GradientTape() as tape:
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                        labels, self.model(images, training=True)
                    )
                    loss = tf.reduce_mean(losses)
                variables = self.model.trainable_variables
                for variable, gradient in zip(
                    variables, tape.gradient(loss, variables), strict=True
                ):
                    variable.assign_sub(learning_rate * gradient)

        self._epoch = epoch

    def train(self, weights, images, labels):
        """Returns the weights, a list of arrays, after one epoch in batches of 20."""
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        dataset = tf.data.Dataset.from_tensor_slices((images, labels))
        self._epoch(dataset.shuffle(1000).batch(20))
        return [variable.numpy() for variable in self.model.trainable_variables]


@functools.cache
def client_of_process():
    """The client of a process that has one, traced once."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    return Client()


def mean(results, examples):
    """The mean of lists of arrays, weighted by numbers of examples."""
    shares = np.asarray(examples, np.float32) / np.float32(sum(examples))
    variables = zip(*results, strict=True)
    return [sum(s * part for s, part in zip(shares, parts, strict=True)) for parts in variables]
