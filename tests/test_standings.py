"""Comparisons of recipes over the seeds that both ran with, from a folder of records."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fedutils import race_page, results, standings
from fedutils.errors import UsageError

matplotlib.use("agg")


@pytest.fixture
def raced(tmp_path):
    """Publishes runs: for each recipe and seed, the bits of a round and the round it is good."""

    def publish(runs):
        origins = {}
        for (recipe, seed), (bits, good) in runs.items():
            rounds = np.arange(0, 61)
            table = pd.DataFrame({"round": rounds})
            accuracy = np.where(rounds >= good, 0.98, 0.1)
            table["test_accuracy"] = np.where(rounds % 5 == 0, accuracy, np.nan)
            table["cumulative_aggregated_bits"] = bits * rounds
            table["cumulative_broadcast_bits"] = 100_000 * rounds
            path = tmp_path / "records" / f"{recipe}-seed{seed}.csv"
            path.parent.mkdir(exist_ok=True)
            table.to_csv(path, index=False)
            config = {"recipe": recipe, "seed": seed, "data": {"name": "synthetic"}}
            config |= {"model": "logistic", "clients_per_round": 2}
            origins[path.stem] = {
                "config": config,
                "data_fingerprint": "of no known data",
                "code": "0123456789",
                "commit": "0123",
            }
        results.write_json(tmp_path / "provenance.json", origins)
        return tmp_path

    return publish


NEVER = 1000


def test_ratios_are_of_means_over_common_seeds_and_tell_the_extremes(raced):
    folder = raced(
        {
            ("adaptive", 1): (10, 20),
            ("adaptive", 2): (10, 40),
            ("adaptive", 3): (10, NEVER),
            ("qsgd", 1): (100, 40),
            ("qsgd", 2): (100, 20),
        }
    )
    found = standings.ratio(folder, "synthetic", "adaptive", "qsgd", "uplink_bits_97")
    assert found == (pytest.approx(6000 / 600), pytest.approx(5), pytest.approx(20))


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({("adaptive", 1): (10, 20), ("qsgd", 2): (100, 40)}, "common seed"),
        ({("adaptive", 1): (10, 20), ("qsgd", 1): (100, NEVER)}, "not all seeds reached"),
    ],
)
def test_what_cannot_be_compared_is_told(raced, runs, words):
    folder = raced(runs)
    with pytest.raises(UsageError, match=words):
        standings.ratio(folder, "synthetic", "adaptive", "qsgd", "uplink_bits_97")
    with pytest.raises(UsageError, match="cannot be compared with any"):
        standings.lead(folder, "synthetic", "adaptive")


def test_the_lead_is_over_the_nearest_of_the_literature(raced):
    folder = raced(
        {
            ("adaptive", 1): (10, 20),
            ("adaptive-fine", 1): (11, 20),  # nearer, but this project's
            ("qsgd", 1): (100, 20),
            ("eden1", 1): (70, 20),
            ("terngrad", 1): (5, NEVER),
        }
    )
    name, found = standings.lead(folder, "synthetic", "adaptive")
    assert name == "eden1" and found.mean == pytest.approx(7)
    name, found = standings.lead(folder, "synthetic", "eden1")  # not itself
    assert name == "qsgd" and found.mean == pytest.approx(100 / 70)


def test_the_page_marks_recipes_without_error_feedback_and_those_that_diverged(raced):
    runs = {(name, 1): (100, 20) for name in ("none", "adaptive", "top-k")}
    folder = raced({**runs, ("dadaquant", 1): (1, NEVER)})
    found = standings.compute(folder)
    race_page.write_tables(folder, found)
    page = (folder / "race.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    over_all = {row[0].strip("| "): row[7] for row in rows if len(row) > 10}
    assert over_all["top-k†"] == "1" and over_all["**adaptive**"] == "1"
    assert over_all["dadaquant"] == "diverged"
    assert "\n## synthetic\n" in page


def test_a_seed_that_the_reference_lacks_may_have_diverged(raced):
    runs = {("none", 1): (100, 20), ("adaptive", 1): (10, 20), ("adaptive", 2): (1, NEVER)}
    folder = raced(runs)
    race_page.write_tables(folder, standings.compute(folder))
    (row,) = (
        line
        for line in (folder / "race.md").read_text().splitlines()
        if line.startswith("| **adaptive** | 1, 2 |")
    )
    assert "| diverged |" in row


def test_recipes_of_fewer_seeds_are_labelled_and_have_a_reference_of_their_own(raced):
    runs = {("none", seed): (100, 10 * seed) for seed in (1, 2, 3)}
    runs |= {("adaptive", seed): (10, 20) for seed in (1, 2, 3)}
    folder = raced({**runs, ("qsgd", 2): (50, 20), ("eden1", 2): (50, 20), ("natural", 7): (9, 9)})
    seconds = dict.fromkeys(("none", "adaptive", "qsgd"), 1.0)
    results.write_json(folder / "client_seconds.json", {"synthetic": {"seconds": seconds}})
    for name in ("none", "adaptive", "qsgd"):
        for path in (folder / "records").glob(f"{name}-*.csv"):
            table = pd.read_csv(path).assign(broadcast_bits=0, aggregated_bits=0)
            table.to_csv(path, index=False)
    found = standings.compute(folder)
    labels = {row["name"]: row["label"] for row in found["recipes"]}
    assert labels == {
        "none": "none",
        "adaptive": "adaptive",
        "qsgd": "qsgd (seed 2)",
        "eden1": "eden1 (seed 2)",
        "natural": "natural (seed 7)",  # which the reference does not have
    }
    (few,) = found["references"]
    assert few["label"] == "none (seed 2)" and few["dataset"] == "synthetic"
    assert few["seeds"] == [2] and few["round_97"] == 20 and few["uplink_bits_97"] == 2000
    timed = {row["recipe"]: row["compute"] for row in found["times"] if row["link"] == "LTE"}
    assert timed == {"none": 20, "none (seed 2)": 20, "adaptive": 20, "qsgd (seed 2)": 20}


def test_a_notebook_shows_the_data_the_table_and_all_figures(raced):
    folder = raced({("none", 1): (100, 20), ("adaptive", 1): (10, 20)})
    before = set(plt.get_fignums())
    text = race_page.show(folder, "synthetic")
    assert text.startswith("**synthetic.**") and "| **adaptive** | 1 |" in text
    assert len(set(plt.get_fignums()) - before) == 3  # no computing was measured, so no times
    plt.close("all")
    assert race_page.show(folder, "mnist5k").startswith("No race on mnist5k")


def test_the_ablation_has_what_was_raced_and_gaps_where_a_target_was_missed(raced):
    runs = {("adaptive", seed): (10, 20) for seed in (1, 2)}
    runs |= {("adaptive-fixed", 1): (20, 20), ("adaptive-fixed", 2): (40, 20)}
    runs |= {("adaptive-scheduled", 1): (30, NEVER), ("none", 1): (1000, 20)}
    folder = raced({**runs, ("adaptive-frozen", 3): (30, 20)})
    _, _, own, planned, fixed, frozen = race_page.ablation(folder, "synthetic").splitlines()
    assert own.startswith("| `adaptive` itself |  |  |  |  |  |")
    assert "|  |  |  | diverged |" in planned and planned.endswith("| 0 bit |")
    assert fixed.startswith("| `adaptive-fixed` |") and fixed.count("3.00 (2.00 to 4.00)") == 4
    assert frozen.startswith("| `adaptive-frozen` |") and "|  |  |  |  |" in frozen
    for nothing in (folder, folder / "none"):
        assert "did not race" in race_page.ablation(nothing, "mnist5k")


def test_what_was_not_raced_on_some_data_is_said(raced):
    folder = raced({("none", 1): (100, 20)})
    found = standings.compute(folder)
    elsewhere = {**found["recipes"][0], "name": "eden4", "dataset": "elsewhere"}
    found["recipes"].append(elsewhere)
    race_page.write_tables(folder, found)
    assert "Not raced on these data: eden4." in (folder / "race.md").read_text()


def test_trials_stand_by_their_recipe_in_the_order_of_their_bits(raced):
    names = ("top-k@fraction=0.2", "none", "top-k", "qsgd-coarse@levels=1", "top-k@fraction=0.001")
    runs = {(name, 101): (100 - 10 * i, 20) for i, name in enumerate(names)}
    folder = raced(runs)
    _, _, *rows = race_page.trials(folder, "synthetic").splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [
        *("none", "qsgd-coarse@levels=1"),
        *("top-k@fraction=0.001†", "top-k†", "top-k@fraction=0.2†"),
    ]
    found = {row["name"]: row for row in standings.compute(folder)["recipes"]}
    assert not any(row["own"] for row in found.values())
    race_page.write_tables(folder, standings.compute(folder))
    page = (folder / "race.md").read_text()
    assert "`top-k` with fraction=0.2." in page and "`qsgd-coarse` with levels=1." in page
    assert standings.is_own("adaptive@size=512") and not standings.is_own("adaptive@x=1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"client_learning_rate": 0.5}, "client_learning_rate"),
        ({"data": {"name": "synthetic", "seed": 1}}, "seed"),
    ],
)
def test_a_folder_of_two_protocols_has_no_tables(raced, change, words):
    folder = raced({("none", 1): (100, 20), ("qsgd", 1): (10, 20)})
    origins = results.origins_of(folder)
    origins["qsgd-seed1"]["config"] |= change
    results.write_json(folder / "provenance.json", origins)
    with pytest.raises(
        UsageError, match=f"not of one protocol: .* made with {words} .* qsgd-seed1"
    ):
        standings.compute(folder)
