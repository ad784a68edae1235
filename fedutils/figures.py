"""Figures from saved records: nothing here trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from fedutils.units import format_bits

# Okabe and Ito's palette, which colour-blind readers can tell apart; yellow is left out, as it
# is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Recipes of this project, set off from those of the literature.
OWN = ("default",)

LABELS = {
    "test_accuracy": "Test accuracy",
    "test_loss": "Test loss (nats)",
    "round": "Round",
    "cumulative_aggregated_bits": "Aggregated bits so far (clients to server, all clients)",
    "cumulative_broadcast_bits": "Broadcast bits so far (server to clients, all clients)",
    "total_bits": "Bits so far in both directions (all clients)",
}


def style() -> None:
    """Sets the look of all figures; also makes SVG files the same every time."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.95)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.35,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "svg.hashsalt": "fedutils",
            "svg.fonttype": "none",
        }
    )


def looks(recipes: list[str]) -> dict[str, dict[str, str]]:
    """Returns colour and marker of each recipe, in the order given."""
    return {
        name: {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        for i, name in enumerate(recipes)
    }


def curve(axes: Axes, records: pd.DataFrame, x: str, y: str) -> None:
    """Draws one metric against rounds or bits, a line per recipe, labelled at its end.

    Args:
        axes: Where to draw.
        records: Tidy records (`results.tidy`); rows without `y` are left out.
        x: Column of the horizontal axis; bits get a logarithmic one.
        y: Column of the vertical axis.
    """
    shown = records.dropna(subset=[y]).copy()
    shown["total_bits"] = shown["cumulative_aggregated_bits"] + shown["cumulative_broadcast_bits"]
    if x != "round":
        shown = shown[shown[x] > 0]  # nothing was sent before round 1
    for recipe, look in looks(list(dict.fromkeys(shown["recipe"]))).items():
        mean = (
            shown[shown["recipe"] == recipe]
            .groupby("round", as_index=False)
            .mean(numeric_only=True)
        )
        every = max(1, len(mean) // 10)
        axes.plot(mean[x], mean[y], markevery=every, markersize=5, label=recipe, **look)
    if x != "round":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, numticks=6))
        axes.xaxis.set_major_formatter(_bits_formatter)
    if y.endswith("accuracy"):
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    axes.set(xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y))


@matplotlib.ticker.FuncFormatter
def _bits_formatter(bits: float, _: int) -> str:
    for unit in ("", "Ki", "Mi", "Gi"):
        if bits < 1024:
            return f"{bits:g} {unit}bit"
        bits /= 1024
    return f"{bits:g} Tibit"


def accuracy_and_loss(records: pd.DataFrame, x: str) -> Figure:
    """Draws test accuracy and test loss side by side.

    Args:
        records: Tidy records of one or more runs (`results.tidy`).
        x: `round`, `cumulative_aggregated_bits`, `cumulative_broadcast_bits` or `total_bits`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axes, metric in zip(panels, ("test_accuracy", "test_loss"), strict=True):
        curve(axes, records, x, metric)
    panels[0].legend(title="Recipe", frameon=False)
    return figure


def bits_by_content(bills: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draws what one client sends and gets in a round, by direction and content.

    Args:
        bills: For each recipe, bits of one client by `direction/content` (`ledger.summary`).
    """
    parts = list(dict.fromkeys(part for bill in bills.values() for part in bill))
    figure, axes = plt.subplots(figsize=(9, 0.75 * len(parts) + 0.8), layout="constrained")
    for offset, (recipe, look) in enumerate(looks(list(bills)).items()):
        heights = [row + 0.3 * (offset - (len(bills) - 1) / 2) for row in range(len(parts))]
        bits = [bills[recipe].get(part, np.nan) for part in parts]
        axes.plot(bits, heights, linestyle="", markersize=7, label=recipe, **look)
        for x, y in zip(bits, heights, strict=True):
            if np.isfinite(x):
                axes.annotate(
                    format_bits(x),
                    (x, y),
                    textcoords="offset points",
                    xytext=(9, 0),
                    va="center",
                    fontsize="small",
                    color=look["color"],
                )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_bits_formatter)
    axes.set_xticks([2.0**k for k in range(5, 31, 5)])
    axes.set_xlim(2.0**4, 2.0**29)
    axes.set_yticks(range(len(parts)), [part.replace("/", ": ") for part in parts])
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("Bits of one client in one round (logarithmic)")
    axes.legend(title="Recipe", frameon=False, loc="lower right")
    return figure


