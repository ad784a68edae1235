"""Side by side with others: what `benchmarks/peers.py` measured, and who is ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedutils import provenance, results
from fedutils.errors import UsageError

FOLDER = Path("benchmarks")
RECORD = FOLDER / "peers.json"
TIMED = ("speed", "growth", "round_time")
PARTS = ("rate_distortion", *TIMED)
LEAST_BITS, MOST_BITS = 0.02, 8.0
"""Bits per parameter of this project's codec between which it is compared with others."""

DEFAULT = "default, floats to payload"
DEFAULT_SYMBOLS = "those of the default recipe"
DENSE_SYMBOLS = "those of a step of 0.8, to the nearest"
PLAIN = "TFF, plain"
"""With all of TFF's defaults."""
OWN_PLAIN = "ours, plain"
"""TFF's averaging, but for its loop over a client's batches (`training.build_process`)."""
LIMIT = "plain TensorFlow"


def read(root: str | Path = provenance.REPOSITORY) -> dict[str, object]:
    """Returns what was measured.

    Args:
        root: Folder of the repository.

    Raises:
        UsageError: If a part was not measured, or the file is damaged.
    """
    found = results.read_json(Path(root) / RECORD)
    for part in PARTS:
        if part not in found:
            raise UsageError(f"{RECORD} has no {part}: run `make bench`")
    return found


def own_bytes(rows: Iterable[Mapping], nmse: float) -> float:
    """What one codec needs to err no more than this, between the steps that were measured.

    Args:
        rows: Its points on one update: `nmse`, `bytes`.
        nmse: The distortion allowed.

    Returns:
        Bytes, linear in the logarithm of the NMSE between two points, where the true curve is
        convex, so that they are rather too many; those of the coarsest point if more is allowed
        than it errs; infinite if no point errs as little.
    """
    points = sorted((row["nmse"], row["bytes"]) for row in rows)
    if not points or nmse < points[0][0] * (1 - 1e-9):
        return float("inf")
    errors, sizes = np.array(points).T
    return float(np.interp(np.log(nmse), np.log(errors), sizes))


def compare(rows: Sequence[Mapping], parameters: int) -> list[dict]:
    """Holds each point of the others against this project's codec at equal distortion.

    Args:
        rows: The points: `codec`, `own`, `round`, `rounding`, `nmse`, `bytes`.
        parameters: How many numbers an update has.

    Returns:
        The others' points where this project's codec needs `LEAST_BITS` to `MOST_BITS` with the
        same kind of rounding (at random, so that the mean is right, or to the nearest), each with
        `own_bits` (a parameter), `ratio` (its bytes over ours) and `ratio_any` (over ours
        whichever way it rounds, which is never less).
    """
    curves: dict[tuple, list] = {}
    for row in rows:
        if row["own"]:
            curves.setdefault((row["round"], row["rounding"]), []).append(row)
    compared = []
    for row in rows:
        if row["own"]:
            continue
        needed = {
            kind: own_bytes(points, row["nmse"])
            for (round_number, kind), points in curves.items()
            if round_number == row["round"]
        }
        least = min(needed.values(), default=float("inf"))
        own = needed.get(row["rounding"], float("inf"))
        bits = 8 * own / parameters
        if LEAST_BITS <= bits <= MOST_BITS:
            ratios = {"ratio": row["bytes"] / own, "ratio_any": row["bytes"] / least}
            compared.append({**row, "own_bits": bits, **ratios})
    return compared


def summary(found: Mapping) -> dict[str, object]:
    """Returns the few numbers that tell who is ahead.

    `closest` is the least ratio of another's bytes to ours at equal distortion, `closest_codec`
    whose, `wins` the names of those below 1, `points` how many were compared, on how many
    `updates`, `coder_points` those among them of coders given our symbols; `speed_ratio` our time
    to encode and decode symbols of the default recipe over constriction's faster coder,
    `dense_speed_ratio` that of `context` with symbols of a fine step, of some two bits each; `bare`
    which bare loop is the faster, `plain_ratio` our plain round over its; `compressed_ratio` our
    compressed round over our plain one; `plain_tff_ratio` and `tff_ratio` TFF's plain and
    compressed ones with TFF's defaults over our plain one; `growth_exponent` that of time in the
    number of elements, from a million on; `busy` the parts that were timed although other programs
    kept the processor busy.
    """
    compared = compare(found["rate_distortion"], found["parameters"])
    closest = min(compared, key=lambda row: row["ratio"])
    rounds = {row["system"]: row for row in found["round_time"]}
    bare = min((n for n in rounds if n.startswith(LIMIT)), key=lambda n: rounds[n]["seconds"])
    own = rounds["ours, default"]
    sparse, dense = (
        {row["coder"]: row["both_ms"] for row in rows_with(found["speed"], symbols=symbols)}
        for symbols in (DEFAULT_SYMBOLS, DENSE_SYMBOLS)
    )
    grown = [row for row in rows_with(found["growth"], own=True) if row["elements"] >= 10**6]
    spent = [row["encode_s"] + row["decode_s"] for row in grown]
    exponent = np.polyfit(np.log([row["elements"] for row in grown]), np.log(spent), 1)[0]
    return {
        "closest": closest["ratio"],
        "closest_codec": closest["codec"],
        "wins": sorted({row["codec"] for row in compared if row["ratio"] < 1}),
        "points": len(compared),
        "coder_points": sum("step" in row for row in compared),
        "updates": len({row["round"] for row in found["rate_distortion"]}),
        "speed_ratio": sparse["sparse"] / _constriction(sparse),
        "dense_speed_ratio": dense["context"] / _constriction(dense),
        "bare": bare,
        "plain_ratio": rounds[OWN_PLAIN]["seconds"] / rounds[bare]["seconds"],
        "compressed_ratio": own["seconds"] / rounds[OWN_PLAIN]["seconds"],
        "plain_tff_ratio": rounds["TFF, plain"]["seconds"] / rounds[OWN_PLAIN]["seconds"],
        "tff_ratio": rounds["TFF, 8-bit compression"]["seconds"] / rounds[OWN_PLAIN]["seconds"],
        "growth_exponent": float(exponent),
        "busy": sorted(part for part in PARTS if found["about"][part]["busy"]),
    }


def saved_by_context(found: Mapping, rounding: str, low: float, high: float) -> tuple[float, float]:
    """Returns the least and the greatest share of bytes that coding in context saves.

    Args:
        found: What was measured (`read`).
        rounding: `random` or `nearest`.
        low, high: Between which bits per parameter of `context`.

    Returns:
        Fractions of what constriction's ANS, which codes symbols one by one, takes for them.
    """
    saved = [
        1 - 1 / row["ratio"]
        for row in compare(found["rate_distortion"], found["parameters"])
        if row["codec"] == "constriction ANS"
        and row["rounding"] == rounding
        and low <= row["own_bits"] <= high
    ]
    return min(saved), max(saved)


def _constriction(milliseconds: Mapping[str, float]) -> float:
    """The time of constriction's faster coder."""
    return min(milliseconds[name] for name in milliseconds if name.startswith("constriction"))


def rows_with(rows: Iterable[Mapping], **values: object) -> list[Mapping]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]
