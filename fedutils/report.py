"""README.md, written from its template and from nothing but published results.

`docs/README.template.md` is a Jinja template. What it may use is in `context`; so each measured
figure in the README is computed from records, and none can be changed by hand unnoticed.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace

import jinja2
import matplotlib.pyplot as plt
import pandas as pd

from fedutils import (
    analysis,
    claims,
    looks,
    manifest,
    notebooks,
    peers,
    peers_figures,
    peers_table,
    provenance,
    race_page,
    results,
    standings,
)
from fedutils.checks import RACE
from fedutils.errors import UsageError
from fedutils.units import format_bits, format_factor

TEMPLATE = Path("docs") / "README.template.md"
PROFILE = Path("results") / "quick"
TRIALS = Path("results") / "trials"
"""The race of recipes with other parameters, on a seed that is not reported."""
REFERENCES = ("none", "tff-compression")


def render(root: str | Path = provenance.REPOSITORY) -> str:
    """Returns the text of README.md.

    Args:
        root: Folder of the repository.

    Raises:
        UsageError: If results are missing.
        jinja2.UndefinedError: If the template uses what there is not.
    """
    root = Path(root)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    template = environment.from_string((root / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(context(root))


def write(root: str | Path = provenance.REPOSITORY) -> None:
    """Writes tables and figures of the race and of the peers, then README.md, from the records."""
    root = Path(root)
    for folder in (RACE, TRIALS):
        race_page.write(root / folder)
    write_peers(root)
    results.write_text(root / "README.md", render(root))


def write_peers(root: Path = provenance.REPOSITORY, out: str | Path | None = None) -> None:
    """Writes the table, `peers.md`, and the figures, `peers` and `peers_time`.

    Args:
        root: Folder of the repository.
        out: Folder to write to; `benchmarks` of the repository if None.

    Raises:
        UsageError: If a part was not measured.
    """
    out = root / peers.FOLDER if out is None else Path(out)
    found = peers.read(root)
    results.write_text(out / "peers.md", peers_table.table(found, manifest.read(root / PROFILE)))
    looks.style()
    for name, draw in (
        ("peers", peers_figures.rate_distortion),
        ("peers_time", peers_figures.times),
    ):
        figure = draw(found)
        looks.save(figure, out, name)
        plt.close(figure)


def context(root: Path) -> dict[str, object]:
    """Returns what the template may use.

    `race(dataset, name)` is a recipe's row of the race's table, `race_rows(dataset)` all of them,
    `leading(dataset, n)` this project's but for ablations, the references and the n best others,
    `ratio` and `lead` compare recipes (`standings`), `ablation(dataset)` and `trials(dataset)` are
    tables of `race_page`, `trial(dataset, name)` is a row of the latter's race;
    `notebooks` are the entries of the profile's manifest, `questions` what each notebook asks;
    `first_crossing(recipe, target)` tells from the profile's records what a recipe sent until a
    target, and how many times less than plain federated averaging; `claims` are those of
    `claims.read` by id; `peers` is `peers.summary` of what was measured side by side; `bits`,
    `percent`, `points` and `times` write numbers.
    """
    rows = standings.compute(root / RACE)["recipes"]
    tried = standings.compute(root / TRIALS)["recipes"]
    executed = manifest.read(root / PROFILE)
    if missing := set(notebooks.names()) - executed.keys():
        raise UsageError(f"{PROFILE} lacks {', '.join(sorted(missing))}: run `make reproduce`")

    def race_rows(dataset: str) -> list[dict]:
        return [row for row in rows if row["dataset"] == dataset]

    def race(dataset: str, name: str, folder: Path = RACE) -> SimpleNamespace:
        for row in {RACE: rows, TRIALS: tried}[folder]:
            if (row["dataset"], row["name"]) == (dataset, name):
                return SimpleNamespace(**row)
        raise UsageError(f"{folder} has no {name} on {dataset}, which README.md reports: race it")

    def leading(dataset: str, others: int) -> list[SimpleNamespace]:
        rows = race_rows(dataset)
        own = [row["name"] for row in rows if row["own"] and row["name"] not in race_page.LACKING]
        always = [*own, *REFERENCES]
        best = [row["name"] for row in rows if not (row["own"] or row["name"] in always)][:others]
        return [SimpleNamespace(**row) for row in rows if row["name"] in (*always, *best)]

    def first_crossing(recipe: str, target: float) -> SimpleNamespace:
        asked = executed["05_your_own_codec"]["parameters"]
        sent = []
        for name in (recipe, "none"):
            run = f"{name}-{asked['dataset']}-seed{asked['seed']}.csv"
            crossed = analysis.crossing(pd.read_csv(root / PROFILE / "records" / run), target)
            if crossed is None:
                raise UsageError(f"{PROFILE}: {run} does not reach an accuracy of {target:.0%}")
            sent.append(crossed["cumulative_aggregated_bits"])
        return SimpleNamespace(bits=sent[0], ratio=sent[1] / sent[0])

    return {
        "race": race,
        "race_rows": race_rows,
        "leading": leading,
        "ratio": functools.partial(standings.ratio, root / RACE),
        "ablation": functools.partial(race_page.ablation, root / RACE),
        "lead": functools.partial(standings.lead, root / RACE),
        "trials": functools.partial(race_page.trials, root / TRIALS),
        "trial": functools.partial(race, folder=TRIALS),
        "notebooks": executed,
        "questions": {name: notebooks.question(name) for name in executed},
        "total_seconds": sum(entry["seconds"] for entry in executed.values()),
        "peak_memory_gib": max(entry["peak_memory_gib"] for entry in executed.values()),
        "machine": next(iter(executed.values()))["machine"],
        "first_crossing": first_crossing,
        "peers": SimpleNamespace(**peers.summary(peers.read(root))),
        "saved_by_context": functools.partial(peers.saved_by_context, peers.read(root)),
        "claims": {claim.id: claim for claim in claims.read(root)},
        "bits": format_bits,
        "percent": lambda x: f"{100 * x:.2f} %",
        "points": lambda x: f"{100 * x:+.2f}",
        "times": format_factor,
    }
