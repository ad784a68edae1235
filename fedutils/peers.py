"""Side by side with others: table and figures of what `benchmarks/peers.py` measured.

Nothing is measured here: what is written comes from `benchmarks/peers.json` and from what the
executions of the notebooks took.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from fedutils import looks, manifest, provenance, results
from fedutils.errors import UsageError

FOLDER = Path("benchmarks")
RECORD = FOLDER / "peers.json"
EXECUTED = Path("results") / "quick"
PARTS = ("rate_distortion", "speed", "growth", "round_time")
LEAST_BITS, MOST_BITS = 0.02, 8.0
"""Bits a parameter of this project's codec between which it is compared with others."""

DEFAULT = "default, floats to payload"
DEFAULT_SYMBOLS = "those of the default recipe"
DENSE_SYMBOLS = "those of a step of 0.8, to the nearest"
PLAIN = "TFF, plain"
"""With all of TFF's defaults."""
OWN_PLAIN = "ours, plain"
"""TFF's averaging, but for its loop over a client's batches (`training.build_process`)."""
LIMIT = "plain TensorFlow"

_FAMILIES = {
    "context": "#D55E00",
    "constriction": "#0072B2",
    "tfc": "#009E73",
    "z": "#8A6D00",
    "bz2": "#8A6D00",
    "FedJAX": "#A0568A",
    "8-bit": "#56B4E9",
    "": "#000000",
}
_LINES = ("-", "--", ":")


def read(root: str | Path = provenance.REPOSITORY) -> dict[str, object]:
    """Returns what was measured.

    Args:
        root: Folder of the repository.

    Raises:
        UsageError: If a part was not measured.
    """
    path = Path(root) / RECORD
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
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
        same = needed.get(row["rounding"], float("inf"))
        own = same if np.isfinite(same) else least
        bits = 8 * own / parameters
        if LEAST_BITS <= bits <= MOST_BITS:
            ratios = {"ratio": row["bytes"] / own, "ratio_any": row["bytes"] / least}
            compared.append({**row, "own_bits": bits, **ratios})
    return compared


def summary(found: Mapping) -> dict[str, object]:
    """Returns the few numbers that tell who is ahead.

    `closest` is the least ratio of another's bytes to ours at equal distortion, `closest_codec`
    whose, `wins` the names of those below 1; `speed_ratio` our time to encode and decode symbols of
    the default recipe over constriction's faster coder, `dense_speed_ratio` that of `context` with
    symbols of a fine step, of some two bits each; `plain_ratio` our plain round over the faster
    bare loop; `compressed_ratio` our compressed round over it; `plain_tff_ratio` and `tff_ratio`
    that over TFF's plain and compressed ones with TFF's defaults; `growth_exponent` that of time in
    the number of elements, from a million on.
    """
    compared = compare(found["rate_distortion"], found["parameters"])
    closest = min(compared, key=lambda row: row["ratio"])
    rounds = {row["system"]: row for row in found["round_time"]}
    bare = min(row["seconds"] for name, row in rounds.items() if name.startswith(LIMIT))
    own = rounds["ours, default"]
    sparse, dense = (
        {row["coder"]: row["both_ms"] for row in _of(found["speed"], symbols=symbols)}
        for symbols in (DEFAULT_SYMBOLS, DENSE_SYMBOLS)
    )
    grown = [row for row in _of(found["growth"], own=True) if row["elements"] >= 10**6]
    spent = [row["encode_s"] + row["decode_s"] for row in grown]
    exponent = np.polyfit(np.log([row["elements"] for row in grown]), np.log(spent), 1)[0]
    return {
        "closest": closest["ratio"],
        "closest_codec": closest["codec"],
        "wins": sorted({row["codec"] for row in compared if row["ratio"] < 1}),
        "points": len(compared),
        "updates": len({row["round"] for row in found["rate_distortion"]}),
        "speed_ratio": sparse["sparse"] / _constriction(sparse),
        "dense_speed_ratio": dense["context"] / _constriction(dense),
        "plain_ratio": rounds[OWN_PLAIN]["seconds"] / bare,
        "compressed_ratio": own["seconds"] / rounds[OWN_PLAIN]["seconds"],
        "plain_tff_ratio": own["seconds"] / rounds[PLAIN]["seconds"],
        "tff_ratio": own["seconds"] / rounds["TFF, 8-bit compression"]["seconds"],
        "growth_exponent": float(exponent),
        "busy": sorted(part for part in PARTS if found["about"][part]["busy"]),
    }


