import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from support import REPOSITORY, environment, fedutils

from fedutils import data, distributors, ledger, models, recipes, records, results, seeds, training
from fedutils.codecs import base, floats
from fedutils.codecs.lowrank import low_rank_change
from fedutils.errors import UsageError

SYNTHETIC = data.DataConfig("synthetic")
TIMES = ["seconds", "evaluation_seconds"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"recipe": "zip"}, "unknown recipe 'zip': choose one of none"),
        ({"model": "vgg"}, "unknown model 'vgg': choose one of cnn, dense, logistic"),
        ({"rounds": 0}, "rounds must be a positive integer"),
        ({"rounds": 1.5}, "rounds must be a positive integer"),
        ({"clients_per_round": 0}, "clients_per_round must be a positive integer"),
        ({"batch_size": -20}, "batch_size must be a positive integer"),
        ({"eval_every": 0}, "eval_every must be a positive integer"),
        ({"seed": -1}, "seed must be an integer from 0 on"),
        ({"client_learning_rate": -0.1}, "client_learning_rate must be a positive number"),
        ({"client_learning_rate": float("nan")}, "client_learning_rate must be a positive number"),
        ({"server_learning_rate": 0.0}, "server_learning_rate must be a positive number"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, words):
    with pytest.raises(UsageError, match=words):
        training.RunConfig(**settings)


def test_names_of_runs_tell_tasks_apart():
    tasks = [
        training.RunConfig(data=data.DataConfig("emnist", classes=classes), model=model).task
        for classes, model in ((10, "cnn"), (62, "cnn"), (10, "dense"), (62, "dense"))
    ]
    assert tasks == ["emnist", "emnist-62", "emnist-dense", "emnist-62-dense"]


