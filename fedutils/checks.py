"""Computations of numbers that were published, by us or by others.

Each has the repository's folder, for the results in it, as its first argument, and gives a number;
`claims` says which numbers these should be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedutils.errors import UsageError
from fedutils.results import DEFAULT_RACE as RACE


def _parameters(root: Path, classes: int) -> int:
    from fedutils import models

    return models.cnn(classes, seed=0).count_params()


def _equal_figures(root: Path) -> int:
    """How many of the study's forty cumulative figures we print digit for digit."""
    from fedutils import study

    equal = 0
    for recipe in ("none", "tff-compression"):
        table = study.comparison(recipe)
        for direction in ("broadcast", "aggregated"):
            equal += (table[f"{direction} published"] == table[f"{direction} ours"]).sum()
    return equal


def _study_ratio(root: Path, both: bool = False) -> float:
    from fedutils import ledger, study

    directions = list(ledger.Direction) if both else [ledger.Direction.AGGREGATED]
    plain, compressed = study.bill("none"), study.bill("tff-compression")
    return sum(map(plain.bits, directions)) / sum(map(compressed.bits, directions))


def _measured(
    root: Path, codec: str, update: str, nmse: bool, size: int = 2**20, **arguments
) -> float:
    """Either the NMSE or the bits per parameter of a codec on one of `UPDATES`."""
    from fedutils import distortion
    from fedutils.codecs import recipes as codec_recipes

    built = getattr(codec_recipes, codec)([(size,)], **arguments)
    ((bits, error),) = distortion.measure(built, UPDATES[update](size)[None])
    return error if nmse else bits


UPDATES: dict[str, Callable[[int], np.ndarray]] = {
    "gaussian": lambda n: np.random.default_rng(0).standard_normal(n).astype(np.float32),
    # From 1 to 2, (x - 1)(2 - x) / x² is largest here: the worst for natural compression.
    "four thirds": lambda n: np.full(n, 4 / 3, np.float32),
    "one nonzero": lambda n: np.eye(1, n, dtype=np.float32)[0],
}
"""Updates that a paper's number is about, float32[n] from n."""


def _lloyd_max(root: Path, bits: int) -> float:
    """Distortion of the levels that we use for the standard Gaussian, by integration."""
    from fedutils.codecs import nonuniform

    levels = np.asarray(nonuniform.gaussian_levels(bits), np.float64)
    x = np.linspace(-9, 9, 400_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    nearest = levels[np.abs(x[:, None] - levels).argmin(axis=1)]
    return float(np.sum(density * (x - nearest) ** 2) * (x[1] - x[0]))


def _race(root: Path, recipe: str, measure: str, dataset: str = "emnist") -> float:
    """A measure of the race's table."""
    from fedutils import standings

    for row in standings.compute(root / RACE)["recipes"]:
        if (row["name"], row["dataset"]) == (recipe, dataset):
            if row[measure] is None:
                raise UsageError(f"{recipe} has no {measure}: not all its seeds reached that")
            return row[measure]
    raise UsageError(f"{recipe} did not run on {dataset}")


def _race_ratio(
    root: Path, recipe: str, other: str, measure: str, dataset: str = "emnist"
) -> float:
    """How many times more another recipe has of a measure, with the seeds that both ran with."""
    from fedutils import standings

    return standings.ratio(root / RACE, dataset, recipe, other, measure).mean


def _lead(root: Path, recipe: str, dataset: str = "emnist") -> float:
    """How many times fewer bits to the last target than any recipe of the literature."""
    from fedutils import standings

    return standings.lead(root / RACE, dataset, recipe)[1].mean


CHECKS: dict[str, Callable[..., float]] = {
    "parameters": _parameters,
    "equal figures": _equal_figures,
    "study ratio": _study_ratio,
    "nmse": functools.partial(_measured, update="gaussian", nmse=True),
    "bits": functools.partial(_measured, update="gaussian", nmse=False),
    "nmse of four thirds": functools.partial(_measured, update="four thirds", nmse=True),
    "bits of one nonzero": functools.partial(_measured, update="one nonzero", nmse=False),
    "lloyd-max": _lloyd_max,
    "race": _race,
    "race ratio": _race_ratio,
    "lead": _lead,
}
