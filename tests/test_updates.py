import dataclasses
import os
import types

import numpy as np
import pytest

from fedutils import data, provenance, results, training, updates
from fedutils.errors import UsageError


def test_updates_are_what_moves_the_model(tff_worker, tmp_path):
    config = training.RunConfig(
        "qsgd", data.DataConfig("synthetic"), clients_per_round=2, client_learning_rate=0.1
    )
    kept = updates.collect(config, [1, 2], clients=2, store=tmp_path)
    assert kept.vectors.shape == (4, 1_663_370)
    assert kept.table["round"].tolist() == [1, 1, 2, 2]
    assert kept.layout[0] == (5, 5, 1, 32) and kept.layout[-1] == (10,)

    plain = training.RunConfig("none", config.data, clients_per_round=2, client_learning_rate=0.1)
    process = training.build_process(plain, 10)
    cohorts = training.Cohorts(plain, data.load(config.data))
    state = process.initialize()
    for first, round_number in ((0, 1), (2, 2)):
        before = _flat(process, state)
        state = process.next(state, cohorts.datasets(round_number)).state
        change = _flat(process, state) - before
        # Both clients hold ten examples, so the model moves by the plain mean.
        np.testing.assert_allclose(change, kept.vectors[first : first + 2].mean(0), atol=3e-8)
        assert np.abs(change).max() > 1e-4

    again = updates.collect(config, [1, 2], clients=2, store=tmp_path)
    np.testing.assert_array_equal(again.vectors, kept.vectors)
    assert len(list(tmp_path.iterdir())) == 1


class Counting:
    """A process whose only weight is the number of rounds; a client's update is its round's."""

    def initialize(self):
        return types.SimpleNamespace(done=0)

    def get_model_weights(self, state):
        return types.SimpleNamespace(trainable=[np.full([2], float(state.done), np.float32)])

    def next(self, state, datasets):
        moved = state.done + 1 if len(datasets) == 1 else 1
        return types.SimpleNamespace(state=types.SimpleNamespace(done=state.done + moved))


@pytest.fixture
def counting(monkeypatch):
    """Configurations that were trained on, by a process that does but count."""
    built = []

    def build_process(config, classes):
        built.append(config)
        return Counting()

    monkeypatch.setattr(training, "build_process", build_process)
    monkeypatch.setattr(training.Cohorts, "datasets", lambda self, round_number: [0, 0])
    monkeypatch.setattr(updates.runtime, "start", lambda: None)
    return built


CONFIG = training.RunConfig(data=data.DataConfig("synthetic"), clients_per_round=2)


@pytest.mark.parametrize("rounds", [[1, 3], [3, 1], [3, 1, 3]])
def test_rows_are_of_the_rounds_that_the_table_names(rounds, counting, tmp_path):
    kept = updates.collect(CONFIG, rounds, clients=1, store=tmp_path)
    assert kept.table["round"].tolist() == [1, 3]
    assert kept.vectors[:, 0].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(("rounds", "clients"), [([], 1), ([0, 1], 1), ([1], 0)])
def test_nothing_to_keep_is_refused(rounds, clients, counting, tmp_path):
    with pytest.raises(UsageError, match="for rounds from 1 on"):
        updates.collect(CONFIG, rounds, clients, tmp_path)
    assert not counting and not list(tmp_path.iterdir())


def test_key_covers_what_keeps_the_updates_and_nothing_that_does_not_matter(
    counting, monkeypatch, tmp_path
):
    other = dataclasses.replace(CONFIG, server_learning_rate=0.5, recipe="qsgd", eval_every=7)
    for config in (CONFIG, other):
        updates.collect(config, [1], store=tmp_path)
    assert [config.server_learning_rate for config in counting] == [1.0]
    digests = []
    monkeypatch.setattr(provenance, "code_digest", lambda *root: str(digests.append(root)))
    updates.collect(CONFIG, [1], store=tmp_path)
    assert ("fedutils.updates",) in digests


def test_half_written_updates_are_cleaned_up_and_no_disk_is_told(counting, monkeypatch, tmp_path):
    fsync = os.fsync

    def full(descriptor):
        if counting:  # by then, updates are written
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as broken:
        broken.setattr(results.os, "fsync", full)
        with pytest.raises(UsageError, match="make space"):
            updates.collect(CONFIG, [1], store=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("*.npz")) and not list(folder.glob("*.partial"))


def _flat(process, state):
    weights = process.get_model_weights(state).trainable
    return np.concatenate([np.ravel(variable) for variable in weights])
