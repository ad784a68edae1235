"""The race's tables, computed from the records in its folder and from nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from fedutils import analysis, data, links, models, recipes, results, training
from fedutils.errors import UsageError

REFERENCE = "none"
TARGETS = (0.95, 0.96, 0.97)
HELD = 2
SETTLED = 50

# What the columns of race.json and race.csv mean.
DEFINITIONS = {
    "reached": f"the first evaluation at or above the accuracy that the next {HELD} hold too; "
    "what one seed did not reach has no mean",
    "uplink_bits": "everything that all clients sent until then, that round's included: payload "
    "strings or weights, and the training metrics",
    "uplink_payload_bits": "of these, the payload strings alone, where strings are sent",
    "total_bits": "uplink bits and everything that the server sent to all clients",
    "ratio": f"times fewer bits than {REFERENCE}: its mean bits over the mean bits of the recipe, "
    "for the seeds that both have; without a target, over all rounds",
    "delta": f"mean difference to {REFERENCE} for the seeds that both have, as a fraction",
    "bits_per_parameter": "uplink bits of all rounds by rounds, clients and parameters",
    "std": "standard deviation of the sample of seeds",
}


def is_own(recipe: str) -> bool:
    """Tells whether a recipe is this project's; one that is no longer known is not."""
    return recipe in recipes.RECIPES and recipes.RECIPES[recipe].paper == "this project"


def protocol_of(config: dict) -> dict[str, object]:
    """Returns what a run has in common with all others of its folder.

    A setting that was added after the run was made had, until then, its default value.
    """
    complete = {**dataclasses.asdict(training.RunConfig()), **config}
    return {k: v for k, v in complete.items() if k not in ("recipe", "seed", "data")}


def data_of(config: dict, fingerprint: str) -> dict[str, object]:
    """Returns what a run has in common with the others on the data set of that name."""
    complete = {**dataclasses.asdict(data.DataConfig()), **config["data"]}
    return {**complete, "fingerprint": fingerprint}


def code_of(origin: dict) -> str:
    """Returns the code that made a run, as the beginning of its digest."""
    return origin["code"][:8]


def compute(folder: str | Path, seeds: Collection[int] | None = None) -> dict[str, object]:
    """Computes the race's tables from all records in a folder.

    Args:
        folder: The race's.
        seeds: Leaves out runs with others, if not None; `times` are of all runs.

    Returns:
        `protocol`: what the runs have in common, and what the columns mean; `recipes`: the rows
        of `analysis.standings`, data set by data set, with `own` (whether it is this project's),
        `dataset`, and the `code` (digests) and `commit`s that made the records; `times`: the
        seconds to the last target on real links (`links.table`), if `client_seconds.json`
        (`benchmarks/round_time.py`) says how long a client computes.

    Raises:
        UsageError: If there are no records.
    """
    folder = Path(folder)
    by_data: dict[str, dict[str, dict]] = {}
    for name, origin in results.published_in(folder).items():
        if seeds is None or origin["config"]["seed"] in seeds:
            by_data.setdefault(origin["config"]["data"]["name"], {})[name] = origin
    if not by_data:
        raise UsageError(f"{folder} holds no records of a race")
    protocol, described, rows = {}, {}, []
    for dataset, origins in sorted(by_data.items()):
        one = next(iter(origins.values()))
        protocol = protocol_of(one["config"])
        about = data_of(one["config"], one["data_fingerprint"])
        about["parameters"] = models.get(protocol["model"])(about["classes"], 0).count_params()
        described[dataset] = about
        measured = {
            (origin["config"]["recipe"], origin["config"]["seed"]): analysis.measures(
                pd.read_csv(folder / "records" / f"{name}.csv"),
                clients=protocol["clients_per_round"],
                parameters=about["parameters"],
                targets=TARGETS,
                held=HELD,
                settled=SETTLED,
            )
            for name, origin in origins.items()
        }
        for row in analysis.standings(measured, REFERENCE):
            made = [o for o in origins.values() if o["config"]["recipe"] == row["name"]]
            head = {"name": row["name"], "own": is_own(row["name"]), "dataset": dataset}
            code = {
                "code": sorted({code_of(origin) for origin in made}),
                "commit": sorted({str(origin["commit"]) for origin in made}),
            }
            rows.append({**head, **row, **code})
    protocol |= {"data": described, "targets": TARGETS, "definitions": DEFINITIONS}
    times = _times(folder, records(folder), protocol["clients_per_round"])
    return {"protocol": protocol, "recipes": rows, "times": times}


def _times(folder: Path, every: pd.DataFrame, clients: int) -> list[dict]:
    """Rows of `links.table` for each data set of which `client_seconds.json` tells."""
    path = folder / "client_seconds.json"
    measured = json.loads(path.read_text()) if path.exists() else {}
    rows = []
    for dataset, about in sorted(measured.items()):
        compute = about["seconds"]
        shown = every[(every["dataset"] == dataset) & every["recipe"].isin(list(compute))]
        runs = {
            recipe: [run for _, run in of_recipe.groupby("seed")]
            for recipe, of_recipe in shown.groupby("recipe", sort=False)
        }
        table = links.table(runs, links.LINKS, compute, clients, TARGETS[-1], HELD)
        for row in table.assign(dataset=dataset).to_dict("records"):
            rows.append({k: analysis.known(value) for k, value in row.items()})
    return rows


def records(folder: str | Path) -> pd.DataFrame:
    """Returns all records of the race, as `results.tidy` has them; the reference's come first."""
    folder, tables = Path(folder), []
    for name, origin in results.published_in(folder).items():
        table = pd.read_csv(folder / "records" / f"{name}.csv")
        config = origin["config"]
        about = {"recipe": config["recipe"], "dataset": config["data"]["name"]}
        tables.append(table.assign(**about, seed=config["seed"]))
    tables.sort(key=lambda table: table["recipe"].iloc[0] != REFERENCE)
    return pd.concat(tables, ignore_index=True)
