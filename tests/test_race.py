"""The race: when a target is reached, what is compared, and that no record is made twice."""

import concurrent.futures
import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fedutils import (
    analysis,
    cli,
    data,
    ledger,
    models,
    provenance,
    race,
    recipes,
    results,
    training,
)
from fedutils.errors import UsageError

BASE = training.RunConfig(data=data.DataConfig("synthetic"), rounds=20, clients_per_round=2)
PARAMETERS = 1_663_370


def run_records(accuracies, up=1000, down=5000, payload=None):
    """Records of a run that is evaluated every fifth round and sends the same in each."""
    rounds = np.arange(5 * len(accuracies) - 4)
    table = pd.DataFrame({"round": rounds, "test_accuracy": np.nan})
    table.loc[rounds % 5 == 0, "test_accuracy"] = accuracies
    table["cumulative_aggregated_bits"] = up * rounds
    table["cumulative_broadcast_bits"] = down * rounds
    if payload is not None:
        table["payload_bits_sum"] = np.where(rounds > 0, payload, np.nan)
    return table


@pytest.mark.parametrize(
    ("accuracies", "held", "expected"),
    [
        ([0.1, 0.95, 0.96, 0.97, 0.98], 2, 5),
        ([0.1, 0.9499, 0.95, 0.95, 0.95], 2, 10),
        ([0.1, 0.96, 0.94, 0.95, 0.96, 0.97], 2, 15),  # the first crossing was not held
        ([0.1, 0.96, 0.96, 0.94, 0.96, 0.96, 0.96], 2, 20),  # held by one of the two
        ([0.1, 0.2, 0.3, 0.96, 0.96], 2, None),  # only one evaluation follows
        ([0.1, 0.2, 0.96, 0.94, 0.96], 2, None),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, None),
        ([0.1, 0.96, 0.94, 0.95, 0.96, 0.97], 0, 5),
        ([0.1, 0.2, 0.3, 0.4, 0.96], 0, 20),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0, None),
    ],
)
def test_a_target_is_reached_when_it_is_crossed_and_held(accuracies, held, expected):
    found = analysis.crossing(run_records(accuracies), 0.95, held)
    assert (found is None) if expected is None else (found["round"] == expected)


def test_measures_of_one_run():
    found = analysis.measures(
        run_records([0.1, 0.95, 0.96, 0.96, 0.95], payload=900),
        clients=2,
        parameters=50,
        targets=(0.95, 0.96),
        held=2,
        settled=10,
    )
    assert found.pop("mean_accuracy_after_10") == pytest.approx(0.955)
    for name in [name for name in found if name.endswith("_96")]:
        assert math.isnan(found.pop(name))
    assert found == {
        "round_95": 5,
        "uplink_bits_95": 5_000,
        "total_bits_95": 30_000,
        "uplink_payload_bits_95": 4_500,
        "informed_bits_95": 5_000,
        "final_accuracy": 0.95,
        "bits_per_parameter": 10.0,
        "payload_bits_per_parameter": 9.0,
        "downlink_bits_per_parameter": 50.0,
        "announcement_bits": 0.0,
    }


def standings(runs, target=0.95):
    measured = {
        key: analysis.measures(
            table, clients=2, parameters=50, targets=(target,), held=2, settled=50
        )
        for key, table in runs.items()
    }
    rows = analysis.standings(measured, "none")
    return {row["name"]: row for row in rows}


EARLY, LATE = [0.1, 0.2, 0.96, 0.96, 0.96, 0.96, 0.98], [0.1, 0.2, 0.3, 0.4, 0.95, 0.95, 0.96]
NEVER = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # EARLY reaches 95 % in round 10, LATE in round 20


