"""Executes the notebooks headless, with checked parameters, and only if something changed."""

from __future__ import annotations

import ast
import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
import papermill
import yaml
from jupyter_client.manager import AsyncKernelManager

from fedutils import manifest, provenance, results, usage
from fedutils.errors import UsageError

FOLDER = provenance.REPOSITORY / "notebooks"

# Parameters of each profile; a notebook takes those that it has.
PROFILES: dict[str, dict[str, object]] = {
    # Some seconds a notebook, for tests: TFF's two synthetic clients.
    "smoke": {
        "dataset": "synthetic",
        "rounds": 2,
        "clients_per_round": 2,
        "eval_every": 1,
        "update_rounds": [1],
        "networks": ["logistic"],
    },
    # Some minutes on two cores.
    "quick": {
        "dataset": "mnist5k",
        "rounds": 30,
        "clients_per_round": 10,
        "eval_every": 4,
        "update_rounds": [1, 10, 20],
    },
    # Longer runs, and the race on the embedded digits: a day where cores are slow or few.
    "full": {
        "dataset": "mnist5k",
        "rounds": 300,
        "clients_per_round": 10,
        "eval_every": 10,
        "update_rounds": [1, 10, 40, 100],
        "race_recipes": "all",
        "race_dataset": "mnist5k",
    },
}


def names() -> list[str]:
    """Returns the names of all notebooks, in reading order."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def parameters(name: str) -> dict[str, object]:
    """Returns the parameters of a notebook and their default values."""
    path = FOLDER / f"{name}.ipynb"
    if not path.exists():
        raise UsageError(f"there is no notebook {name!r}: choose one of {', '.join(names())}")
    found = papermill.inspect_notebook(str(path))
    return {key: yaml.safe_load(info["default"]) for key, info in found.items()}


def question(name: str) -> str:
    """Returns the question that a notebook's first cell asks."""
    first = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells[0].source
    paragraph = first.partition("**Question.**")[2].partition("\n\n")[0]
    return " ".join(paragraph.split())