def _constriction(milliseconds: Mapping[str, float]) -> float:
    """The time of constriction's faster coder."""
    return min(milliseconds[name] for name in milliseconds if name.startswith("constriction"))


def _of(rows: Iterable[Mapping], **values: object) -> list[Mapping]:
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def write(root: str | Path = provenance.REPOSITORY, out: str | Path | None = None) -> None:
    """Writes the table, `peers.md`, and the figures, `peers` and `peers_time`.

    Args:
        root: Folder of the repository.
        out: Folder to write to; `benchmarks` of the repository if None.

    Raises:
        UsageError: If a part was not measured.
    """
    root = Path(root)
    out = root / FOLDER if out is None else Path(out)
    found = read(root)
    results.write_text(out / "peers.md", table(found, manifest.read(root / EXECUTED)))
    looks.style()
    for name, draw in (("peers", rate_distortion), ("peers_time", times)):
        figure = draw(found)
        looks.save(figure, out, name)
        plt.close(figure)


def table(found: Mapping, executed: Mapping) -> str:
    """Returns the tables as Markdown.

    Args:
        found: What was measured (`read`).
        executed: The manifest of the executed notebooks.
    """
    sections = [
        "# Side by side: the same updates through every peer",
        "Written from `benchmarks/peers.json` by `make bench` and `make report`.",
        *_rates_text(found),
        *_speed_text(found),
        *_growth_text(found),
        *_rounds_text(found),
        *_executed_text(executed),
        *_origin_text(found),
    ]
    return "\n\n".join(sections) + "\n"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _rates_text(found: Mapping) -> list[str]:
    parameters = found["parameters"]
    rounds = dict.fromkeys(str(row["round"]) for row in found["rate_distortion"])
    compared = compare(found["rate_distortion"], parameters)
    wins = sorted({row["codec"] for row in compared if row["ratio"] < 1})
    rows = []
    for name in dict.fromkeys(row["codec"] for row in compared):
        points = _of(compared, codec=name)
        rows.append(
            (
                name,
                "bytes" if points[0]["measured"] else "a formula",
                len(points),
                _range([8 * row["bytes"] / parameters for row in points], "{:.3g}"),
                _range([row["nmse"] for row in points], "{:.2g}"),
                _range([row["ratio"] for row in points], "{:.2f}"),
                _range([row["ratio_any"] for row in points], "{:.2f}"),
            )
        )
    rows.sort(key=lambda row: float(row[5].split()[0]))
    head = ("codec", "size", "points", "bits a parameter", "NMSE")
    verdict = (
        f"Fewer bytes than ours somewhere: {', '.join(wins)}."
        if wins
        else "None needs fewer bytes than ours at any of these points."
    )
    return [
        "## Rate and distortion",
        f"Updates of one client in rounds {', '.join(rounds)} of plain federated averaging of the "
        "study's CNN. Times ours: bytes over those that this project's `context` needs to err no "
        "more, rounding the same way (at random or to the nearest), or any way. constriction, tfc "
        "(tensorflow-compression), zstd, zlib and bz2 code the very symbols that `context` rounds "
        "to, with their frequencies inside where they need them; `8-bit +` compresses the levels "
        f"of 8-bit quantization. Compared where ours needs {LEAST_BITS:g} to {MOST_BITS:g} bits a "
        "parameter. " + verdict,
        _markdown((*head, "times ours", "times ours, any rounding"), rows),
    ]


def _speed_text(found: Mapping) -> list[str]:
    sections = ["## Speed", "One update, one core, medians, in turn; MB of the update's floats."]
    for symbols in dict.fromkeys(row["symbols"] for row in found["speed"]):
        rows = sorted(_of(found["speed"], symbols=symbols), key=lambda row: row["both_ms"])
        sections += [
            f"Symbols: {symbols}.",
            _markdown(
                ("coder", "encode, MB/s", "decode, MB/s", "both, ms", "bytes"),
                [
                    (
                        f"**{row['coder']}**" if row["own"] else row["coder"],
                        f"{row['encode_mb_s']:,.0f}",
                        f"{row['decode_mb_s']:,.0f}",
                        f"{row['both_ms']:.1f}",
                        f"{row['bytes']:,.0f}",
                    )
                    for row in rows
                ],
            ),
        ]
    return sections


