"""Numbers that others or we have published, each computed anew.

`docs/claims.toml` holds them: who says it and where, what we get, and how far apart the two may
be. The computations that it names are those of `checks`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path

from fedutils import provenance
from fedutils.checks import CHECKS
from fedutils.errors import UsageError

CLAIMS = Path("docs") / "claims.toml"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A number that can be computed.

    Attributes:
        id: Its name.
        source: Who says it: paper and section, or `this project`.
        says: What the number is.
        check: Name of the computation (`checks.CHECKS`).
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
        UsageError: If the file is missing or damaged, or an entry of it is not a claim.
    """
    path = Path(root) / CLAIMS
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is missing or damaged ({error}): restore it") from error
    claims = []
    for entry in entries:
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
