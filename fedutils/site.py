"""The web site of a profile's executed notebooks, with the README, the race and their origins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode

from fedutils import completion, pages, provenance, results, tables
from fedutils.errors import UsageError

_SOURCES = provenance.REPOSITORY / "notebooks"


def build(
    results_dir: Path, out: Path, race_dir: Path = provenance.REPOSITORY / results.DEFAULT_RACE
) -> Path:
    """Makes the web site; it needs no network, no server and no script.

    The same results give the same site, byte for byte. Files of the same names are replaced.

    Args:
        results_dir: Folder of a profile's executed notebooks, figures and records.
        out: Folder of the site.
        race_dir: Folder of the race's tables and records, which has `trials` beside it; either
            may be missing.

    Returns:
        The site's first page.

    Raises:
        UsageError: If no notebook was executed, or if the site cannot be written.
    """
    results_dir, race_dir = results_dir.resolve(), race_dir.resolve()
    notebooks = {
        path.stem: nbformat.read(path, as_version=4)
        for path in sorted(results_dir.glob("notebooks/*.ipynb"))
    }
    if not notebooks:
        name = results_dir.name
        first = f"run `make reproduce PROFILE={name}` first"
        if name not in completion.PROFILES:
            first = "choose a folder of results whose notebooks were executed"
        raise UsageError(f"the results {name!r} have no executed notebooks: {first}")
    runs = {
        "The notebooks": results.origins_of(results_dir),
        "The race": results.origins_of(race_dir),
        "The trials": results.origins_of(race_dir.with_name("trials")),
    }
    chosen = [
        pages.Page("index", "Overview", _index(notebooks, results_dir), provenance.REPOSITORY),
        *(
            pages.Page(name, name.replace("_", " "), _described(notebook, results_dir), _SOURCES)
            for name, notebook in notebooks.items()
        ),
    ]
    addresses = {
        provenance.REPOSITORY / "README.md": "index.html",
        results_dir / "notebooks": "index.html#executed-notebooks",
        **{_SOURCES / f"{name}.ipynb": f"{name}.html" for name in notebooks},
    }
    folders = {results_dir: ""}
    for name, folder in (("race", race_dir), ("trials", race_dir.with_name("trials"))):
        table = folder / "race.md"
        folders[folder] = name
        if table.exists():
            text = table.read_text(encoding="utf-8")
            chosen.append(pages.Page(name, name.capitalize(), text, folder))
            addresses |= {folder: f"{name}.html", table: f"{name}.html"}
    folders[provenance.REPOSITORY] = "repository"
    chosen.append(pages.Page("provenance", "Provenance", _provenance(runs), results_dir))
    links = pages.Links(addresses, folders)
    try:
        pages.write(chosen, links, _signature(runs), out)
    except OSError as error:
        raise UsageError(f"the site cannot be written to {str(out)!r}: {error.strerror}") from error
    return out / "index.html"


def _index(notebooks: Mapping[str, NotebookNode], results_dir: Path) -> str:
    """Returns the README, then the notebooks with their questions, then all figures."""
    lines = [(provenance.REPOSITORY / "README.md").read_text(encoding="utf-8")]
    lines += ["", "## Executed notebooks", ""]
    for name, notebook in notebooks.items():
        title, question = _title_and_question(notebook)
        lines += [f"- [{title}](notebooks/{name}.ipynb)<br>", f"  {question}"]
    places = {
        figure: (name, heading)
        for name, notebook in notebooks.items()
        for _, figure, heading in _code(notebook)
    }
    lines += ["", "## Figures", "", '<div class="gallery">']
    for path in sorted(results_dir.glob("figures/*.png")):
        name, heading = places.get(path.stem, ("", ""))
        alt = _alt(path.stem, heading)
        caption = escape(alt)
        if name:
            caption = f'<a href="notebooks/{name}.ipynb#{pages.slug(heading)}">{caption}</a>'
        lines.append(_figure(quote(str(path)), alt, path.with_suffix(".svg"), caption))
    return "\n".join([*lines, "</div>", ""])


def _title_and_question(notebook: NotebookNode) -> tuple[str, str]:
    title, *paragraphs = (notebook.cells[0].source if notebook.cells else "").split("\n\n")
    questions = (p for p in paragraphs if p.startswith("**Question.**"))
    question = next(questions, "").removeprefix("**Question.**")
    return title.lstrip("# "), " ".join(question.split())


def _code(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, str, str]]:
    """Yields each code cell, the name of the figure that it saves (or ""), and its heading."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)][-1]
        elif cell.cell_type == "code":
            saved = re.search(r'figures\.save\([^)]*"(\w+)"', cell.source)
            yield cell, saved[1] if saved else "", heading


