import numpy as np
import pandas as pd
import pytest

from fedutils import links

LINK = links.Link("test", down=1e6, up=1e5, latency=0.1, source="here")


def records(accuracies, **columns):
    """A round an accuracy, each evaluated; two clients."""
    rounds = np.arange(len(accuracies))
    table = pd.DataFrame({"round": rounds, "test_accuracy": accuracies})
    table["broadcast_bits"] = np.where(rounds > 0, 4_000_000, 0)
    table["aggregated_bits"] = np.where(rounds > 0, 200_000, 0)
    return table.assign(**columns)


def test_seconds_by_hand():
    found = links.seconds(records([0.1, 0.2, 0.9, 0.9]), LINK, 3.0, 2, target=0.9, held=1)
    # Two rounds: 2 Mbit down at 1 Mbit/s, 100 kbit up at 100 kbit/s, a latency each way.
    assert found == pytest.approx({"download": 2 * 2.1, "compute": 2 * 3.0, "upload": 2 * 1.1})


def test_a_round_waits_for_the_longest_payload():
    """Of 200 kbit, 180 are payloads; the longer one has 150, so its client sends 10 more."""
    run = records(
        [0.1, 0.9], payload_bits_sum=[np.nan, 180_000], payload_bits_max=[np.nan, 150_000]
    )
    found = links.seconds(run, LINK, 0.0, 2, target=0.9, held=0)
    assert found["upload"] == pytest.approx((150_000 + 10_000) / 1e5 + 0.1)


def test_no_time_without_the_target():
    assert links.seconds(records([0.1, 0.9, 0.8]), LINK, 1.0, 2, target=0.9, held=1) is None


def test_table_has_means_over_seeds_and_gaps():
    runs = {
        "slow": [records([0.1, 0.2, 0.9]), records([0.1, 0.2, 0.2, 0.9])],
        "never": [records([0.1, 0.9]), records([0.1, 0.2])],
        "quick": [records([0.1, 0.9])],
        "unmeasured": [records([0.1, 0.9])],
    }
    compute = dict.fromkeys(("slow", "never", "quick"), 1.0)
    table = links.table(runs, [LINK], compute, 2, target=0.9, held=0).set_index("recipe")
    assert list(table.index) == ["quick", "slow", "never"]
    assert table.loc["slow", "compute"] == 2.5
    assert table.loc["never"][["download", "compute", "upload"]].isna().all()


def test_links_are_slower_up_than_down_or_alike_and_say_their_source():
    for link in links.LINKS:
        assert 0 < link.up <= link.down and 0 < link.latency < 1 and link.source
