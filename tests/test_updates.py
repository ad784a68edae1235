import numpy as np

from fedutils import data, training, updates


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


def _flat(process, state):
    weights = process.get_model_weights(state).trainable
    return np.concatenate([np.ravel(variable) for variable in weights])