def _growth_text(found: Mapping) -> list[str]:
    rows = [
        (
            f"**{row['coder']}**" if row["own"] else row["coder"],
            f"{row['elements']:,}",
            f"{row['encode_s']:.4g}",
            f"{row['decode_s']:.4g}",
            f"{1e9 * (row['encode_s'] + row['decode_s']) / row['elements']:.1f}",
            f"{row['peak_memory_mib']:,}",
        )
        for row in found["growth"]
    ]
    head = ("coder", "elements", "encode, s", "decode, s", "both, ns an element", "peak, MiB")
    return [
        "## Growth",
        "The least of some repeats, one core, a process for each row; its peak memory with all "
        "packages.",
        _markdown(head, rows),
    ]


def _rounds_text(found: Mapping) -> list[str]:
    rows = sorted(found["round_time"], key=lambda row: row["seconds"])
    bare = min(row["seconds"] for row in rows if row["system"].startswith(LIMIT))
    lines = [
        (
            f"**{row['system']}**" if row["own"] else row["system"],
            f"{row['seconds']:.2f}",
            f"{row['ratio_to_plain_tff']:.3f}",
            f"{row['least_ratio']:.2f} to {row['greatest_ratio']:.2f}",
            f"{row['seconds'] / bare:.2f}",
            row["turns"],
        )
        for row in rows
    ]
    head = ("system", "seconds a round", "of plain TFF", "from, to", "of the bare loop", "turns")
    return [
        "## Time of a round",
        "Federated averaging of the study's CNN, the same ten clients of `mnist5k` for all, one "
        "after the other, turn by turn; medians.",
        _markdown(head, lines),
    ]


def _executed_text(executed: Mapping) -> list[str]:
    total = sum(entry["seconds"] for entry in executed.values())
    rows = [
        (
            name,
            f"{entry['seconds']:.0f}",
            f"{entry['seconds'] / total:.0%}",
            f"{entry['peak_memory_gib']:.2f}",
        )
        for name, entry in executed.items()
    ]
    most = max((entry["peak_memory_gib"] for entry in executed.values()), default=0)
    rows.append(("all", f"{total:.0f}", "100%", f"{most:.2f}"))
    return [
        "## End to end",
        "`make reproduce`, by notebook.",
        _markdown(("notebook", "seconds", "share", "peak memory, GiB"), rows),
    ]


def _origin_text(found: Mapping) -> list[str]:
    about = found["about"]
    rows = []
    for part in PARTS:
        where = about[part]
        machine = where["machine"]
        busy = f"busy (load {where['load_before']:g}): preliminary" if where["busy"] else "idle"
        facts = f"{machine['cores']} × {machine['processor']}, {machine['memory_gib']} GiB"
        rows.append((part, where["date"], where["commit"], facts, busy))
    versions = about["rate_distortion"]["peers"] | {
        name: about["rate_distortion"]["versions"][name]
        for name in ("tensorflow-federated", "tensorflow")
    }
    missing = [
        f"- {entry['peer']} ({part}): {entry['reason']}"
        for part in PARTS
        for entry in about[part]["unavailable"]
    ]
    return [
        "## Where it comes from",
        _markdown(("part", "date", "commit", "machine", "it was"), rows),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "Not measured:\n\n" + "\n".join(missing) if missing else "Every peer was measured.",
    ]


def _colour(name: str) -> str:
    return next(colour for start, colour in _FAMILIES.items() if name.startswith(start))


def _means(rows: Sequence[Mapping]) -> tuple[np.ndarray, ...]:
    """Geometric means over the updates of equal settings, in rising order of the first.

    Returns:
        `own_bits`, `ratio`, `bytes`, `nmse`, each float[settings].
    """
    groups: dict[tuple, list] = {}
    for row in rows:
        key = (row.get("rounding"), row.get("step"), row.get("levels"))
        groups.setdefault(key, []).append(
            [row.get("own_bits", 1), row.get("ratio", 1), row["bytes"], row["nmse"]]
        )
    means = [np.exp(np.mean(np.log(group), axis=0)) for group in groups.values()]
    return tuple(np.array(sorted(means, key=lambda mean: mean[0])).T)