def test_too_many_clients_are_refused_before_training(tmp_path):
    config = training.RunConfig(data=SYNTHETIC, clients_per_round=3)
    with pytest.raises(UsageError, match="clients_per_round is 3, but synthetic has only 2"):
        training.run(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_store_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    config = training.RunConfig(data=SYNTHETIC, clients_per_round=2)
    with pytest.raises(UsageError, match="cannot be written"):
        training.run(config, tmp_path / "file" / "store")


def test_cohorts_are_seeded_distinct_and_cover_the_clients():
    federated = data.load(data.DataConfig("mnist5k"))
    cohorts = [training.Cohorts(training.RunConfig(seed=seed), federated) for seed in (1, 1, 2)]
    rounds = [[c.clients(r) for r in range(1, 41)] for c in cohorts]
    assert rounds[0] == rounds[1] != rounds[2]
    assert all(len(set(clients)) == 10 for clients in rounds[0])
    assert len({tuple(sorted(clients)) for clients in rounds[0]}) > 35
    assert len({c for clients in rounds[0] for c in clients}) == 40


def test_one_round_against_a_bare_tensorflow_twin(tff_worker):
    """Weighted FedAvg by hand: local SGD, then the mean weighted by examples."""
    federated = data.load(data.DataConfig("mnist5k", partition="dirichlet"))
    config = training.RunConfig(clients_per_round=3, client_learning_rate=0.1, seed=5)
    cohorts = training.Cohorts(config, federated)
    uneven = [data.client_arrays(federated.train, c) for c in cohorts.clients(1)]
    uneven = [(x[:size], y[:size]) for (x, y), size in zip(uneven, (100, 30, 7), strict=True)]
    datasets = [
        data.train_dataset(x, y, batch_size=20, epochs=1, seed=k) for k, (x, y) in enumerate(uneven)
    ]
    process = training.build_process(config, 10)
    state = process.initialize()
    ours = process.get_model_weights(process.next(state, datasets).state).trainable

    initial = models.cnn(10, config.seed).get_weights()
    mean = [np.zeros_like(w) for w in initial]
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for dataset, (_, labels) in zip(datasets, uneven, strict=True):
        model = models.cnn(10, config.seed)
        for images, targets in dataset:
            with tf.GradientTape() as tape:
                value = loss(targets, model(images))
            gradients = tape.gradient(value, model.trainable_variables)
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
                variable.assign_sub(0.1 * gradient)
        for total, after, before in zip(mean, model.get_weights(), initial, strict=True):
            total += len(labels) / 137 * (after - before)
    for variable, before, change in zip(ours, initial, mean, strict=True):
        assert np.abs(change).max() > 1e-4
        np.testing.assert_allclose(variable, before + change, atol=2e-6)


def test_initial_state_is_the_seeded_model(tff_worker):
    config = training.RunConfig(seed=9)
    process = training.build_process(config, 10)
    weights = process.get_model_weights(process.initialize()).trainable
    for ours, expected in zip(weights, models.cnn(10, 9).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)
    for ours, computed in zip(weights, models.initial_weights("cnn", 10, 9), strict=True):
        assert np.asarray(ours).tobytes() == computed.numpy().tobytes()


@pytest.fixture
def coded_model(monkeypatch):
    """Name of a recipe that codes what clients get, and not what they send."""
    recipe = dataclasses.replace(
        recipes.get("none"),
        name="coded-model",
        distributor=lambda weights_type, initial, seed: distributors.compressed_distributor(
            weights_type, low_rank_change, initial, seed
        ),
    )
    monkeypatch.setitem(recipes.RECIPES, "coded-model", recipe)
    return "coded-model"


def test_broadcast_strings_are_billed_to_every_client(coded_model, tmp_path, tff_worker):
    """The run's bill against strings that are encoded here from the models of its rounds."""
    config = training.RunConfig(coded_model, SYNTHETIC, rounds=3, clients_per_round=2)
    table = pd.read_csv(training.run(config, tmp_path).records_path)

    cohorts = training.Cohorts(config, data.load(SYNTHETIC))
    process = training.build_process(config, 10)
    state, expected = process.initialize(), [0]
    initial = models.cnn(10, config.seed).get_weights()
    codec = low_rank_change([w.shape for w in initial])
    for round_number in range(1, 4):
        model = process.get_model_weights(state).trainable
        change = np.concatenate([np.ravel(a - b) for a, b in zip(model, initial, strict=True)])
        seed = [seeds.stream(config.seed, "broadcast"), round_number - 1]
        string = codec.encode(tf.constant(change), {}, tf.constant(seed)).numpy()
        assert len(string) < 200 if round_number == 1 else len(string) > 1000
        expected.append(2 * (32 + 8 * len(string)))  # 32: the learning rate
        state = process.next(state, cohorts.datasets(round_number)).state
    assert table["broadcast_bits"].tolist() == expected
    assert table["model_payload_bits"][1:].tolist() == [(b // 2) - 32 for b in expected[1:]]


def test_strings_that_nobody_measured_are_refused(coded_model, tmp_path):
    config = training.RunConfig(coded_model, SYNTHETIC, clients_per_round=2)
    bill = ledger.of(training.build_process(config, 10).next)
    folder = results.open_run(tmp_path, "run", {}, {})
    keeper = records.RecordKeeper(folder, bill, 2, shown=None)
    released = {
        "client_work": {"train": {"loss": 1.0}},
        "aggregator": (),
        "distributor": (),
    }
    with pytest.raises(ValueError, match=r"1 string\(s\) are broadcast, but 0 measured"):
        asyncio.run(keeper.release(released, 1))


@pytest.fixture(scope="module")
def run_command():
    return [
        *("run", "--dataset", "synthetic", "--clients", "2", "--rounds", "8"),
        *("--eval-every", "3", "--recipe", "tff-compression", "--seed", "4"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(run_command, tmp_path_factory):
    """Folder of a run made in one go by the command line."""
    store = tmp_path_factory.mktemp("uninterrupted")
    result = fedutils(*run_command, "--out", store)
    assert result.returncode == 0, result.stderr
    (folder,) = store.iterdir()
    assert str(folder / "records.csv") in result.stdout
    return folder


def without_times(folder: Path) -> str:
    return pd.read_csv(folder / "records.csv", dtype=str).drop(columns=TIMES).to_csv()


def test_records(uninterrupted):
    table = pd.read_csv(uninterrupted / "records.csv")
    assert table["round"].tolist() == list(range(9))
    assert table[table["test_accuracy"].notna()]["round"].tolist() == [0, 3, 6, 8]
    bill = ledger.of(training.build_process(training.RunConfig("tff-compression"), 10).next)
    for direction in ledger.Direction:
        per_round = 2 * bill.bits(direction)
        assert table[f"{direction.value}_bits"].tolist() == [0] + [per_round] * 8
        assert table[f"cumulative_{direction.value}_bits"].tolist() == [
            per_round * k for k in range(9)
        ]
    assert (table["num_examples"][1:] == 20).all()
    assert (table["seconds"][1:] > 0).all()


def test_finished_run_leaves_no_checkpoint_and_names_no_path(uninterrupted):
    assert not (uninterrupted / "checkpoints").exists()
    text = (uninterrupted / "provenance.json").read_text()
    assert str(REPOSITORY) not in text and str(Path.home()) not in text


def test_tensorboard_has_every_metric(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(uninterrupted / "tensorboard"), size_guidance={"tensors": 0}
    ).Reload()
    table = pd.read_csv(uninterrupted / "records.csv")
    tags = events.Tags()["tensors"]
    assert {"test_accuracy", "train_loss", "broadcast_bits", "cumulative_aggregated_bits"} <= set(
        tags
    )
    read = {e.step: float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors("test_accuracy")}
    shown = table.dropna(subset=["test_accuracy"]).set_index("round")["test_accuracy"]
    assert read == pytest.approx(shown.to_dict())


def test_same_seed_same_records_in_another_process(uninterrupted, run_command, tmp_path):
    fedutils(*run_command, "--out", tmp_path)
    (again,) = tmp_path.iterdir()
    assert again.name == uninterrupted.name
    assert without_times(again) == without_times(uninterrupted)
    digests = {
        pd.read_json(folder / "provenance.json", typ="series")["final_weights_sha256"]
        for folder in (again, uninterrupted)
    }
    assert len(digests) == 1


def test_same_records_whatever_the_number_of_threads_and_cores(tmp_path):
    """Sums that are split among threads would differ in the sixth digit after one round."""
    command = ["run", "--dataset", "mnist5k", "--rounds", "1", "--clients", "3", "--out"]
    made = []
    pinned = "import os, sys; os.sched_setaffinity(0, {0}); os.execv(sys.argv[1], sys.argv[1:])"
    for name, before, extra in (
        ("all", [], {}),
        ("one", [sys.executable, "-c", pinned], {"TF_NUM_INTRAOP_THREADS": "4"}),
    ):
        subprocess.run(
            [*before, Path(sys.executable).with_name("fedutils"), *command, tmp_path / name],
            env=environment(**extra),
            cwd=REPOSITORY,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (folder,) = (tmp_path / name).iterdir()
        origin = json.loads((folder / "provenance.json").read_text())
        made.append((without_times(folder), origin["final_weights_sha256"]))
    assert made[0] == made[1]


def test_killed_run_resumes_to_the_same_records(
    uninterrupted, run_command, tmp_path, no_process_left
):
    command = [Path(sys.executable).with_name("fedutils"), *run_command, "--out", tmp_path]
    first = subprocess.Popen(command, env=environment(), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("*/checkpoints/round_000003.npz")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (folder,) = tmp_path.iterdir()
    assert not (folder / "provenance.json").exists()
    # The worst moment: the last record is there, its checkpoint is not.
    newest = max((folder / "checkpoints").glob("round_*.npz"))
    if len(list((folder / "checkpoints").glob("round_*.npz"))) > 1:
        newest.unlink()
    result = fedutils(*run_command, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert without_times(folder) == without_times(uninterrupted)


def test_finished_run_is_found_and_not_trained_again(uninterrupted, run_command):
    before = (uninterrupted / "records.csv").stat().st_mtime_ns
    result = fedutils(*run_command, "--out", uninterrupted.parent)
    assert result.returncode == 0
    assert "round" not in result.stdout
    assert (uninterrupted / "records.csv").stat().st_mtime_ns == before


def test_another_seed_is_another_run(uninterrupted, run_command):
    fedutils(*run_command[:-1], "5", "--out", uninterrupted.parent)
    folders = [f for f in uninterrupted.parent.iterdir() if f != uninterrupted]
    assert len(folders) == 1
    assert without_times(folders[0]) != without_times(uninterrupted)


def test_a_codec_that_refuses_everything_ends_the_run(tmp_path, tff_worker, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Refuses(base.Stage):
        def encode(self, x, params, seed):
            return base.Encoded(x, ok=tf.constant(False))

        def decode(self, y, side, params, seed, n):
            return base.Decoded(y)

    monkeypatch.setattr(recipes, "RECIPES", dict(recipes.RECIPES))
    recipes.add(base.chain(Refuses(), floats.Raw()), "refuses")
    config = training.RunConfig("refuses", SYNTHETIC, rounds=2, clients_per_round=2)
    with pytest.raises(UsageError, match="refused what all clients of the first round sent"):
        training.run(config, tmp_path)


def test_a_parameter_that_is_called_as_a_column_of_the_records_is_refused(
    tmp_path, tff_worker, monkeypatch
):
    @dataclasses.dataclass(frozen=True)
    class Halves(base.Stage):
        def default_params(self):
            return {"round": np.float32(0.5)}

        def encode(self, x, params, seed):
            return base.Encoded(x * params["round"])

        def decode(self, y, side, params, seed, n):
            return base.Decoded(y / params["round"])

    monkeypatch.setattr(recipes, "RECIPES", dict(recipes.RECIPES))
    recipes.add(base.chain(Halves(), floats.Raw()), "halves")
    config = training.RunConfig("halves", SYNTHETIC, rounds=1, clients_per_round=2)
    with pytest.raises(UsageError, match="cannot be called 'round', which is a column"):
        training.run(config, tmp_path)