def test_ratios_are_of_mean_bits_over_the_seeds_that_both_have():
    rows = standings(
        {
            ("none", 1): run_records(EARLY),
            ("none", 2): run_records(LATE),
            ("few", 1): run_records(LATE, up=10, payload=9),
            ("few", 2): run_records(EARLY, up=10, payload=9),
            ("one", 2): run_records(LATE, up=100),
            ("other", 3): run_records(LATE, up=100),
        }
    )
    assert list(rows) == ["few", "one", "other", "none"]  # by uplink bits
    few, one, other = rows["few"], rows["one"], rows["other"]
    assert few["uplink_bits_95"] == (200 + 100) / 2
    assert few["uplink_bits_95_std"] == pytest.approx(math.sqrt(2) * 50)
    assert (few["uplink_bits_95_min"], few["uplink_bits_95_max"]) == (100, 200)
    assert few["uplink_payload_bits_95"] == (180 + 90) / 2
    # Not 125, the mean of 10000 / 200 and 20000 / 100.
    assert few["uplink_ratio_95"] == (10_000 + 20_000) / (200 + 100)
    assert (few["uplink_ratio_95_min"], few["uplink_ratio_95_max"]) == (10_000 / 200, 20_000 / 100)
    assert few["total_ratio_95"] == pytest.approx(6000 * 30 / (5010 * 30))
    # Over all rounds, whatever was reached when: 1000 and 5000 bits a round against 10 and 5000.
    assert few["uplink_ratio"] == 100 and one["uplink_ratio"] == 10
    assert few["total_ratio"] == pytest.approx(6000 / 5010)
    assert few["final_accuracy_delta"] == 0
    assert one["uplink_ratio_95"] == 20_000 / 2_000  # against seed 2 of none alone
    assert one["final_accuracy_delta"] == 0
    assert one["uplink_bits_95_std"] is None
    assert one["uplink_payload_bits_95"] is None
    assert (other["seeds"], other["seeds_paired"]) == ([3], [])
    assert other["uplink_bits_95"] == 2_000
    assert other["uplink_ratio_95"] is other["uplink_ratio"] is None
    assert other["final_accuracy_delta"] is None
    assert rows["none"]["uplink_ratio_95"] == rows["none"]["total_ratio_95"] == 1


def test_what_one_seed_did_not_reach_has_no_mean_but_a_count():
    rows = standings(
        {
            ("none", 1): run_records(EARLY),
            ("none", 2): run_records(EARLY),
            ("half", 1): run_records(EARLY, up=10),
            ("half", 2): run_records(NEVER, up=10),
        }
    )
    half = rows["half"]
    assert half["seeds_reached_95"] == 1 and rows["none"]["seeds_reached_95"] == 2
    for name in ("uplink_bits_95", "uplink_bits_95_min", "uplink_ratio_95", "total_ratio_95"):
        assert half[name] is None
    assert half["final_accuracy_delta"] == pytest.approx((0.7 - 0.98) / 2)
    assert half["mean_accuracy_after_50"] is None  # none of these runs is that long


ACCURACIES = {"none": [0.1, 0.97, 0.97, 0.97, 0.98], "default": [0.1, 0.96, 0.96, 0.97, 0.97]}


@pytest.fixture
def trained(monkeypatch):
    """Puts runs with hand-made records in the place of training; lists what was trained."""
    configs = []

    def run(config, store, data_dir=None):
        keys = (f"{config.recipe}-synthetic-seed{config.seed}", dataclasses.asdict(config), {})
        made = results.open_run(store, *keys)
        if made.provenance is None:
            configs.append((config.recipe, config.seed))
            accuracies = ACCURACIES.get(config.recipe, ACCURACIES["none"])
            up = 10 if config.recipe == "default" else 1000
            table = run_records(accuracies, up=up + config.seed)
            results.write_rows(made.records_path, table.to_dict("records"))
            origin = {**provenance.describe(), "data_fingerprint": "tff-synthetic"}
            made.finish({**origin, "wall_seconds": 0.1})
        return made

    monkeypatch.setattr(training, "run", run)
    return configs


