"""Comparisons of recipes over the seeds that both ran with, from a folder of records."""

import numpy as np
import pandas as pd
import pytest

from fedutils import race_page, results, standings
from fedutils.errors import UsageError


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


def test_the_page_marks_recipes_without_error_feedback_and_those_that_diverged(raced):
    runs = {(name, 1): (100, 20) for name in ("none", "adaptive", "top-k")}
    folder = raced({**runs, ("dadaquant", 1): (1, NEVER)})
    found = standings.compute(folder)
    race_page.write_tables(folder, found)
    page = (folder / "race.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    over_all = {row[0].strip("| "): row[6] for row in rows if len(row) > 10}
    assert over_all["top-k†"] == "1" and over_all["**adaptive**"] == "1"
    assert over_all["dadaquant"] == "diverged"
    assert "\n## synthetic\n" in page