def rate_distortion(found: Mapping) -> Figure:
    """Draws every codec's rate and distortion, and its bytes over ours at equal distortion.

    Args:
        found: What was measured (`read`).
    """
    parameters, rows = found["parameters"], found["rate_distortion"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.6), layout="constrained")
    _draw_points(left, rows, parameters)
    _draw_ratios(right, compare(rows, parameters))
    return figure


# Where names stand in the panel of points, from theirs, in points; to the right if not told.
_NAMED_AT = {
    "ours, at random": (4, 5, "left", "bottom"),
    "ours, to the nearest": (-46, -14, "left", "top"),
    "FedJAX DRIVE": (9, -9, "left", "center"),
    "FedJAX uniform + arithmetic": (8, 3, "left", "center"),
    "8-bit + zstd, zlib or bz2": (44, -30, "left", "center"),
}


def _draw_points(axes, rows: Sequence[Mapping], parameters: int) -> None:
    labels = {}
    for name, label, line in (
        ("context", "ours, at random", "-"),
        ("context, nearest", "ours, to the nearest", "--"),
    ):
        _, _, sizes, errors = _means(_of(rows, codec=name))
        order = np.argsort(sizes)
        rates = 8 * sizes[order] / parameters
        axes.plot(rates, errors[order], line, color=_colour(name), linewidth=2.6, zorder=3)
        at = np.argmin(np.abs(np.log(rates / 0.06)))
        labels[label] = (rates[at], errors[order][at], _colour(name))
    for name in dict.fromkeys(row["codec"] for row in rows):
        points = _of(rows, codec=name)
        if points[0]["own"] or "step" in points[0]:
            continue  # those on our symbols have our distortion: they are in the other panel
        _, _, sizes, errors = _means(points)
        order = np.argsort(sizes)
        rates, errors = 8 * sizes[order] / parameters, errors[order]
        hollow = {} if points[0]["measured"] else {"markerfacecolor": "white"}
        axes.plot(rates, errors, "o-", color=_colour(name), markersize=5, linewidth=1, **hollow)
        name = "8-bit + zstd, zlib or bz2" if name.startswith("8-bit") else name
        labels[name] = (rates[0], errors[0], _colour(name))
    for name, (x, y, colour) in labels.items():
        dx, dy, ha, va = _NAMED_AT.get(name, (8, 0, "left", "center"))
        weight = "bold" if name.startswith("ours") else "normal"
        text = axes.annotate(
            name,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset points",
            color=colour,
            fontsize="small",
            fontweight=weight,
            ha=ha,
            va=va,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6} if dx > 20 else None,
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.005, 500),
        ylim=(1e-7, 2e3),
        title="Rate and distortion",
        xlabel="Bits a parameter (hollow: by a formula)",
        ylabel="NMSE of one update",
    )
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def _draw_ratios(axes, compared: Sequence[Mapping]) -> None:
    ends, seen = [], {}
    # This project's symbols were coded with both roundings: the figure has those at random.
    compared = [row for row in compared if "step" not in row or row["rounding"] == "random"]
    for name in dict.fromkeys(row["codec"] for row in compared):
        bits, ratios, _, _ = _means(_of(compared, codec=name))
        colour = _colour(name)
        line = _LINES[seen.setdefault(colour, 0) % len(_LINES)]
        seen[colour] += 1
        measured = _of(compared, codec=name)[0]["measured"]
        few = len(bits) < 4
        axes.plot(
            bits,
            ratios,
            line,
            color=colour,
            linewidth=1.6,
            marker="o" if few or not measured else None,
            markersize=5,
            markerfacecolor=colour if measured else "white",
        )
        ends.append((name, bits[-1], ratios[-1], colour))
    axes.axhline(1, color=looks.ACCENT, linewidth=2.6, zorder=0)
    ends.append(("ours", MOST_BITS, 1.0, looks.ACCENT))
    top = 1.15 * max(row["ratio"] for row in compared)
    top = min(top, 60)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(LEAST_BITS, 400),
        ylim=(0.8, top),
        title="Bytes over ours at equal distortion",
        xlabel="Our bits a parameter at that distortion, rounding at random",
        ylabel="Times our bytes (below 1 wins)",
    )
    axes.set_xticks([0.02, 0.1, 0.5, 2, 8])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_yticks([tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50) if tick <= top])
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    ends.sort(key=lambda end: end[2])
    # From below, each name as near to the end of its line as the one under it allows.
    places, least = [], np.log(top / 0.8) / 24
    for _, _, y, _ in ends:
        places.append(max(np.log(min(y, top)), places[-1] + least if places else np.log(0.85)))
    for (name, x, y, colour), place in zip(ends, places, strict=True):
        weight = "bold" if name == "ours" else "normal"
        if name != "ours":
            axes.plot([x, 10.5], [y, np.exp(place)], color=colour, linewidth=0.5)
        text = axes.text(
            11,
            np.exp(place),
            name,
            color=colour,
            fontsize="small",
            fontweight=weight,
            va="center",
        )
        text.set_path_effects([withStroke(linewidth=4, foreground="white")])


