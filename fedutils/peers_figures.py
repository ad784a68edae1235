"""The figures of `make bench`: rates and distortions, and times, of others and of this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from fedutils import looks, peers

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
        found: What was measured (`peers.read`).
    """
    parameters, rows = found["parameters"], found["rate_distortion"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.6), layout="constrained")
    _draw_points(left, rows, parameters)
    _draw_ratios(right, peers.compare(rows, parameters))
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
        _, _, sizes, errors = _means(peers.rows_with(rows, codec=name))
        order = np.argsort(sizes)
        rates = 8 * sizes[order] / parameters
        axes.plot(rates, errors[order], line, color=_colour(name), linewidth=2.6, zorder=3)
        at = np.argmin(np.abs(np.log(rates / 0.06)))
        labels[label] = (rates[at], errors[order][at], _colour(name))
    for name in dict.fromkeys(row["codec"] for row in rows):
        points = peers.rows_with(rows, codec=name)
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
        xlabel="Bits per parameter (hollow: by a formula)",
        ylabel="NMSE of one update",
    )
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def _draw_ratios(axes, compared: Sequence[Mapping]) -> None:
    ends, seen = [], {}
    # This project's symbols were coded with both roundings: the figure has those at random.
    compared = [row for row in compared if "step" not in row or row["rounding"] == "random"]
    for name in dict.fromkeys(row["codec"] for row in compared):
        bits, ratios, _, _ = _means(peers.rows_with(compared, codec=name))
        colour = _colour(name)
        line = _LINES[seen.setdefault(colour, 0) % len(_LINES)]
        seen[colour] += 1
        measured = peers.rows_with(compared, codec=name)[0]["measured"]
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
    ends.append(("ours", peers.MOST_BITS, 1.0, looks.ACCENT))
    top = 1.15 * max(row["ratio"] for row in compared)
    top = min(top, 60)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(peers.LEAST_BITS, 400),
        ylim=(0.8, top),
        title="Bytes over ours at equal distortion",
        xlabel="Our bits per parameter at that distortion, rounding at random",
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
        found: What was measured (`peers.read`).
    """
    figure, (speed, growth, rounds) = plt.subplots(
        1, 3, figsize=(13.5, 4.6), layout="constrained", width_ratios=(1.15, 1, 1.05)
    )
    _draw_speed(speed, peers.rows_with(found["speed"], symbols=peers.DEFAULT_SYMBOLS))
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
        points = peers.rows_with(rows, coder=name)
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
