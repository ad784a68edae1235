"""What is published agrees, and `verify` finds what does not."""

import json
import random
import shutil
import string

import pytest
from support import REPOSITORY

from fedutils import manifest, notebooks, race_page, report, verify

NOTEBOOKS = REPOSITORY / "notebooks"


def test_what_is_published_agrees():
    assert list(verify.problems(computed=False)) == []


@pytest.fixture
def copy(tmp_path):
    """The repository's published part, to be damaged."""
    for name in ("docs", "notebooks", "results/race", "results/trials", "results/quick"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    for path in (REPOSITORY / "benchmarks").glob("peers*.*"):
        shutil.copy(path, tmp_path / "benchmarks")
    return tmp_path


def test_any_changed_digit_in_the_readme_is_found(copy, monkeypatch):
    text = (copy / "README.md").read_text()
    expected = report.render(copy)
    assert expected == text
    monkeypatch.setattr(report, "render", lambda root: expected)  # it is slow
    places = [i for i, letter in enumerate(text) if letter in string.digits]
    for place in random.Random(0).sample(places, 50):
        digit = str((int(text[place]) + 1) % 10)
        (copy / "README.md").write_text(text[:place] + digit + text[place + 1 :])
        (problem,) = verify.readme(copy)
        assert f"line {text[:place].count(chr(10)) + 1}," in problem
    (copy / "README.md").write_text(text + "One more line.\n")
    assert list(verify.readme(copy))


def test_a_readme_whose_results_are_gone_is_a_problem(copy):
    shutil.rmtree(copy / "results" / "quick")
    (problem,) = verify.readme(copy)
    assert "cannot be written" in problem


def a_run(folder):
    origins = json.loads((folder / "provenance.json").read_text())
    return origins, next(iter(origins))


@pytest.mark.parametrize("which", ["race", "trials", "quick"])
def test_missing_changed_and_unknown_records_are_found(copy, which):
    folder = copy / "results" / which
    assert list(verify.records(folder)) == []
    origins, name = a_run(folder)
    path = folder / "records" / f"{name}.csv"
    text = path.read_text()
    place = text.rindex("1")
    path.write_text(text[:place] + "2" + text[place + 1 :])
    (problem, *_) = verify.records(folder)
    assert problem.startswith(f"{which}: the records of {name} are not those that its run made; ")
    path.unlink()
    (problem,) = verify.records(folder)
    assert problem.startswith(f"{which}: the records of {name} are missing; ")
    path.write_text(text)
    del origins[name]
    (folder / "provenance.json").write_text(json.dumps(origins))
    (problem,) = verify.records(folder)
    assert "no origin" in problem


def test_sums_and_rounds_are_checked(copy):
    import hashlib

    folder = copy / "results" / "quick"
    origins, name = a_run(folder)
    path = folder / "records" / f"{name}.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], *lines[4:]]) + "\n")  # a round is missing
    origins[name]["records_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "provenance.json").write_text(json.dumps(origins))
    found = list(verify.records(folder))
    assert any("each of its rounds once" in problem for problem in found)
    assert any("is not the sum of" in problem for problem in found)


@pytest.mark.parametrize("which", ["race", "trials"])
def test_a_race_that_lost_a_run_or_has_an_old_figure_is_found(copy, which):
    folder = copy / "results" / which
    origins, name = a_run(folder)
    del origins[name]
    (folder / "provenance.json").write_text(json.dumps(origins))
    figure = next((folder / "figures").glob("*.png"))
    shutil.copy(figure, folder / "figures" / "old.png")
    found = list(verify.race(folder))
    assert any("race.json is not what the records give" in problem for problem in found)
    assert any("_accuracy.png is not what the records give" in problem for problem in found)
    assert any("old.png is drawn from no records" in problem for problem in found)


def test_figures_that_their_notebook_did_not_draw_are_found(copy):
    folder, names = copy / "results" / "quick", notebooks.names()
    assert manifest.problems(folder, names, NOTEBOOKS) == []
    figures = sorted((folder / "figures").glob("*.png"))
    figures[0].write_bytes(figures[1].read_bytes())
    figures[2].unlink()
    shutil.copy(figures[1], folder / "figures" / "99_extra.png")
    found = "\n".join(manifest.problems(folder, names, NOTEBOOKS))
    assert f"{figures[0].name} is not the one" in found
    assert f"{figures[2].name} of" in found and "is missing" in found
    assert "99_extra.png was drawn by no notebook" in found


def test_figures_older_than_their_records_or_notebook_are_found(copy):
    folder, names = copy / "results" / "quick", notebooks.names()
    origins, name = a_run(folder)
    origins[name]["code"] = "other"
    (folder / "provenance.json").write_text(json.dumps(origins))
    assert f"quick: figures are stale: {name} was made by other code" in manifest.problems(
        folder, names, NOTEBOOKS
    )
    changed = copy / "notebooks"
    path = changed / f"{names[0]}.ipynb"
    path.write_text(path.read_text().replace("figures.style()", "figures.style()  # x"))
    found = manifest.problems(folder, [*names, "77_new"], changed)
    assert f"quick: the code of notebook {names[0]} changed since its execution" in found
    assert "quick: notebook 77_new was not executed" in found


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("race/records/emnist/none-seed1.csv", b"", "records of emnist/none-seed1 are not those"),
        ("race/records/emnist/none-seed1.csv", b"\xff\xfe\x00", "are not those"),
        ("race/records/emnist/none-seed1.csv", b"<html>\n", "are not those"),
        ("quick/provenance.json", b'{"a": ', "provenance.json is damaged: expected JSON"),
        ("race/provenance.json", b"[]", "provenance.json is damaged: expected a JSON object"),
        ("quick/manifest.json", b'{"00_setup": {}}', "manifest.json is damaged: 00_setup lacks"),
        ("quick/manifest.json", b"{", "manifest.json is damaged"),
        ("race/client_seconds.json", b"{", "client_seconds.json is damaged: expected JSON"),
    ],
)
def test_damaged_files_are_problems_and_hide_no_others(copy, monkeypatch, name, content, words):
    (copy / "results" / name).write_bytes(content)
    (copy / "results" / "trials" / "race.csv").write_text("changed")
    monkeypatch.setattr(race_page, "draw", lambda *arguments: None)  # it is slow
    found = list(verify.problems(copy, computed=False))
    assert any(words in problem for problem in found), found
    assert any("trials: race.csv is not what" in problem for problem in found)
