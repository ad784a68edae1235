import numpy as np
import pytest
import tensorflow_federated as tff

from fedutils import data, models, study, training
from fedutils.errors import UsageError

NETWORKS = [(name, classes) for name in models.MODELS for classes in (10, 62)]


@pytest.mark.parametrize("classes", [10, 62])
def test_same_shapes_as_the_model_that_tff_ships(classes):
    ours = models.cnn(classes, seed=1)
    from tensorflow_federated.python.simulation.baselines.emnist import emnist_models

    reference = emnist_models.create_original_fedavg_cnn_model(only_digits=classes == 10)
    assert [w.shape for w in ours.weights] == [w.shape for w in reference.weights]
    assert ours.count_params() == study.PARAMETERS[classes]


def test_study_parameter_count():
    assert models.cnn(10, seed=1).count_params() == 1_663_370


@pytest.mark.parametrize("classes", [10, 62])
def test_parameters_of_the_dense_models(classes):
    """Those of the 2NN are in McMahan et al. 2017, section 3, for ten classes."""
    assert models.dense(10, seed=1).count_params() == 199_210
    shapes = [w.shape for w in models.dense(classes, seed=1).weights]
    assert shapes == [(784, 200), (200,), (200, 200), (200,), (200, classes), (classes,)]
    shapes = [w.shape for w in models.logistic_regression(classes, seed=1).weights]
    assert shapes == [(784, classes), (classes,)]


def test_dense_models_by_hand():
    """Rectified between layers, and not after the last."""
    images = np.random.default_rng(0).random([3, 28, 28, 1], np.float32)
    for name, layers in (("logistic", 1), ("dense", 3)):
        model = models.get(name)(10, 1)
        expected, weights = images.reshape([3, 784]), model.get_weights()
        for layer in range(layers):
            expected = expected @ weights[2 * layer] + weights[2 * layer + 1]
            expected = expected if layer == layers - 1 else np.maximum(expected, 0)
        assert (expected < 0).any()
        np.testing.assert_allclose(model(images), expected, atol=1e-5)


def test_unknown_model_is_refused_with_a_choice():
    with pytest.raises(UsageError, match="unknown model 'vgg': choose one of cnn, dense, logistic"):
        models.get("vgg")


@pytest.mark.parametrize("name", models.MODELS)
def test_initial_weights_are_the_seed_and_nothing_else(name):
    first, again, other = (models.get(name)(10, s).get_weights() for s in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_layers_draw_from_streams_of_their_own():
    for name in ("cnn", "dense"):
        kernels = models.get(name)(10, 1).get_weights()[::2]
        # Each in units of its own range, as Glorot's bound differs.
        beginnings = [(k / np.abs(k).max()).ravel()[:10] for k in kernels]
        for i, one in enumerate(beginnings):
            assert not any(np.allclose(one, other, rtol=0.01) for other in beginnings[:i])


@pytest.mark.usefixtures("tff_worker")
@pytest.mark.parametrize(("name", "classes"), NETWORKS)
def test_initial_weights_are_computed_without_a_model(name, classes):
    expected = models.get(name)(classes, 3).get_weights()
    in_a_graph = tff.tensorflow.computation(lambda: models.initial_weights(name, classes, 3))
    for computed in (models.initial_weights(name, classes, 3), in_a_graph()):
        assert [np.asarray(w).tobytes() for w in computed] == [w.tobytes() for w in expected]


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
    ours = models.Evaluator("cnn", 10, images, labels, batch_size=50)(weights)
    assert ours["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert ours["test_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.usefixtures("tff_worker")
@pytest.mark.parametrize(
    ("recipe", "bits"),
    [
        ("tff-compression", (32 * 7850, 33 * 7850)),  # no variable is large enough to compress
        ("adaptive-fine", (1, 3000)),  # its pool is larger than the model
        ("two-way", (1, 7850)),  # and no matrix large enough for a low rank
    ],
)
def test_recipes_train_a_model_that_is_not_the_one_they_were_made_for(recipe, bits, tmp_path):
    config = training.RunConfig(
        recipe, data.DataConfig("synthetic"), rounds=1, clients_per_round=2, model="logistic"
    )
    run = training.run(config, tmp_path)
    assert run.folder.name.startswith(f"{recipe}-synthetic-logistic-seed1-")
    before, after = run.records().to_dict("records")
    assert bits[0] < after["aggregated_bits"] / 2 < bits[1]
    assert after.get("rejected_clients", 0) == 0
    assert np.isfinite(after["test_loss"])
    assert after["test_loss"] != before["test_loss"]