def digits(clients: Mapping[str, tuple[np.ndarray, np.ndarray]], each: int = 12) -> Figure:
    """Draws some digits of some clients, a row a client.

    Args:
        clients: For each client, images float32[n, 28, 28, 1] and labels int32[n].
        each: Digits shown of each client, at most.
    """
    figure, rows = plt.subplots(
        len(clients), 1, figsize=(7.5, 0.62 * len(clients)), layout="constrained", squeeze=False
    )
    for axes, (name, (images, _)) in zip(rows[:, 0], clients.items(), strict=True):
        strip = np.ones([28, 28 * each])
        chosen = images[:each, ..., 0]
        strip[:, : 28 * len(chosen)] = np.concatenate(list(chosen), axis=1)
        axes.imshow(strip, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return figure


def labels_by_client(labels: Mapping[str, np.ndarray], classes: int) -> Figure:
    """Draws how many examples of each label each client has, as a heat map.

    Args:
        labels: For each client, int32[n].
        classes: Number of labels.
    """
    counts = np.stack([np.bincount(of_client, minlength=classes) for of_client in labels.values()])
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    sns.heatmap(counts.T, cmap="crest", ax=axes, xticklabels=False, cbar_kws={"label": "Examples"})
    axes.invert_yaxis()
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel=f"{len(labels)} clients", ylabel="Label")
    return figure


def rate_distortion(
    measured: pd.DataFrame,
    sweeps: Mapping[str, pd.DataFrame],
    entropies: pd.DataFrame,
    bound: Callable[[np.ndarray], np.ndarray],
) -> Figure:
    """Draws each codec's measured rate and distortion, with what theory says beside it.

    Args:
        measured: A row a recipe and update (`distortion.table`); their geometric mean is drawn.
        sweeps: By label, one of this project's codecs by step (`distortion.sweep`).
        entropies: Entropy and NMSE of uniform rounding by step (`distortion.entropy_curve`).
        bound: Gaussian rate-distortion function: rates in bits a parameter to NMSE.
    """
    logs = measured.set_index("recipe")[["bits_per_parameter", "nmse"]]
    logs = np.log(logs.clip(lower=1e-16))
    points = np.exp(logs.groupby("recipe", sort=False).mean())
    shown = points[points["nmse"] > 1e-9]  # lossless codecs have no place on this axis
    figure, axes = plt.subplots(figsize=(10, 6.6), layout="constrained")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.004, 30),
        ylim=(1e-4, 400),
        xlabel="Bits a parameter, measured on payloads",
        ylabel="NMSE of one update (geometric mean)",
    )
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    rates = np.geomspace(0.004, 7, 200)
    axes.plot(rates, bound(rates), "--", color="0.25", linewidth=1.3, label="Gaussian bound")
    axes.plot(
        entropies["entropy_bits_per_parameter"],
        entropies["nmse"],
        color="0.6",
        linewidth=1.3,
        label="Entropy of uniform rounding (an estimate, no payload)",
    )
    for (label, sweep), line in zip(sweeps.items(), ("-", ":"), strict=False):
        axes.plot(sweep["bits_per_parameter"], sweep["nmse"], line, color=_COLOURS[1], label=label)
    for name, (rate, nmse) in shown.iterrows():
        own = name in OWN
        axes.plot(
            rate,
            nmse,
            marker="*" if own else "o",
            markersize=16 if own else 7,
            color=_COLOURS[1] if own else _COLOURS[0],
        )
    names_at = {}
    for name, point in shown.iterrows():
        names_at.setdefault(tuple(point.round(4)), []).append(name)
    _label_points(axes, {", ".join(names): point for point, names in names_at.items()})
    axes.legend(frameon=False, loc="lower left")
    return figure


# Where a label may stand about its point, in points and alignments, in order of preference.
_PLACES = [
    (dx, dy, ha, va)
    for distance in (1.0, 2.2, 3.6, 5.0)
    for dx, dy, ha, va in (
        (8, 0, "left", "center"),
        (-8, 0, "right", "center"),
        (0, 8, "center", "bottom"),
        (0, -8, "center", "top"),
        (7, 7 * distance, "left", "bottom"),
        (7, -7 * distance, "left", "top"),
        (-7, 7 * distance, "right", "bottom"),
        (-7, -7 * distance, "right", "top"),
    )
]


def _label_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes each point's name beside it, clear of other points and names if there is room."""
    figure = axes.figure
    figure.canvas.draw()
    spots = np.array([axes.transData.transform(point) for point in points.values()])
    taken = [matplotlib.transforms.Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in spots]
    for name, point in points.items():
        for place, (dx, dy, ha, va) in enumerate(_PLACES, start=1):
            text = axes.annotate(
                name,
                point,
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize="small",
                fontweight="bold" if name in OWN else "normal",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6}
                if abs(dy) > 8
                else None,
            )
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
            box = text.get_window_extent().expanded(1.02, 1.1)
            if place == len(_PLACES) or not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        taken.append(box)


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Saves a figure as PNG and as SVG, without dates so that equal figures are equal files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
