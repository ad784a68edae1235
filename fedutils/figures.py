"""Figures from saved records: nothing here trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedutils import labels, looks
from fedutils.looks import save, style  # noqa: F401 (notebooks take them from here)

LABELS = {
    "test_accuracy": "Test accuracy",
    "test_loss": "Test loss (nats)",
    "round": "Round",
    "cumulative_aggregated_bits": "Aggregated bits so far, all clients",
    "cumulative_broadcast_bits": "Broadcast bits so far, all clients",
    "total_bits": "Bits so far in both directions, all clients",
}


def curve(axes: Axes, records: pd.DataFrame, x: str, y: str) -> None:
    """Draws one metric against rounds or bits, one line per recipe.

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
    for recipe, look in looks.of(list(dict.fromkeys(shown["recipe"]))).items():
        mean = (
            shown[shown["recipe"] == recipe]
            .groupby("round", as_index=False)
            .mean(numeric_only=True)
        )
        every = max(1, len(mean) // 10)
        axes.plot(mean[x], mean[y], markevery=every, markersize=5, label=recipe, **look)
    if x == "round":
        axes.xaxis.set_major_locator(
            matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        )
    else:
        looks.bits_axis(axes)
    if y.endswith("accuracy"):
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.set(xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y))


def _legend_below(figure: Figure, axes: Axes) -> None:
    """Names the recipes under all panels, where no curve can be."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False)


def accuracy_and_loss(records: pd.DataFrame, x: str) -> Figure:
    """Draws test accuracy and test loss side by side.

    Args:
        records: Tidy records of one or more runs (`results.tidy`).
        x: `round`, `cumulative_aggregated_bits`, `cumulative_broadcast_bits` or `total_bits`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axes, metric in zip(panels, ("test_accuracy", "test_loss"), strict=True):
        curve(axes, records, x, metric)
    _legend_below(figure, panels[0])
    return figure