def test_json_has_what_is_promised(trained, tmp_path, capsys):
    race.run(["none", "default"], [1, 2], BASE, tmp_path / "race", store=tmp_path)
    found = json.loads((tmp_path / "race" / "race.json").read_text())
    assert found["protocol"]["rounds"] == 20
    assert found["protocol"]["client_learning_rate"] == BASE.client_learning_rate
    assert found["protocol"]["data"]["synthetic"]["parameters"] == PARAMETERS
    assert found["protocol"]["data"]["synthetic"]["fingerprint"] == "tff-synthetic"
    none, default = found["recipes"]
    assert (none["name"], none["own"]) == ("none", False)
    assert (default["name"], default["own"], default["dataset"]) == ("default", True, "synthetic")
    assert default["seeds"] == [1, 2]
    assert default["uplink_bits_96"] == 5 * (11 + 12) / 2
    assert default["uplink_ratio_96"] == pytest.approx((1001 + 1002) / (11 + 12))
    assert default["uplink_bits_97"] is default["uplink_ratio_97"] is None
    assert default["total_bits_97"] is default["total_ratio_97"] is None
    assert none["uplink_bits_97"] == 5 * 1001.5
    assert default["final_accuracy"] == 0.97
    assert default["final_accuracy_delta"] == pytest.approx(-0.01)
    assert default["bits_per_parameter"] == pytest.approx(11.5 / 2 / PARAMETERS)
    assert default["code"] == [provenance.code_digest()[:8]]
    table = (tmp_path / "race" / "race.md").read_text()
    assert "| **default** | 1, 2 |" in table and "reached by 0 of 2" in table
    rows = results.read_rows(tmp_path / "race" / "race.csv")
    assert [row["name"] for row in rows] == ["none", "default"]
    assert (rows[1]["seeds"], rows[1]["uplink_bits_97"]) == ("1 2", "")


