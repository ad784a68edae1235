"""Numbers that others or we have published, each computed anew.

`docs/claims.toml` holds them: who says it and where, what we get, and how far apart the two may
be. `CHECKS` are the computations that it names.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fedutils import provenance
from fedutils.errors import UsageError

CLAIMS = Path("docs") / "claims.toml"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A number that can be computed.

    Attributes:
        id: Its name.
        source: Who says it: paper and section, or `this project`.
        says: What the number is.
        check: Name of the computation (`CHECKS`).
        ours: What it gave when the claim was entered.
        tolerance: How far from `ours` and from `published` it may be, as a share of them.
        published: The number; None if the source gives a bound.
        at_least: A lower bound, or None.
        at_most: An upper bound, or None.
        arguments: Of the computation.
    """

    id: str
    source: str
    says: str
    check: str
    ours: float
    tolerance: float
    published: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    arguments: dict[str, object] = dataclasses.field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command that computes it anew."""
        return f".venv/bin/fedutils claims {self.id}"

    @property
    def stated(self) -> str:
        """The number or bound, as text."""
        bounds = [("", self.published), ("≥ ", self.at_least), ("≤ ", self.at_most)]
        return ", ".join(f"{sign}{value:,.10g}" for sign, value in bounds if value is not None)


def read(root: str | Path = provenance.REPOSITORY) -> list[Claim]:
    """Returns all claims.

    Raises:
        UsageError: If an entry of the file is not a claim.
    """
    path = Path(root) / CLAIMS
    claims = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]:
        try:
            claims.append(Claim(**entry))
        except TypeError as error:
            raise UsageError(f"{CLAIMS}, {entry.get('id', 'an entry')}: {error}") from error
        if claims[-1].check not in CHECKS:
            raise UsageError(
                f"{CLAIMS}, {entry['id']}: unknown check {entry['check']!r}: choose one of "
                f"{', '.join(CHECKS)}"
            )
    return claims


def compute(claim: Claim, root: str | Path = provenance.REPOSITORY) -> float:
    """Computes a claim's number.

    Args:
        claim: The claim.
        root: Folder of the repository, for results that it may be computed from.
    """
    return float(CHECKS[claim.check](Path(root), **claim.arguments))


def check(claim: Claim, root: str | Path = provenance.REPOSITORY) -> Iterator[str]:
    """Computes a claim's number anew.

    Yields:
        A sentence a problem: it is not near enough to what was published, or to what we had.
    """
    try:
        value = compute(claim, root)
    except (UsageError, LookupError, OSError) as error:
        yield f"claim {claim.id} cannot be computed ({error})"
        return
    for whose, number in (("published", claim.published), ("recorded", claim.ours)):
        if number is not None and not _near(value, number, claim.tolerance):
            yield (
                f"claim {claim.id} is {value:.6g}, not within {claim.tolerance:g} of the "
                f"{whose} {number:.6g}"
            )
    if claim.at_least is not None and not value >= claim.at_least:
        yield f"claim {claim.id} is {value:.6g}, not at least {claim.at_least:.6g}"
    if claim.at_most is not None and not value <= claim.at_most:
        yield f"claim {claim.id} is {value:.6g}, not at most {claim.at_most:.6g}"


def _near(value: float, number: float, tolerance: float) -> bool:
    return abs(value - number) <= tolerance * abs(number)


# The computations. Each has the repository's folder as its first argument.


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


def _gaussian(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


def _measured(recipe: str, arguments: dict, size: int) -> tuple[float, float]:
    """Bits a parameter and NMSE of a codec on independent Gaussian numbers."""
    from fedutils import distortion
    from fedutils.codecs import recipes as codec_recipes

    codec = getattr(codec_recipes, recipe)([(size,)], **arguments)
    ((bits, nmse),) = distortion.measure(codec, _gaussian(size)[None])
    return bits, nmse


def _nmse(root: Path, codec: str, size: int = 2**20, **arguments) -> float:
    return _measured(codec, arguments, size)[1]


def _bits(root: Path, codec: str, size: int = 2**20, **arguments) -> float:
    return _measured(codec, arguments, size)[0]


def _lloyd_max(root: Path, bits: int) -> float:
    """Distortion of the levels that we use for the standard Gaussian, by integration."""
    from fedutils.codecs import nonuniform

    levels = np.asarray(nonuniform.gaussian_levels(bits), np.float64)
    x = np.linspace(-9, 9, 400_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    nearest = levels[np.abs(x[:, None] - levels).argmin(axis=1)]
    return float(np.sum(density * (x - nearest) ** 2) * (x[1] - x[0]))


def _extreme(root: Path, codec: str, size: int = 2**16, **arguments) -> float:
    """NMSE of a codec on the vector that natural compression does worst on: 4/3 everywhere."""
    from fedutils import distortion
    from fedutils.codecs import recipes as codec_recipes

    built = getattr(codec_recipes, codec)([(size,)], **arguments)
    ((_, nmse),) = distortion.measure(built, np.full([1, size], 4 / 3, np.float32))
    return nmse


def _zeros_bits(root: Path, codec: str, size: int = 2**20) -> float:
    """Bits a parameter of an update that is zero."""
    from fedutils import distortion
    from fedutils.codecs import recipes as codec_recipes

    built = getattr(codec_recipes, codec)([(size,)])
    update = np.zeros([1, size], np.float32)
    update[0, 0] = 1.0
    ((bits, _),) = distortion.measure(built, update)
    return bits


def _race(root: Path, recipe: str, measure: str, dataset: str = "emnist") -> float:
    from fedutils import standings

    for row in standings.compute(root / "results" / "race")["recipes"]:
        if (row["name"], row["dataset"]) == (recipe, dataset):
            if row[measure] is None:
                raise UsageError(f"{recipe} has no {measure} on {dataset}")
            return row[measure]
    raise UsageError(f"{recipe} did not run on {dataset}")


def _race_ratio(
    root: Path, recipe: str, other: str, measure: str, dataset: str = "emnist"
) -> float:
    """How many times more another recipe has of a measure."""
    return _race(root, other, measure, dataset) / _race(root, recipe, measure, dataset)


def _lead(root: Path, dataset: str = "emnist") -> float:
    """How many times fewer bits to the last target than the best recipe of the literature."""
    from fedutils import standings

    rows = standings.compute(root / "results" / "race")["recipes"]
    bits = {True: [], False: []}
    for row in rows:
        if row["dataset"] == dataset and row["uplink_bits_97"] is not None:
            bits[row["own"]].append(row["uplink_bits_97"])
    return min(bits[False]) / min(bits[True])


CHECKS: dict[str, Callable[..., float]] = {
    "parameters": _parameters,
    "equal figures": _equal_figures,
    "study ratio": _study_ratio,
    "nmse": _nmse,
    "bits": _bits,
    "worst nmse": _extreme,
    "bits of zeros": _zeros_bits,
    "lloyd-max": _lloyd_max,
    "race": _race,
    "race ratio": _race_ratio,
    "lead": _lead,
}
