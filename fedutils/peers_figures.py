"""The figures of `make bench`: rates and distortions, and times, of others and of this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from fedutils import looks, peers
from fedutils.labels import label_points

_COLOURS = {
    "context": looks.ACCENT,
    "constriction": "#0072B2",
    "tfc": "#009E73",
    "zstd": "#8A6D00",
    "zlib": "#6E6E6E",
    "bz2": "#8C4F2B",
    "FedJAX": "#A0568A",
    "8-bit": "#56B4E9",
    "": "#000000",
}
# Of those of one colour, the ones whose lines are not solid.
_LINES = {"context, nearest": "--", "constriction Huffman": "--", "FedJAX rotated": "--"}
_ALIKE = 1.06
"""Curves that differ nowhere by more than this factor have one name between them."""


def _colour(name: str) -> str:
    return next(colour for start, colour in _COLOURS.items() if name.startswith(start))


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
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 6.8), layout="constrained", width_ratios=(1, 1.45)
    )
    rounds = [str(number) for number in dict.fromkeys(row["round"] for row in rows)]
    figure.supxlabel(
        "Ours: the codec context, by its step; on the right, with the same kind of rounding (at "
        "random or to the nearest) as the codec it is compared with.\nGeometric means over "
        f"{len(rounds)} updates, of one client in rounds {', '.join(rounds)}; on the right, over "
        f"those for which ours takes {peers.LEAST_BITS:g} to {peers.MOST_BITS:g} bits per "
        "parameter.\nHollow markers: the size is by a formula, no payload is made. Dashes set "
        "curves of one colour apart. tfc: tensorflow-compression.",
        fontsize="small",
    )
    named = {
        left: _draw_points(left, rows, parameters),
        right: _draw_ratios(right, peers.compare(rows, parameters)),
    }
    for axes, (points, colours) in named.items():  # when both panels have their final size
        label_points(axes, points, colours, [n for n in points if n.startswith("ours")])
    return figure


_Named = tuple[dict[str, tuple[float, float]], dict[str, str]]
"""Points to name, in the axes' units, and the colours of the names."""


def _draw_points(axes, rows: Sequence[Mapping], parameters: int) -> _Named:
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.006, 150),
        ylim=(1e-7, 2e3),
        title="Rate and distortion",
        xlabel="Bits per parameter",
        ylabel="NMSE",
    )
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    named, colours = {}, {}
    own_names = {"context": "ours, at random", "context, nearest": "ours, to the nearest"}
    for codec in _codecs(rows):
        points = peers.rows_with(rows, codec=codec)
        own = points[0]["own"]
        if "step" in points[0] and not own:
            continue  # those on our symbols have our distortion: they are in the other panel
        _, _, sizes, errors = _means(points)
        order = np.argsort(sizes)
        rates, errors = 8 * sizes[order] / parameters, errors[order]
        _line(axes, codec, rates, errors, points[0])
        name = own_names.get(codec, codec)
        name = "8-bit + zstd, zlib, bz2" if name.startswith("8-bit") else name
        named[name], colours[name] = (rates[0], errors[0]), _colour(codec)
    return named, colours


def _codecs(rows: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(row["codec"] for row in rows))


def _line(axes, codec: str, x: np.ndarray, y: np.ndarray, row: Mapping) -> None:
    """Draws one codec: a line, and points where it has few or its size is by a formula."""
    colour = looks.ACCENT if row["own"] else _colour(codec)
    axes.plot(
        x,
        y,
        _LINES.get(codec, "-"),
        color=colour,
        linewidth=2.6 if row["own"] else 1.6,
        marker="o" if len(x) < 7 and not row["own"] else None,
        markersize=5,
        markerfacecolor=colour if row["measured"] else "white",
        zorder=3 if row["own"] else 2,
    )