def test_records_are_reused_whichever_code_made_them(trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "race"
    race.run(["none"], [1], BASE, folder, store=tmp_path / "a")
    monkeypatch.setattr(provenance, "code_digest", lambda: "another" * 10)
    capsys.readouterr()
    race.run(["none"], [1, 2], BASE, folder, store=tmp_path / "b")
    assert trained == [("none", 1), ("none", 2)]
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert "none-seed1: found, made by other code than today's" in first
    assert second == "[2/2] synthetic/none-seed2: training"
    (row,) = json.loads((folder / "race.json").read_text())["recipes"]
    assert len(row["code"]) == 2 and "anothera" in row["code"]


def test_fresh_trains_anew_what_is_in_the_folder_and_in_the_store(trained, tmp_path):
    for fresh in (False, False, True):
        race.run(["none"], [1], BASE, tmp_path / "race", store=tmp_path, fresh=fresh)
    assert trained == [("none", 1)] * 2


def test_lost_tables_are_made_again_without_training(trained, tmp_path):
    folder = tmp_path / "race"
    race.run(["none"], [1], BASE, folder, store=tmp_path / "a")
    before = (folder / "race.json").read_text()
    (folder / "race.json").unlink()
    race.run(["none"], [1], BASE, folder, store=tmp_path / "b")
    assert trained == [("none", 1)]
    assert (folder / "race.json").read_text() == before


def test_lost_records_are_made_again(trained, tmp_path):
    folder = tmp_path / "race"
    race.run(["none", "qsgd"], [1], BASE, folder, store=tmp_path / "a")
    for name in ("none", "qsgd"):
        (folder / "records" / "synthetic" / f"{name}-seed1.csv").unlink()
    race.run(["qsgd", "none"], [1], BASE, folder, store=tmp_path / "b")
    assert trained == [("none", 1), ("qsgd", 1), ("qsgd", 1), ("none", 1)]
    assert len(list((folder / "records" / "synthetic").iterdir())) == 2


def test_a_race_of_one_recipe_has_all_figures(trained, tmp_path):
    race.run(["natural"], [1], BASE, tmp_path / "race", store=tmp_path)
    figures = {path.stem for path in (tmp_path / "race" / "figures").iterdir()}
    kinds = ("accuracy", "targets", "frontier", "headline")
    assert figures == {f"synthetic_{kind}" for kind in kinds}


def test_what_is_announced_is_the_mean_over_rounds():
    records = run_records([0.1, 0.2])
    records["announcement_bits"] = [np.nan, 16, *[100] * (len(records) - 2)]
    options = dict(clients=2, parameters=50, targets=(0.9,), held=2, settled=10)
    found = analysis.measures(records, **options)["announcement_bits"]
    assert found == pytest.approx((16 + 100 * (len(records) - 2)) / (len(records) - 1))


def test_what_is_announced_counts_for_each_client_until_the_target():
    records = run_records([0.1, 0.95, 0.95, 0.95])
    records["announcement_bits"] = [np.nan, 16, *[100] * (len(records) - 2)]
    options = dict(clients=2, parameters=50, targets=(0.95,), held=2, settled=10)
    found = analysis.measures(records, **options)
    assert found["round_95"] == 5
    assert found["informed_bits_95"] == found["uplink_bits_95"] + 2 * (16 + 4 * 100)


def test_parts_made_at_once_equal_the_whole(trained, tmp_path):
    names, seeds = ["none", "default", "qsgd", "eden1"], [1, 2, 3]
    race.run(names, seeds, BASE, tmp_path / "whole", store=tmp_path)
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        parts = [
            threads.submit(race.run, [name], part, BASE, tmp_path / "parts", store=tmp_path)
            for name in names
            for part in ([3], [1, 2])
        ]
    assert not [part for part in parts if part.exception()]
    for name in ("race.json", "race.csv", "race.md"):
        texts = [(tmp_path / folder / name).read_text() for folder in ("whole", "parts")]
        assert texts[0] == texts[1]
    assert len(list((tmp_path / "parts" / "records" / "synthetic").iterdir())) == 12


def test_another_protocol_or_other_data_are_refused(trained, tmp_path, monkeypatch):
    race.run(["none"], [1], BASE, tmp_path / "race", store=tmp_path)
    longer = dataclasses.replace(BASE, rounds=30)
    with pytest.raises(UsageError, match="rounds 20, not 30: choose another folder"):
        race.run(["none"], [2], longer, tmp_path / "race", store=tmp_path)
    changed = dataclasses.replace(data.load(BASE.data), fingerprint="other")
    monkeypatch.setattr(data, "load", lambda *_: changed)
    with pytest.raises(UsageError, match="fingerprint tff-synthetic, not other"):
        race.run(["default"], [1], BASE, tmp_path / "race", store=tmp_path)
    assert trained == [("none", 1)]


def test_selection():
    everything = race.select("all")
    assert everything == list(recipes.RECIPES)
    own = race.select("own")
    assert "default" in own and "none" not in own
    assert sorted(own + race.select("literature")) == sorted(everything)
    assert race.select(" qsgd,none, qsgd") == ["qsgd", "none"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipes", "none,zip"], "unknown recipe 'zip': choose one of none"),
        (["--recipes", ","], "no recipe is named: choose own, literature, all"),
        (["--seeds", "1;2"], "seeds are whole numbers with commas between, not '1;2'"),
        (["--seeds", "1,-2"], "seed must be an integer from 0 on"),
        (["--rounds", "0"], "rounds must be a positive integer"),
        (["--dataset", "cifar"], "unknown data set 'cifar'"),
        (["--out", "/proc/race"], "cannot be written to"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, words, trained, tmp_path):
    result = CliRunner().invoke(cli.main, ["race", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 1
    assert words in result.output
    assert not trained


def test_the_command_counts_real_rounds(tff_worker, tmp_path, monkeypatch):
    """Two recipes by the command line; every bit against the ledger and the measured strings."""
    monkeypatch.setattr(race, "PROTOCOL", dataclasses.replace(race.PROTOCOL, clients_per_round=2))
    folder = tmp_path / "race"
    arguments = ["race", "--recipes", "none,terngrad", "--dataset", "synthetic", "--seeds", "1"]
    arguments += ["--rounds", "2", "--out", str(folder), "--store", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "race.json").read_text())
    rows = {row["name"]: row for row in found["recipes"]}
    assert found["protocol"]["client_learning_rate"] == 0.1
    for name, row in rows.items():
        bill = ledger.of(training.build_process(training.RunConfig(name), 10).next)
        sent = bill.bits(ledger.Direction.AGGREGATED)
        table = pd.read_csv(folder / "records" / "synthetic" / f"{name}-seed1.csv")
        strings = 0
        if name != "none":
            strings = table["payload_bits_sum"].sum() / 2 / 2
            assert row["payload_bits_per_parameter"] == pytest.approx(strings / PARAMETERS)
        assert row["bits_per_parameter"] == pytest.approx((sent + strings) / PARAMETERS)
        received = bill.bits(ledger.Direction.BROADCAST)
        assert row["downlink_bits_per_parameter"] == pytest.approx(received / PARAMETERS)
        assert row["final_accuracy"] == table["test_accuracy"].iloc[-1]
    assert rows["none"]["payload_bits_per_parameter"] is None
    assert models.cnn(10, 0).count_params() == PARAMETERS
    origins = results.origins_of(folder)
    assert list(origins) == ["synthetic/none-seed1", "synthetic/terngrad-seed1"]
    assert origins["synthetic/none-seed1"]["config"]["rounds"] == 2
