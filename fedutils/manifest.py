"""What a folder of published results holds: which notebook made which figure, from which code.

`results/PROFILE/manifest.json` has an entry a notebook. `problems` finds what does not fit it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import nbformat

from fedutils import provenance, results, usage
from fedutils.errors import UsageError

NAME = "manifest.json"

WITHOUT_EFFECT = frozenset({"results_dir", "store", "data_dir", "workers"})
"""Parameters that say where things are, and change nothing that is found."""


def read(folder: str | Path) -> dict[str, dict]:
    """Returns the entries of a results folder, by notebook; none if it has no manifest.

    Raises:
        UsageError: If it is damaged.
    """
    path = Path(folder) / NAME
    entries = results.read_json(path)
    for name, entry in entries.items():
        if missing := {"cells", "code", "parameters", "seconds", "figures"} - set(entry):
            raise UsageError(
                f"{path} is damaged: {name} lacks {', '.join(sorted(missing))}; restore it"
            )
    return entries


def enter(
    folder: str | Path,
    notebook: str,
    values: Mapping[str, object],
    used: usage.Usage,
    machine: Mapping[str, object],
    since: float = 0.0,
) -> None:
    """Enters a notebook that was just executed.

    Args:
        folder: The results folder.
        notebook: Its name.
        values: Its parameters.
        used: What its execution took.
        machine: Where it was executed (`provenance.machine`).
        since: When that began, in seconds since the epoch: older figures are not its own.
    """
    folder = Path(folder)
    entry = {
        "cells": cells_digest(provenance.REPOSITORY / "notebooks" / f"{notebook}.ipynb"),
        "code": provenance.code_digest(),
        "parameters": with_effect(values),
        "seconds": round(used.seconds, 1),
        "peak_memory_gib": round(used.peak_bytes / 2**30, 2),
        "machine": dict(machine),
        "figures": {
            path.name: file_digest(path)
            for path in _figures_of(folder, notebook)
            if path.stat().st_mtime >= since
        },
    }
    with results.locked(folder):  # other notebooks may be executed at the same time
        results.write_json(folder / NAME, dict(sorted({**read(folder), notebook: entry}.items())))


def with_effect(values: Mapping[str, object]) -> dict[str, object]:
    """Returns those parameters that change what is found."""
    return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


def is_whole(folder: str | Path, notebook: str) -> bool:
    """Whether a notebook was executed, its figures are those that it drew, and no records miss."""
    entry = read(folder).get(notebook)
    if entry is None or results.origins_of(folder) != results.published_in(folder):
        return False
    return all(
        (path := Path(folder) / "figures" / figure).exists() and file_digest(path) == digest
        for figure, digest in entry["figures"].items()
    )


def cells_digest(path: Path) -> str:
    """Returns a digest of a notebook's code cells.

    Prose does not count, nor the cell for Colab: it does nothing elsewhere and names an address.
    """
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    return provenance.digest(
        [cell.source for cell in code if "colab" not in cell.metadata.get("tags", [])]
    )


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _figures_of(folder: Path, notebook: str) -> list[Path]:
    number = notebook.partition("_")[0]
    return sorted((folder / "figures").glob(f"{number}_*"))


def problems(folder: str | Path, notebooks: list[str], source: Path) -> list[str]:
    """Finds what in a results folder was not made by one execution of today's notebooks.

    Args:
        folder: The results folder.
        notebooks: Names of the notebooks that it should have.
        source: Folder of the notebooks as they are today.

    Returns:
        A sentence a problem: notebooks not executed or changed since, figures that are missing,
        changed, or of no notebook, and figures made by other code than the records beside them.
    """
    folder = Path(folder)
    entries, found, known = read(folder), [], set()
    for name in notebooks:
        if name not in entries or not (folder / "notebooks" / f"{name}.ipynb").exists():
            found.append(f"{folder.name}: notebook {name} was not executed")
            continue
        entry = entries[name]
        if entry["cells"] != cells_digest(source / f"{name}.ipynb"):
            found.append(f"{folder.name}: the code of notebook {name} changed since its execution")
        for figure, digest in entry["figures"].items():
            path = folder / "figures" / figure
            known.add(path)
            if not path.exists():
                found.append(f"{folder.name}: figure {figure} of {name} is missing")
            elif file_digest(path) != digest:
                found.append(f"{folder.name}: figure {figure} is not the one that {name} drew")
    for path in sorted((folder / "figures").glob("*")):
        if path not in known:
            found.append(f"{folder.name}: figure {path.name} was drawn by no notebook of today")
    codes = {entry["code"] for entry in entries.values()}
    for name, origin in results.origins_of(folder).items():
        if entries and origin["code"] not in codes:
            found.append(f"{folder.name}: figures are stale: {name} was made by other code")
    if len(codes) > 1:
        found.append(f"{folder.name}: its notebooks were executed with different code")
    return found
