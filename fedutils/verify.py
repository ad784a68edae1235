"""Does what is published agree with itself? Nothing is trained: the rest is held to the records.

README and tables are written anew, figures of the race and of the peers drawn anew, and compared;
each figure of a notebook must be the one that its execution drew; each claim is computed anew.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import jinja2
import pandas as pd

from fedutils import (
    claims,
    manifest,
    notebooks,
    peers,
    provenance,
    race_page,
    report,
    results,
    standings,
)
from fedutils.errors import UsageError

_CUMULATIVE = {
    "cumulative_broadcast_bits": "broadcast_bits",
    "cumulative_aggregated_bits": "aggregated_bits",
}
_ANEW = "; delete them, and `make reproduce` or `make race` makes them anew"


def problems(root: str | Path = provenance.REPOSITORY, *, computed: bool = True) -> Iterator[str]:
    """Finds what does not agree.

    Args:
        root: Folder of the repository.
        computed: Whether claims are computed anew too, which takes a minute.

    Yields:
        A sentence a problem, which says what to run.
    """
    root = Path(root)
    for folder in (report.RACE, report.TRIALS, report.PROFILE):
        yield from _or_why(records(root / folder))
    for folder in (report.RACE, report.TRIALS):
        if (root / folder).exists():
            yield from _or_why(race(root / folder))
    yield from _or_why(side_by_side(root))
    yield from _or_why(_notebooks(root))
    yield from _or_why(readme(root))
    if computed:
        yield from _or_why(_claims(root))


def _claims(root: Path) -> Iterator[str]:
    for claim in claims.read(root):
        yield from _or_why(claims.check(claim, root))


def _or_why(found: Iterator[str]) -> Iterator[str]:
    """Problems, and why no more could be found, if so."""
    try:
        yield from found
    except UsageError as error:
        yield str(error)


def _notebooks(root: Path) -> Iterator[str]:
    yield from manifest.problems(root / report.PROFILE, notebooks.names(), root / "notebooks")


def records(folder: Path) -> Iterator[str]:
    """Finds runs without records, records without a run, changed ones, and wrong sums."""
    origins = results.origins_of(folder)
    if not origins:
        yield f"{folder.name}: no results are published; `make reproduce` or `make race` makes them"
    for name, origin in origins.items():
        path = folder / "records" / f"{name}.csv"
        if not path.exists():
            yield f"{folder.name}: the records of {name} are missing{_ANEW}"
            continue
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != origin.get("records_sha256"):
            yield f"{folder.name}: the records of {name} are not those that its run made{_ANEW}"
            continue  # what they say means nothing, if it can be read at all
        table = pd.read_csv(path)
        if table["round"].tolist() != list(range(origin["config"]["rounds"] + 1)):
            yield f"{folder.name}: the records of {name} do not have each of its rounds once{_ANEW}"
        for total, of_round in _CUMULATIVE.items():
            if not table[of_round].cumsum().equals(table[total]):
                yield f"{folder.name}: {total} of {name} is not the sum of {of_round}{_ANEW}"
    known = {folder / "records" / f"{name}.csv" for name in origins}
    for path in sorted((folder / "records").rglob("*-seed*.csv")):
        if path not in known:
            yield f"{folder.name}: {path.stem} has records, but no origin in provenance.json"


def race(folder: Path) -> Iterator[str]:
    """Finds tables and figures of the race that are not what its records give."""

    def write(anew: Path) -> None:
        found = standings.compute(folder)
        race_page.write_tables(anew, found)
        race_page.draw(folder, found, anew / "figures")

    expected = yield from _written_anew(folder, write)
    if expected is None:
        return
    for path in sorted((folder / "figures").glob("*")):
        if path.relative_to(folder) not in expected:
            yield f"{folder.name}: the figure {path.name} is drawn from no records"


def side_by_side(root: Path) -> Iterator[str]:
    """Finds tables and figures of the peers that are not what was measured."""
    yield from _written_anew(root / peers.FOLDER, lambda anew: report.write_peers(root, anew))


def _written_anew(
    folder: Path, write: Callable[[Path], None]
) -> Generator[str, None, set[Path] | None]:
    """Finds files of a folder that are not what a function writes.

    Returns:
        The files that it writes, relative to the folder; None if it cannot.
    """
    try:
        with tempfile.TemporaryDirectory() as anew:
            write(Path(anew))
            expected = {
                path.relative_to(anew): path.read_bytes()
                for path in sorted(Path(anew).rglob("*"))
                if path.is_file()
            }
    except (UsageError, FileNotFoundError) as error:
        yield f"{folder.name}: its tables cannot be computed ({error})"
        return None
    for name, content in expected.items():
        path = folder / name
        if not path.exists():
            yield f"{folder.name}: {name} is missing; `make report` writes it"
        elif path.read_bytes() != content:
            yield f"{folder.name}: {name} is not what the records give; `make report` writes it"
    return set(expected)


def readme(root: Path) -> Iterator[str]:
    """Finds lines of README.md that template and results do not give."""
    try:
        expected = report.render(root).splitlines()
    except (UsageError, FileNotFoundError, ValueError, jinja2.UndefinedError) as error:
        yield f"README.md cannot be written from the results ({error})"
        return
    there = (root / "README.md").read_text(encoding="utf-8").splitlines()
    for number, (is_there, should) in enumerate(zip(there, expected, strict=False), start=1):
        if is_there != should:
            yield (
                f"README.md, line {number}, is {is_there!r}, but template and results give "
                f"{should!r}; `make report` writes it"
            )
    if len(there) != len(expected):
        yield f"README.md has {len(there)} lines, not {len(expected)}; `make report` writes it"
