import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from support import REPOSITORY, environment, fedutils, only_run, outcome

from fedutils import manifest, notebooks, results
from fedutils.errors import UsageError

NAMES = notebooks.names()


def test_the_expected_notebooks_are_there():
    assert {"00_setup", "01_baseline_fedavg", "02_compressed_aggregator"} <= set(NAMES)
    assert "04_accuracy_vs_bits" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_light(name):
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and "**Question.**" in first.source
    for cell in code:  # logic belongs in the package
        assert len(cell.source) < 1200
        assert not any(
            line.startswith(("def ", "for ", "while ")) for line in cell.source.split("\n")
        )


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_notebooks(name):
    text = (REPOSITORY / "notebooks" / f"{name}.ipynb").read_text()
    for target in re.findall(r"\]\(([^)]+\.ipynb)\)", text):
        assert (REPOSITORY / "notebooks" / target).exists(), target


@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_executes_headless(name, executed, no_process_left):
    """Every notebook runs, in the order of their names, sharing one store."""
    values = executed(name)
    folder = Path(values["results_dir"])
    notebook = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    # Nothing for a stranger to stumble over: no warnings, no log lines.
    noise = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert noise == []
    figures = list((folder / "figures").glob("*.png"))
    assert figures and all(path.with_suffix(".svg").exists() for path in figures)
    text = json.dumps(notebook)
    assert str(REPOSITORY) not in text.replace(str(folder.parent), "")
    assert "FEDUTILS_HEADLESS" not in os.environ  # it is told the kernel alone


@pytest.mark.parametrize(("injected", "kept"), [("rounds = 5", False), ("rounds = 6", True)])
def test_parameters_are_shown_twice_only_if_they_differ(injected, kept):
    def cell(source, tag):
        return nbformat.v4.new_code_cell(source, metadata={"tags": [tag]})

    written = cell("rounds = 5  # of training\nseed = 1", "parameters")
    notebook = nbformat.v4.new_notebook(cells=[written, cell(injected, "injected-parameters")])
    notebooks._remove_repetition(notebook)
    assert len(notebook.cells) == 1 + kept


def test_parameters_are_checked():
    with pytest.raises(UsageError, match="no notebook here has a parameter 'RUONDS'"):
        notebooks.resolve(NAMES, "quick", {"RUONDS": "3"})
    with pytest.raises(UsageError, match="rounds must be of type int, not 'many'"):
        notebooks.resolve(NAMES, "quick", {"ROUNDS": "many"})
    with pytest.raises(UsageError, match=r"rounds must be of type int, not '3\.5'"):
        notebooks.resolve(NAMES, "quick", {"ROUNDS": "3.5"})
    with pytest.raises(UsageError, match="unknown profile 'fast'"):
        notebooks.resolve(NAMES, "fast", {})
    with pytest.raises(UsageError, match="there is no notebook '99_none'"):
        notebooks.resolve(["99_none"], "quick", {})


@pytest.mark.parametrize("learning_rate", ["1", "0.5", "1e-3"])
def test_values_get_the_types_of_their_defaults(learning_rate):
    values = notebooks.resolve(
        ["01_baseline_fedavg"],
        "quick",
        {"ROUNDS": "7", "client_learning_rate": learning_rate, "DATASET": "emnist"},
    )["01_baseline_fedavg"]
    assert values["rounds"] == 7
    assert values["client_learning_rate"] == float(learning_rate)
    assert isinstance(values["client_learning_rate"], float)
    assert values["dataset"] == "emnist"


@pytest.mark.parametrize(
    "overrides, folder",
    [
        ({}, "results/quick"),
        ({"DATA_DIR": "data", "STORE": "runs", "workers": "host:1"}, "results/quick"),
        ({"ROUNDS": "7"}, "results/custom"),
        ({"ROUNDS": "7", "RESULTS_DIR": "mine"}, "mine"),
    ],
)
def test_other_values_leave_published_results_alone(overrides, folder):
    resolved = notebooks.resolve(NAMES, "quick", overrides).values()
    assert {values["results_dir"] for values in resolved} == {folder}


