"""The race's tables, computed from the records in its folder and from nothing else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
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
    "informed_bits": "uplink bits and what the server told all clients for their codec "
    "(announcement_bits), without the model",
    "total_bits": "uplink bits and everything that the server sent to all clients",
    "ratio": f"times fewer bits than {REFERENCE}: its mean bits over the mean bits of the recipe, "
    "for the seeds that both have; without a target, over all rounds",
    "delta": f"mean difference to {REFERENCE} for the seeds that both have, as a fraction",
    "bits_per_parameter": "uplink bits of all rounds by rounds, clients and parameters",
    "announcement_bits": "what the server tells each client of a round for its codec, mean over "
    "rounds; part of what goes down",
    "std": "standard deviation of the sample of seeds",
}


def is_own(recipe: str) -> bool:
    """Tells whether a recipe is this project's; one that is no longer known is not."""
    try:
        return recipes.get(recipe).paper == "this project"
    except UsageError:
        return False


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


def mismatch(one: dict, other: dict) -> tuple[str, object, object] | None:
    """Returns what two runs must have in common in one folder, and do not.

    Args:
        one: A run's `config` and `data_fingerprint`.
        other: Another's.

    Returns:
        The first setting that differs, with both values; None if there is none.
    """
    pairs = [(protocol_of(one["config"]), protocol_of(other["config"]))]
    if one["config"]["data"]["name"] == other["config"]["data"]["name"]:
        pairs.append(tuple(data_of(run["config"], run["data_fingerprint"]) for run in (one, other)))
    for there, here in pairs:
        for key in here:
            if there.get(key) != here[key]:
                return key, there.get(key), here[key]
    return None


def code_of(origin: dict) -> str:
    """Returns the code that made a run, as the beginning of its digest."""
    return origin["code"][:8]


def compute(folder: str | Path) -> dict[str, object]:
    """Computes the race's tables from all records in a folder.

    Args:
        folder: The race's.

    Returns:
        `protocol`: what the runs have in common, and what the columns mean; `recipes`: the rows of
        `analysis.standings`, data set by data set, with `own` (whether it is this project's),
        `label`, `dataset`, and the `code` (digests) and `commit`s that made the records;
        `references`: such rows of the reference, with those seeds alone that some recipe has;
        `times`: the seconds to the last target on real links (`links.table`, by label), if
        `client_seconds.json` (`benchmarks/round_time.py`) says how long a client computes.

    Raises:
        UsageError: If there are no records, or if not all are of one protocol.
    """
    folder = Path(folder)
    by_data: dict[str, dict[str, dict]] = {}
    for name, origin in results.published_in(folder).items():
        by_data.setdefault(origin["config"]["data"]["name"], {})[name] = origin
    if not by_data:
        raise UsageError(f"{folder} holds no records of a race")
    runs = [item for origins in by_data.values() for item in origins.items()]
    firsts = [runs[0], *(next(iter(origins.items())) for origins in by_data.values())]
    for name, origin in runs:
        for first, reference in firsts:
            if found := mismatch(reference, origin):
                raise UsageError(
                    f"{folder} is not of one protocol: {first} was made with {found[0]} "
                    f"{found[1]}, {name} with {found[2]}; move one of them to another folder"
                )
    protocol, described, rows, references = {}, {}, [], []
    for dataset, origins in sorted(by_data.items()):
        one = next(iter(origins.values()))
        protocol = protocol_of(one["config"])
        about = data_of(one["config"], one["data_fingerprint"])
        about["parameters"] = _parameters(one["config"])
        described[dataset] = about
        measured = _measured(folder, origins)
        entrants = _entrants(measured)
        for entrant in entrants:
            if entrant.partial:
                few = {(entrant.name, s): measured[entrant.name, s] for s in entrant.seeds}
                (row,) = analysis.standings(few, REFERENCE)
                references.append({"label": entrant.label, "dataset": dataset, **row})
        labels = {entrant.name: entrant.label for entrant in entrants if not entrant.partial}
        for row in analysis.standings(measured, REFERENCE):
            made = [o for o in origins.values() if o["config"]["recipe"] == row["name"]]
            head = {"name": row["name"], "own": is_own(row["name"]), "dataset": dataset}
            head["label"] = labels[row["name"]]
            code = {
                "code": sorted({code_of(origin) for origin in made}),
                "commit": sorted({str(origin["commit"]) for origin in made}),
            }
            rows.append({**head, **row, **code})
    protocol |= {"data": described, "targets": TARGETS, "definitions": DEFINITIONS}
    times = _times(folder, records(folder), protocol["clients_per_round"])
    return {"protocol": protocol, "recipes": rows, "references": references, "times": times}


class _Entrant(NamedTuple):
    """What figures compare: a recipe with its seeds.

    partial: whether it is the reference with some of its seeds, those that another recipe has.
    """

    name: str
    seeds: tuple[int, ...]
    label: str
    partial: bool


def _entrants(runs: Iterable[tuple[str, int]]) -> list[_Entrant]:
    """All recipes of some runs (recipe and seed), and the reference as those of few seeds need it.

    A recipe's label names its seeds unless these are all that the reference has.
    """
    seeds: dict[str, list[int]] = {}
    for name, seed in runs:
        seeds.setdefault(name, []).append(seed)
    every = {name: tuple(sorted(own)) for name, own in seeds.items()}
    reference = every.get(REFERENCE, ())
    paired = {tuple(seed for seed in own if seed in reference) for own in every.values()}
    partial = sorted(paired - {(), reference})
    found = []
    for name, own in [*every.items(), *((REFERENCE, some) for some in partial)]:
        which = f"{'seed' if len(own) == 1 else 'seeds'} {', '.join(map(str, own))}"
        label = f"{name} ({which})" if reference and own != reference else name
        found.append(_Entrant(name, own, label, own != every[name]))
    return found