def _described(notebook: NotebookNode, results_dir: Path) -> NotebookNode:
    """Gives a notebook's pictures words, and lets them lead to the figures that scale."""
    for cell, name, heading in _code(notebook):
        for output in cell.outputs:
            if picture := output.get("data", {}).get("image/png"):
                source = "data:image/png;base64," + "".join(picture.split())
                scalable = results_dir / "figures" / f"{name}.svg"
                output.data = {"text/html": _figure(source, _alt(name, heading), scalable)}
    return notebook


def _alt(figure: str, heading: str) -> str:
    words = re.sub(r"^\d+_", "", figure).replace("_", " ")
    if words in heading.lower():
        return heading or "Figure"
    return " – ".join(filter(None, (heading, words)))


def _figure(source: str, alt: str, scalable: Path, caption: str = "") -> str:
    html = f'<img src="{source}" alt="{escape(alt)}">'
    if scalable.exists():
        html = f'<a href="{quote(str(scalable))}">{html}</a>'
    if caption:
        html += f"<figcaption>{caption}</figcaption>"
    return f"<figure>{html}</figure>"


def _provenance(runs: Mapping[str, Mapping[str, dict]]) -> str:
    """Returns tables of all runs, and of the packages and machines that they were made with."""
    environments: list[dict] = []
    lines = ["# Where the results come from"]
    for title, origins in runs.items():
        rows = []
        for name, origin in origins.items():
            config, environment = origin["config"], {**origin["versions"], **origin["machine"]}
            if environment not in environments:
                environments.append(environment)
            rows.append(
                {
                    "run": f"`{name}`",
                    "recipe": config["recipe"],
                    "model": config.get("model", "cnn"),  # there was no choice at first
                    "data set": config["data"]["name"],
                    "seed": config["seed"],
                    "rounds": config["rounds"],
                    "commit": f"`{origin['commit'] or 'unknown'}`",
                    "code": f"`{origin['code'][:12]}`",
                    "environment": 1 + environments.index(environment),
                }
            )
        lines += ["", f"## {title}", "", _table(rows)]
    keys = dict.fromkeys(key for environment in environments for key in environment)
    rows = [
        {"environment": key.replace("_gib", ", GiB")}
        | {1 + number: environment.get(key) for number, environment in enumerate(environments)}
        for key in keys
    ]
    lines += ["", "## Environments", "", _table(rows), ""]
    lines.append("*Code* is a digest of all code that can change a number of the run.")
    return "\n".join(lines)


def _table(rows: list[dict]) -> str:
    if not rows:
        return "Nothing is recorded."
    return tables.markdown([*rows[0]], [[*row.values()] for row in rows])


def _signature(runs: Mapping[str, Mapping[str, dict]]) -> str:
    sentences = []
    for title, origins in runs.items():
        commits = sorted({origin["commit"] or "unknown" for origin in origins.values()})
        versions = {origin["versions"]["tensorflow-federated"] for origin in origins.values()}
        if origins:
            sentences.append(
                f"{title}: commit {', '.join(commits)}, "
                f"TensorFlow Federated {', '.join(sorted(versions))}."
            )
    return " ".join(sentences) or "Nothing is recorded of where these results come from."
