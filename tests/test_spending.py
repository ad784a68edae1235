import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import REPOSITORY

from fedutils import cli, results, spending
from fedutils.errors import UsageError
from fedutils.ledger import Direction

FOLDER = REPOSITORY / "results" / "quick"
NAME = "two-way-mnist5k-logistic-seed1"


@pytest.fixture
def published(tmp_path):
    """The published records of one run, to be changed."""
    (tmp_path / "records").mkdir()
    shutil.copy(FOLDER / "provenance.json", tmp_path)
    return Path(shutil.copy(FOLDER / "records" / f"{NAME}.csv", tmp_path / "records"))


def test_parts_of_a_run_add_up_to_what_its_records_tell():
    found = spending.of(FOLDER / "records" / f"{NAME}.csv")
    last = results.read_rows(FOLDER / "records" / f"{NAME}.csv")[-1]
    assert found.parameters == 7850 and found.rounds == int(last["round"])
    for direction in Direction:
        assert found.total(direction) == int(last[f"cumulative_{direction.value}_bits"])
    kinds = {(entry.direction, entry.what) for entry in found.entries}
    assert (Direction.BROADCAST, "model (strings)") in kinds
    assert (Direction.AGGREGATED, "updates (strings)") in kinds


def test_run_folder_is_told_as_its_published_records(tmp_path):
    name = "none-mnist5k-logistic-seed1"
    folder = tmp_path / f"{name}-0123456789ab"
    folder.mkdir()
    config = results.origins_of(FOLDER)[name]["config"]
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(FOLDER / "records" / f"{name}.csv", folder / "records.csv")
    result = CliRunner().invoke(cli.main, ["inspect", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"{config['rounds']} rounds of 10 clients, 7,850 parameters" in result.output
    # 32 bits per parameter, in both directions.
    for line in ("broadcast model", "aggregated model"):
        row = next(row for row in result.output.splitlines() if row.startswith(line))
        assert row.split()[-2:] == [f"{32 * 7850:,}", "32"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda config: json.dumps({**config, "later": 1}),
            "does not have this version's settings",
        ),
        (lambda config: json.dumps({"recipe": "none"}), "does not have this version's settings"),
        (lambda config: json.dumps([config]), "does not have this version's settings"),
        (lambda config: json.dumps(config)[:30], "is damaged"),
        (lambda config: "", "is damaged"),
    ],
)
def test_configuration_that_cannot_be_read_is_one_clear_line(change, words, tmp_path):
    config = results.origins_of(FOLDER)[NAME]["config"]
    (tmp_path / "config.json").write_text(change(config))
    shutil.copy(FOLDER / "records" / f"{NAME}.csv", tmp_path / "records.csv")
    result = CliRunner().invoke(cli.main, ["inspect", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: the configuration of {tmp_path} {words}")


def test_published_origins_that_cannot_be_read_are_told(published):
    origins = json.loads((published.parents[1] / "provenance.json").read_text())
    for text, words in (
        (
            json.dumps({NAME: {"config": {**origins[NAME]["config"], "later": 1}}}),
            "inspect it with",
        ),
        ("{", "is damaged"),
    ):
        (published.parents[1] / "provenance.json").write_text(text)
        with pytest.raises(UsageError, match=words):
            spending.of(published)


def test_what_is_not_a_run_is_refused(tmp_path, published):
    with pytest.raises(UsageError, match="is not the folder of a run"):
        spending.of(tmp_path)
    other = published.with_name("other.csv")
    shutil.copy(published, other)
    with pytest.raises(UsageError, match="is not the published records of a run"):
        spending.of(other)


def test_records_that_do_not_add_up_are_refused(published):
    rows = results.read_rows(published)
    rows[3]["payload_bits_sum"] = int(rows[3]["payload_bits_sum"]) + 8
    results.write_rows(published, rows)
    with pytest.raises(UsageError, match="another version made it"):
        spending.of(published)
    results.write_rows(published, rows[:1])
    with pytest.raises(UsageError, match="no trained round yet"):
        spending.of(published)
    published.write_text("round,hello\n1,2\n")
    with pytest.raises(UsageError, match="is damaged"):
        spending.of(published)