def _measured(folder: Path, origins: Mapping[str, dict]) -> dict[tuple[str, int], dict]:
    """What was measured in runs of one data set (`analysis.measures`), by recipe and seed."""
    configs = {name: origin["config"] for name, origin in origins.items()}
    parameters = _parameters(next(iter(configs.values()))) if configs else 0
    return {
        (config["recipe"], config["seed"]): analysis.measures(
            _read(folder / "records" / f"{name}.csv"),
            clients=config["clients_per_round"],
            parameters=parameters,
            targets=TARGETS,
            held=HELD,
            settled=SETTLED,
        )
        for name, config in configs.items()
    }


def _read(path: Path) -> pd.DataFrame:
    """The records in a file; UsageError if they are damaged."""
    try:
        found = pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are such, too
        raise UsageError(f"the records {path} are damaged ({error}): restore them") from error
    if missing := {"round", "test_accuracy", "cumulative_aggregated_bits"} - set(found):
        raise UsageError(
            f"the records {path} are damaged, they lack {', '.join(sorted(missing))}: restore them"
        )
    return found


def _parameters(config: dict) -> int:
    classes = {**dataclasses.asdict(data.DataConfig()), **config["data"]}["classes"]
    return _size(protocol_of(config)["model"], classes)


@functools.cache
def _size(model: str, classes: int) -> int:
    return models.get(model)(classes, 0).count_params()


class Ratio(NamedTuple):
    """How many times more one recipe needs than another.

    mean: of the means over the seeds that both ran with.
    least, greatest: of a single seed.
    """

    mean: float
    least: float
    greatest: float


def ratio(folder: str | Path, dataset: str, recipe: str, other: str, measure: str) -> Ratio:
    """Compares two recipes over the seeds that both ran with.

    Args:
        folder: The race's.
        dataset: A data set.
        recipe: The one that needs less, if the ratio is above 1.
        other: The one that needs more.
        measure: What they need, for example `uplink_bits_97`.

    Raises:
        UsageError: If they have no seed in common, or if not all of these reached the target.
    """
    compared = {
        name: origin
        for name, origin in _of_dataset(folder, dataset).items()
        if origin["config"]["recipe"] in (recipe, other)
    }
    measured = _measured(Path(folder), compared)
    seeds = sorted(seed for name, seed in measured if name == recipe and (other, seed) in measured)
    if not seeds:
        raise UsageError(f"{recipe} and {other} did not run with a common seed on {dataset}")
    needed = {
        name: np.array([measured[name, seed][measure] for seed in seeds])
        for name in (recipe, other)
    }
    of_seeds = needed[other] / needed[recipe]
    if np.isnan(of_seeds).any():
        raise UsageError(f"{recipe} or {other} has no {measure}: not all seeds reached that")
    mean = needed[other].mean() / needed[recipe].mean()
    return Ratio(float(mean), float(of_seeds.min()), float(of_seeds.max()))


def lead(folder: str | Path, dataset: str, recipe: str) -> tuple[str, Ratio]:
    """Returns the recipe of the literature nearest in uplink bits to the last target, and how near.

    Each is compared over the seeds that both ran with; one that did not reach the target with all
    of these is not compared.

    Raises:
        UsageError: If none can be compared.
    """
    found = {}
    for other in sorted(raced(folder, dataset) - {recipe}):
        if not is_own(other):
            try:
                found[other] = ratio(
                    folder, dataset, recipe, other, f"uplink_bits_{100 * TARGETS[-1]:g}"
                )
            except UsageError:
                continue
    if not found:
        raise UsageError(f"{recipe} cannot be compared with any recipe on {dataset}")
    return min(found.items(), key=lambda item: item[1].mean)


def raced(folder: str | Path, dataset: str) -> set[str]:
    """Returns the names of the recipes that have runs on a data set."""
    return {origin["config"]["recipe"] for origin in _of_dataset(folder, dataset).values()}


def _of_dataset(folder: str | Path, dataset: str) -> dict[str, dict]:
    origins = results.published_in(folder)
    return {k: it for k, it in origins.items() if it["config"]["data"]["name"] == dataset}


def _times(folder: Path, every: pd.DataFrame, clients: int) -> list[dict]:
    """Rows of `links.table` for each data set of which `client_seconds.json` tells."""
    measured = results.read_json(folder / "client_seconds.json")
    rows = []
    for dataset, about in sorted(measured.items()):
        shown = every[every["dataset"] == dataset]
        of_run = dict(list(shown.groupby(["recipe", "seed"], sort=False)))
        timed = [entrant for entrant in _entrants(of_run) if entrant.name in about["seconds"]]
        compute = {entrant.label: about["seconds"][entrant.name] for entrant in timed}
        runs = {it.label: [of_run[it.name, seed] for seed in it.seeds] for it in timed}
        table = links.table(runs, links.LINKS, compute, clients, TARGETS[-1], HELD)
        for row in table.assign(dataset=dataset).to_dict("records"):
            rows.append({k: analysis.known(value) for k, value in row.items()})
    return rows


def records(folder: str | Path) -> pd.DataFrame:
    """Returns all records with their `recipe`, `dataset` and `seed`; the reference's come first."""
    folder, tables = Path(folder), []
    for name, origin in results.published_in(folder).items():
        table = _read(folder / "records" / f"{name}.csv")
        config = origin["config"]
        about = {"recipe": config["recipe"], "dataset": config["data"]["name"]}
        tables.append(table.assign(**about, seed=config["seed"]))
    tables.sort(key=lambda table: table["recipe"].iloc[0] != REFERENCE)
    return pd.concat(tables, ignore_index=True)