def test_only_what_changed_is_executed_again(tmp_path):
    arguments = ["notebook", "00_setup", "--profile", "smoke", "-p", f"results_dir={tmp_path}"]
    first, second = fedutils(*arguments), fedutils(*arguments)
    assert "00_setup: done" in first.stdout, first.stderr
    assert second.stdout == "00_setup: up to date\n"
    other = fedutils(*arguments, "-p", "concentration=0.5")
    assert "00_setup: done" in other.stdout
    shutil.rmtree(tmp_path / "notebooks")
    assert "00_setup: done" in fedutils(*arguments).stdout


@pytest.fixture
def drawing(tmp_path, monkeypatch):
    """Executes 01 without a kernel: it draws its number of rounds, or fails if that is negative."""

    def stub(source, target, *, parameters, **options):
        figures = Path(parameters["results_dir"]) / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        (figures / "01_drawn.png").write_text(str(parameters["rounds"]))
        if parameters["rounds"] < 0:
            raise RuntimeError
        return nbformat.read(source, as_version=4)

    monkeypatch.setattr(notebooks.papermill, "execute_notebook", stub)
    monkeypatch.setattr(results, "DEFAULT_STORE", tmp_path / "store")
    folder = tmp_path / "results"

    def execute(rounds, **values):
        values = {"rounds": rounds, "results_dir": str(folder), **values}
        return notebooks.execute("01_baseline_fedavg", values, folder / "notebooks")

    execute.folder = folder
    return execute


def test_up_to_date_is_what_was_executed_last(drawing):
    assert [drawing(30), drawing(30), drawing(5), drawing(30)] == [True, False, True, True]
    with pytest.raises(RuntimeError):
        drawing(-1)
    assert [drawing(30), drawing(30)] == [True, False]
    (drawing.folder / "figures" / "01_drawn.png").write_text("touched")
    assert drawing(30)
    results.write_json(drawing.folder / "provenance.json", {"a-run": {}})  # whose records miss
    assert drawing(30)


def test_an_execution_depends_on_the_race_that_it_shows(drawing, tmp_path):
    race = tmp_path / "race"
    race.mkdir()
    shows = {"race_dir": str(race)}
    assert [drawing(30, **shows), drawing(30, **shows)] == [True, False]
    (race / "provenance.json").write_text("{}")
    assert [drawing(30, **shows), drawing(30, **shows)] == [True, False]


def test_only_figures_of_this_execution_are_entered(drawing):
    old = drawing.folder / "figures" / "01_old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    drawing(30)
    assert list(manifest.read(drawing.folder)["01_baseline_fedavg"]["figures"]) == ["01_drawn.png"]


@pytest.mark.notebook
@pytest.mark.slow
def test_two_executions_at_once_in_one_results_folder(tmp_path, no_process_left):
    """Their kernels meet at one run: it is made once, and both executions are whole.

    It is also the run that the command line makes, bit for bit.
    """
    name = "01_baseline_fedavg"
    values = {"results_dir": tmp_path / "out", "store": tmp_path / "store"}
    command = [Path(sys.executable).with_name("fedutils"), "notebook", name, "--profile", "smoke"]
    command += ["--force", *(word for k, v in values.items() for word in ("-p", f"{k}={v}"))]
    options = dict(stdout=subprocess.PIPE, text=True, env=environment(), cwd=REPOSITORY)
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    said = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    run = only_run(tmp_path / "store")
    (published,) = (tmp_path / "out" / "records").glob("*.csv")
    assert published.read_bytes() == run.records_path.read_bytes()
    assert set(manifest.read(tmp_path / "out")) == {name}
    left = {path.name for path in (tmp_path / "out" / "notebooks").iterdir()}
    assert left == {f"{name}.ipynb"}
    nbformat.validate(nbformat.read(tmp_path / "out" / "notebooks" / f"{name}.ipynb", 4))
    alone = _made_by_the_command_line(run.config, tmp_path / "alone")
    assert outcome(alone) == outcome(run)


def _made_by_the_command_line(config, store):
    """The run of a configuration that a notebook made, made by `fedutils run`."""
    settings = {key: value for key, value in config.items() if key != "data"}
    settings |= {"dataset": config["data"].pop("name"), **config["data"], "out": store}
    settings["clients"] = settings.pop("clients_per_round")
    # The partition has no seed of its own on the command line.
    assert config["data"]["seed"] == 0
    settings["seed"] = config["seed"]
    words = [(f"--{key.replace('_', '-')}", value) for key, value in settings.items()]
    done = fedutils("run", *itertools.chain(*words))
    assert done.returncode == 0, done.stderr
    return only_run(store)
