import numpy as np
import pytest
import tensorflow_federated as tff

from fedutils import models, study


@pytest.mark.parametrize("classes", [10, 62])
def test_same_shapes_as_the_model_that_tff_ships(classes):
    ours = models.cnn(classes, seed=1)
    from tensorflow_federated.python.simulation.baselines.emnist import emnist_models

    reference = emnist_models.create_original_fedavg_cnn_model(only_digits=classes == 10)
    assert [w.shape for w in ours.weights] == [w.shape for w in reference.weights]
    assert ours.count_params() == study.PARAMETERS[classes]


def test_study_parameter_count():
    assert models.cnn(10, seed=1).count_params() == 1_663_370


def test_initial_weights_are_the_seed_and_nothing_else():
    first, again, other = (models.cnn(10, seed=s).get_weights() for s in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    # Layers draw from streams of their own.
    assert not np.array_equal(first[0].ravel()[:10], first[2].ravel()[:10])


def test_evaluator_against_keras():
    import tensorflow as tf

    model = models.cnn(10, seed=3)
    rng = np.random.default_rng(0)
    images = rng.random([130, 28, 28, 1], np.float32)
    labels = rng.integers(0, 10, 130).astype(np.int32)
    model.compile(
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["sparse_categorical_accuracy"],
    )
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    weights = tff.learning.models.ModelWeights.from_model(model)
    ours = models.Evaluator(10, images, labels, batch_size=50)(weights)
    assert ours["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert ours["test_loss"] == pytest.approx(loss, rel=1e-5)