def resolve(
    chosen: list[str], profile: str, overrides: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """Returns the parameter values of each chosen notebook.

    Args:
        chosen: Names of notebooks.
        profile: Name of a profile.
        overrides: Values as text, by parameter; names may be in capitals.

    Raises:
        UsageError: If the profile does not exist, if no chosen notebook has a parameter of
            that name, or if its value is of another type than its default.

    Results go to `results/PROFILE`; if a value is given that changes them, to `results/custom`, so
    that what is published is what the profile makes.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    defaults = {name: parameters(name) for name in chosen}
    known = {key for table in defaults.values() for key in table}
    values = dict(PROFILES[profile])
    for key, text in overrides.items():
        if key.lower() not in known:
            raise UsageError(
                f"no notebook here has a parameter {key!r}: choose from {', '.join(sorted(known))}"
            )
        values[key.lower()] = text
    asked = {key.lower() for key in overrides} - manifest.WITHOUT_EFFECT
    values.setdefault("results_dir", f"results/{'custom' if asked else profile}")
    return {
        name: {
            key: _typed(key, values.get(key, default), default) for key, default in table.items()
        }
        for name, table in defaults.items()
    }


def _typed(key: str, value: object, default: object) -> object:
    if not isinstance(value, str) or isinstance(default, str):
        return value
    kind = type(default)
    try:
        parsed = kind(value) if kind in (float, int) else yaml.safe_load(value)
    except (ValueError, yaml.YAMLError):
        parsed = value
    fits = type(parsed) is kind and parsed not in (math.inf, -math.inf) and parsed == parsed
    if kind is list and default:
        fits = fits and all(type(item) is type(default[0]) for item in parsed)
    if not fits:
        of = f" of {type(default[0]).__name__}" if kind is list and default else ""
        raise UsageError(f"the parameter {key} must be of type {kind.__name__}{of}, not {value!r}")
    return parsed


class LocalKernelManager(AsyncKernelManager):
    """Talks to the kernel over Unix sockets: nothing listens on a TCP port, and nobody watches."""

    def __init__(self, *args, **kwargs) -> None:
        self._folder = tempfile.TemporaryDirectory()  # of the sockets; goes with the manager
        file = str(Path(self._folder.name) / "kernel.json")
        super().__init__(*args, **{"transport": "ipc", "connection_file": file, **kwargs})

    async def start_kernel(self, **options) -> None:
        """Tells the kernel alone, not this process, that nobody watches."""
        await super().start_kernel(env={**os.environ, "FEDUTILS_HEADLESS": "1"}, **options)


def execute(name: str, values: Mapping[str, object], output: Path, *, force: bool = False) -> bool:
    """Executes one notebook unless its last execution here is still what it would be now.

    Notebook, parameters, code, lock and the race are what it depends on; their digest is kept
    beside the run folders. A fresh clone remembers nothing, so there everything is executed.

    Args:
        name: Name of the notebook.
        values: Its parameters.
        output: Folder of the executed copy.
        force: Execute even if nothing changed.

    Returns:
        Whether it was executed.

    Raises:
        UsageError: If the folder cannot be made, or if a cell says that its user can mend it.
    """
    target = output / f"{name}.ipynb"
    stamp, remembered = _stamp(name, values), _remembered(name, output)
    made = target.exists() and manifest.is_whole(output.parent, name)
    if not force and made and remembered.exists() and remembered.read_text() == stamp:
        print(f"{name}: up to date")
        return False
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise results.not_written(output, error) from error
    partial = output / f".{name}.partial.ipynb"
    print(f"{name}: executing", flush=True)
    remembered.unlink(missing_ok=True)  # from here on, figures may be another execution's
    began = time.time()
    try:
        with usage.measured() as used:
            executed = papermill.execute_notebook(
                str(FOLDER / f"{name}.ipynb"),
                str(partial),
                parameters=dict(values),
                kernel_name="python3",
                cwd=str(provenance.REPOSITORY),
                progress_bar=False,
                coalesce_streams=True,  # what a cell prints is one block wherever it is shown
                kernel_manager_class=LocalKernelManager,
            )
        _remove_traces(executed)
        _remove_repetition(executed)
        machine = provenance.machine()
        executed.cells.insert(1, nbformat.v4.new_markdown_cell(_measured(used, machine)))
        executed.cells[1]["id"] = "measured"
        results.write_text(target, nbformat.writes(executed) + "\n")
    except papermill.PapermillExecutionError as error:
        if error.ename != "UsageError":
            raise
        raise UsageError(f"{name}: {error.evalue}") from error
    finally:
        partial.unlink(missing_ok=True)
    manifest.enter(output.parent, name, values, used, machine, since=began)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    # A notebook that raced changed what it depends on.
    results.write_text(remembered, _stamp(name, values) if values.get("race_recipes") else stamp)
    print(f"{name}: done in {used.seconds:.0f} s", flush=True)
    return True


def _measured(used: usage.Usage, machine: Mapping[str, object]) -> str:
    return (
        f"*Executed in {used.seconds:.0f} seconds with at most {used.peak_bytes / 2**30:.1f} GiB "
        f"of memory, on {machine['cores']} cores of {machine['processor']}. Runs that an earlier "
        "notebook made are found, not trained again.*"
    )


def _remembered(name: str, output: Path) -> Path:
    """Where the stamp of the last execution into a folder is kept."""
    folder = provenance.REPOSITORY / results.DEFAULT_STORE / ".executed"
    return folder / f"{name}-{provenance.digest(str(output.resolve()))[:16]}"


def _stamp(name: str, values: Mapping[str, object]) -> str:
    """What an execution depends on: notebook, parameters, code, packages, and the race it shows."""
    files = [FOLDER / f"{name}.ipynb", *sorted(provenance.PACKAGE.rglob("*.py"))]
    files.append(provenance.REPOSITORY / "requirements.lock")
    if "race_dir" in values:
        race = provenance.REPOSITORY / str(values["race_dir"])
        files += [race / "provenance.json", race / "client_seconds.json"]
    contents = [manifest.file_digest(path) if path.exists() else "" for path in files]
    return provenance.digest(contents, dict(values))


def _remove_repetition(notebook: nbformat.NotebookNode) -> None:
    """Leaves in the cell of parameters that papermill adds what differs from the one before it."""
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    if not {"parameters", "injected-parameters"} <= cells.keys():
        return
    written, injected = (
        {node.targets[0].id: ast.unparse(node) for node in ast.parse(cells[tag].source).body}
        for tag in ("parameters", "injected-parameters")
    )
    differ = [
        line
        for name, line in injected.items()
        if written.get(name) != line and name not in manifest.WITHOUT_EFFECT
    ]
    if differ:
        cells["injected-parameters"].source = "\n".join(["# Parameters", *differ])
    else:
        notebook.cells.remove(cells["injected-parameters"])


def _remove_traces(notebook: nbformat.NotebookNode) -> None:
    """Removes the times and paths of this machine that papermill writes into metadata."""
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    notebook.metadata["papermill"] = {"parameters": manifest.with_effect(given)}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