def _draw_ratios(axes, compared: Sequence[Mapping]) -> _Named:
    # This project's symbols were coded with both roundings: the figure has those at random.
    compared = [row for row in compared if "step" not in row or row["rounding"] == "random"]
    ratios = [row["ratio"] for row in compared]
    bottom, top = min(0.72, 0.9 * min(ratios)), min(1.4 * max(ratios), 70)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(1.4e-4, 6 * peers.MOST_BITS),
        ylim=(bottom, top),
        title="Bytes over ours at equal distortion",
        xlabel="Bits per parameter of ours at that distortion",
        ylabel="Times our bytes (below 1: fewer than ours)",
    )
    axes.set_xticks([0.02, 0.1, 0.5, 2, 8])
    axes.set_yticks(
        [tick for tick in (0.5, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 50) if bottom <= tick <= top]
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    points = {codec: peers.rows_with(compared, codec=codec) for codec in _codecs(compared)}
    curves = {codec: _means(rows)[:2] for codec, rows in points.items()}
    axes.axhline(1, color=looks.ACCENT, linewidth=2.6, zorder=3)
    begins, named, colours = {"ours": (peers.LEAST_BITS, 1.0)}, {}, {"ours": looks.ACCENT}
    for group in _alike(curves):
        name, (bits, ratios) = _joined(group), curves[group[0]]
        _line(axes, group[0], bits, ratios, points[group[0]][0])
        colours[name] = _colour(group[0])
        if bits[0] < 1.5 * peers.LEAST_BITS:
            begins[name] = bits[0], ratios[0]
        else:
            at = len(bits) // 2
            named[name] = bits[at], ratios[at]
    _label_beginnings(axes, begins, colours)
    return named, colours


def _alike(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[list[str]]:
    """Groups those whose curves coincide (`_ALIKE`)."""
    groups: list[list[str]] = []
    for name, (bits, ratios) in curves.items():
        for group in groups:
            first_bits, first_ratios = curves[group[0]]
            if len(bits) == len(first_bits) and np.allclose(bits, first_bits, rtol=0.01):
                factors = ratios / first_ratios
                if max(factors.max(), 1 / factors.min()) < _ALIKE:
                    group.append(name)
                    break
        else:
            groups.append([name])
    return groups


def _joined(names: Sequence[str]) -> str:
    """Names in one: what a name has in common with the one before it is not written again."""
    text, before = names[0], names[0].rpartition(" ")[0]
    for name in names[1:]:
        start, _, end = name.rpartition(" ")
        text += f", {end}" if start == before else f"; {name}"
        before = start
    return text


def _label_beginnings(
    axes, begins: Mapping[str, tuple[float, float]], colours: Mapping[str, str]
) -> None:
    """Names curves left of where they begin, in the curves' order, with leaders."""
    names = sorted(begins, key=lambda name: begins[name][1])
    low, high = np.log(axes.get_ylim())
    places = looks.spread(np.log([begins[name][1] for name in names]), (high - low) / 26)
    for name, place in zip(names, np.exp(places), strict=True):
        x, y = begins[name]
        colour = colours[name]
        axes.plot([0.72 * peers.LEAST_BITS, x], [place, y], color=colour, linewidth=0.7, zorder=1)
        text = axes.text(
            0.68 * peers.LEAST_BITS,
            place,
            name,
            fontsize="small",
            ha="right",
            va="center",
            color=colour,
            fontweight="bold" if name.startswith("ours") else "normal",
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def times(found: Mapping) -> Figure:
    """Draws speed, growth and the time of a round.

    Args:
        found: What was measured (`peers.read`).
    """
    figure, (speed, growth, rounds) = plt.subplots(
        1, 3, figsize=(13.5, 4.6), layout="constrained", width_ratios=(1.15, 1, 1.05)
    )
    _draw_speed(speed, peers.rows_with(found["speed"], symbols=peers.DEFAULT_SYMBOLS))
    _draw_rounds(rounds, found["round_time"])
    _draw_growth(growth, found["growth"])
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
    axes.set(
        title="The default recipe's symbols",
        xlabel="ms to encode (dark) and to decode;\nbeside the bars, both in one go",
    )
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
        labels[f"{label},\n{points[-1]['peak_memory_mib'] / 1024:.1f} GiB at most"] = (
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
    axes.set_xlim(low, high * 1000)
    axes.set_xticks([10.0**k for k in range(4, 9)])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    label_points(axes, labels)


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
