"""The recipes that adapt, in a run of the real model with two small clients."""

import numpy as np
import pandas as pd
import pytest

from fedutils import data, training

ROUNDS = 4
EXAMPLES = 10.0  # of each client


def rates(bits, doubling):
    """The steps after the bits that were spent, from a first one of 0.7."""

    def steps(table):
        spent = table["payload_bits_sum"][1:ROUNDS].to_numpy() / 2
        target = bits * 2 ** (np.arange(ROUNDS - 1) / doubling)
        return 0.7 * np.cumprod([1, *np.clip(spent / target, 0.25, 4) ** 0.3])

    return steps


def fixed(step):
    return lambda table: [step] * ROUNDS


def roots(step, memory):
    """Steps after the loss of the round before the last; the first of them to compare with."""

    def steps(table):
        first, second = table["train_loss"][1:3]
        mean = memory * first + (1 - memory) * second
        return [step] * 3 + [step * np.sqrt(mean / first)]

    return steps


RECIPES = {
    "adaptive": rates(1500, 60),
    "backward": rates(3000, 60),
    "adaptive-scheduled": lambda table: 4.0 * (0.115 / 4.0) ** (np.arange(ROUNDS) / 149),
    "adaptive-fixed": fixed(0.5),
    "adaptive-frozen": fixed(0.35),
    "two-way": roots(0.1, 0.8),
    "adaquantfl": roots(0.5, 0.0),
    "dadaquant": fixed(1.0),  # its patience is longer than this run
}


def trained(recipe, store):
    config = training.RunConfig(
        recipe, data.DataConfig("synthetic"), ROUNDS, clients_per_round=2, eval_every=ROUNDS
    )
    folder = training.run(config, store)
    return pd.read_csv(folder.records_path), folder.provenance["final_weights_sha256"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_adapts_as_it_says(recipe, tmp_path, tff_worker):
    table, _ = trained(recipe, tmp_path)
    measured = table[1:]
    assert (measured["rejected_clients"] == 0).all()
    assert (measured["payload_bits_sum"] > 0).all()
    assert np.isfinite(measured.drop(columns=["test_accuracy", "test_loss"])).all(axis=None)
    assert np.isfinite(table["test_loss"].iloc[-1])
    np.testing.assert_allclose(measured["step"], RECIPES[recipe](table), rtol=1e-4)
    if recipe != "adaquantfl":
        assert measured["weight_unit"].tolist() == [100.0] + [EXAMPLES] * (ROUNDS - 1)


def test_runs_repeat_in_both_directions(tmp_path, tff_worker):
    table, digest = trained("two-way", tmp_path / "once")
    again, same = trained("two-way", tmp_path / "again")
    times = ["seconds", "evaluation_seconds"]
    pd.testing.assert_frame_equal(again.drop(columns=times), table.drop(columns=times))
    assert digest == same