def adaptation(
    records: pd.DataFrame, clients: int, budgets: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Draws what adapts: a client's payload and the quantization step, over rounds.

    Args:
        records: Tidy records of runs whose clients send payloads (`results.tidy`).
        clients: How many there are in a round.
        budgets: By recipe, the budget of `controllers.TargetRate`: bits of a client's payload in
            the first round, and the number of rounds in which they double.
    """
    shown = records[records["payload_bits_sum"] > 0].copy()
    shown["bits"] = shown["payload_bits_sum"] / clients
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    captions = {
        "bits": "Mean payload of a client (bits)",
        "step": "Quantization step\n(in units of the weights)",
    }
    for axes, (column, caption) in zip(panels, captions.items(), strict=True):
        for recipe, look in looks.of(list(dict.fromkeys(shown["recipe"]))).items():
            run = shown[shown["recipe"] == recipe].groupby("round")[column].mean()
            every = max(1, len(run) // 10)
            axes.plot(run.index, run, markevery=every, markersize=5, label=recipe, **look)
        axes.set(xlabel=LABELS["round"], ylabel=caption, yscale="log")
        axes.xaxis.set_major_locator(
            matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        )
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,g}"))
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    for recipe, (first, doubling) in (budgets or {}).items():
        rounds = np.arange(1, shown["round"].max() + 1)
        panels[0].plot(
            rounds,
            first * 2 ** ((rounds - 1) / doubling),
            "--",
            color=looks.of([recipe])[recipe]["color"],
            linewidth=1.3,
            label=f"budget of {recipe}",
        )
    _legend_below(figure, panels[0])
    return figure


def payload_parts(parts: pd.DataFrame) -> Figure:
    """Draws where the bits of payloads go.

    Args:
        parts: One row per payload, named by its index, and one column per part, in bits.
    """
    figure, axes = plt.subplots(figsize=(10, 0.9 + 0.5 * len(parts)), layout="constrained")
    left = np.zeros(len(parts))
    rows = range(len(parts))[::-1]
    for colour, (name, bits) in zip(looks.COLOURS, parts.items(), strict=False):
        axes.barh(rows, bits, left=left, color=colour, label=name, height=0.7)
        for row, start, width in zip(rows, left, bits, strict=True):
            share = width / parts.sum(axis=1).max()
            if share > 0.05:
                axes.text(
                    start + width / 2, row, f"{width:,.0f}", ha="center", va="center", color="white"
                )
        left += bits.to_numpy()
    axes.set_yticks(rows, parts.index)
    axes.set(xlabel="Bits of one client's payload")
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=len(parts.columns), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def bits_by_content(bills: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draws what one client sends and gets in a round, by direction and content.

    Args:
        bills: For each recipe, bits of one client by `direction/content` (`ledger.summary`).
    """
    parts = list(dict.fromkeys(part for bill in bills.values() for part in bill))
    figure, axes = plt.subplots(figsize=(9, 0.75 * len(parts) + 0.8), layout="constrained")
    for offset, (recipe, look) in enumerate(looks.of(list(bills)).items()):
        heights = [row + 0.3 * (offset - (len(bills) - 1) / 2) for row in range(len(parts))]
        bits = [bills[recipe].get(part, np.nan) for part in parts]
        axes.plot(bits, heights, linestyle="", markersize=7, label=recipe, **look)
        for x, y in zip(bits, heights, strict=True):
            if np.isfinite(x):
                axes.annotate(
                    looks.bits_text(x, digits=4),
                    (x, y),
                    textcoords="offset points",
                    xytext=(9, 0),
                    va="center",
                    fontsize="small",
                    color=look["color"],
                )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(looks.bits_formatter)
    axes.set_xticks([2.0**k for k in range(5, 31, 5)])
    axes.set_xlim(2.0**4, 2.0**29)
    axes.set_yticks(range(len(parts)), [part.replace("/", ": ") for part in parts])
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("Bits of one client in one round (logarithmic)")
    axes.legend(title="Recipe", frameon=False, loc="lower right")
    return figure


def digits(clients: Mapping[str, tuple[np.ndarray, np.ndarray]], each: int = 12) -> Figure:
    """Draws some digits of some clients, one row per client.

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
    unbiased: Mapping[str, bool],
    sweeps: Mapping[str, pd.DataFrame],
    entropies: pd.DataFrame,
    bound: Callable[[np.ndarray], np.ndarray],
) -> Figure:
    """Draws each codec's measured rate and distortion, with what theory says beside it.

    Biased codecs are hollow: their errors do not average out over clients, so an equal NMSE does
    more harm than that of unbiased ones. Lossless codecs have no place on the axis and are left
    out.

    Args:
        measured: One row per recipe (`distortion.table`), all of the same update.
        unbiased: By recipe, what its codec declares (`Codec.unbiased`).
        sweeps: By label, one of this project's codecs by step (`distortion.sweep`), of that update.
        entropies: Entropy and NMSE of uniform rounding by step (`distortion.entropy_curve`).
        bound: Gaussian rate-distortion function: rates in bits per parameter to NMSE.
    """
    shown = measured[measured["nmse"] > 1e-9].set_index("recipe")[["bits_per_parameter", "nmse"]]
    figure, axes = plt.subplots(figsize=(10, 6.6), layout="constrained")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.004, 30),
        ylim=(1e-4, 400),
        xlabel="Bits per parameter, measured on payloads",
        ylabel="NMSE of one update",
    )
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    rates = np.geomspace(0.004, 7, 200)
    axes.plot(rates, bound(rates), "--", color="0.25", linewidth=1.3, label="Gaussian bound")
    axes.plot(
        entropies["entropy_bits_per_parameter"],
        entropies["nmse"],
        color="0.6",
        linewidth=1.3,
        label="Entropy of rounding to nearest (an estimate, no payload)",
    )
    for (label, sweep), line in zip(sweeps.items(), ("-", ":"), strict=False):
        axes.plot(sweep["bits_per_parameter"], sweep["nmse"], line, color=looks.ACCENT, label=label)
    kinds = {
        "This project's, unbiased": (True, True),
        "This project's, biased": (True, False),
        "Of the literature, unbiased": (False, True),
        "Of the literature, biased": (False, False),
    }
    for label, kind in kinds.items():
        of_kind = [n for n in shown.index if (n in looks.OWN, bool(unbiased[n])) == kind]
        if of_kind:
            points = shown.loc[of_kind]
            own, right_in_the_mean = kind
            colour = looks.ACCENT if own else looks.COLOURS[0]
            axes.plot(
                points["bits_per_parameter"],
                points["nmse"],
                linestyle="",
                marker="*" if own else "o",
                markersize=16 if own else 7,
                color=colour,
                markerfacecolor=colour if right_in_the_mean else "white",
                markeredgewidth=1.0 if right_in_the_mean else 1.6,
                label=label,
                zorder=3,
            )
    names_at = {}
    for name, point in shown.iterrows():
        names_at.setdefault(tuple(point.round(4)), []).append(name)
    axes.legend(frameon=False, loc="lower left")
    labels.label_points(axes, {", ".join(names): point for point, names in names_at.items()})
    return figure


def by_model(records: pd.DataFrame) -> Figure:
    """Draws test accuracy against what clients send, one panel per model.

    Args:
        records: Tidy records of the same recipes with each model (`results.tidy`).
    """
    names = list(dict.fromkeys(records["model"]))
    figure, panels = plt.subplots(
        1, len(names), figsize=(10, 4.0), layout="constrained", sharey=True, squeeze=False
    )
    for axes, name in zip(panels[0], names, strict=True):
        curve(
            axes, records[records["model"] == name], "cumulative_aggregated_bits", "test_accuracy"
        )
        axes.set(title=name, xlabel="Aggregated bits so far, all clients")
        axes.label_outer()
    _legend_below(figure, panels[0, 0])
    return figure