def times(found: Mapping) -> Figure:
    """Draws speed, growth and the time of a round.

    Args:
        found: What was measured (`read`).
    """
    figure, (speed, growth, rounds) = plt.subplots(
        1, 3, figsize=(13.5, 4.6), layout="constrained", width_ratios=(1.15, 1, 1.05)
    )
    _draw_speed(speed, _of(found["speed"], symbols=DEFAULT_SYMBOLS))
    _draw_growth(growth, found["growth"])
    _draw_rounds(rounds, found["round_time"])
    return figure


def _draw_speed(axes, rows: Sequence[Mapping]) -> None:
    rows = sorted(rows, key=lambda row: -row["both_ms"])
    most = max(row["both_ms"] for row in rows)
    for place, row in enumerate(rows):
        colour = looks.ACCENT if row["own"] else _colour(row["coder"])
        axes.barh(place, row["encode_ms"], color=colour, height=0.7)
        left = row["encode_ms"]
        axes.barh(place, row["decode_ms"], left=left, color=colour, alpha=0.45, height=0.7)
        text = f" {row['both_ms']:.0f} ms, {row['bytes'] / 1000:,.0f} kB"
        axes.text(left + row["decode_ms"], place, text, va="center", fontsize="small")
    names = [row["coder"].replace("default, floats", "default: floats") for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["own"] else "normal")
    axes.set(title="The default recipe's symbols", xlabel="ms, encoding (dark) and decoding")
    axes.set_xlim(0, 1.6 * most)
    axes.grid(axis="y", visible=False)


def _draw_growth(axes, rows: Sequence[Mapping]) -> None:
    labels = {}
    for name in dict.fromkeys(row["coder"] for row in rows):
        points = _of(rows, coder=name)
        colour = looks.ACCENT if points[0]["own"] else _colour(name)
        elements = [row["elements"] for row in points]
        spent = [row["encode_s"] + row["decode_s"] for row in points]
        axes.plot(elements, spent, "o-", color=colour, markersize=5)
        label = "default" if points[0]["own"] else name
        labels[f"{label}, {points[-1]['peak_memory_mib'] / 1024:.1f} GiB"] = (
            elements[-1],
            spent[-1],
        )
    axes.set(
        xscale="log",
        yscale="log",
        title="Growth",
        xlabel="Elements",
        ylabel="Seconds to encode and decode",
    )
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 300)
    axes.set_xticks([10.0**k for k in range(4, 9)])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    looks.label_points(axes, labels)


def _draw_rounds(axes, rows: Sequence[Mapping]) -> None:
    rows = sorted(rows, key=lambda row: -row["seconds"])
    for place, row in enumerate(rows):
        colour = looks.ACCENT if row["own"] else "0.55"
        axes.barh(place, row["seconds"], color=colour, height=0.7)
        text = f" {row['seconds']:.2f} s, {row['ratio_to_plain_tff']:.2f}"
        axes.text(row["seconds"], place, text, va="center", fontsize="small")
    names = [
        row["system"].replace(", two clients at once", ",\ntwo clients at once") for row in rows
    ]
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["own"] else "normal")
    axes.set(title="A round", xlabel="Seconds, and times plain TFF")
    axes.set_xlim(0, 1.45 * max(row["seconds"] for row in rows))
    axes.grid(axis="y", visible=False)
