"""The race's figures, from its records and tables alone: what accuracy costs in bits and time."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedutils import looks
from fedutils.units import format_factor

_ACCURACY = "Test accuracy (axis logarithmic in the error)"
_DIRECTIONS = {"uplink": "Uplink", "total": "Both directions"}
_COMPRESSED = 0.9  # of the greatest broadcast: what is below has a compressed one
_BACKGROUND = {"color": "0.87", "linewidth": 0.8, "zorder": 0}


def curves(records: pd.DataFrame) -> Figure:
    """Draws test accuracy against the bits so far, of the uplink and of both directions.

    Lines are means over seeds, bands reach from the least to the greatest. The vertical axis is
    logarithmic in the error, so that the last points of accuracy, which cost most, have room.

    Args:
        records: Tidy records (`standings.records`) of one data set.
    """
    shown, floor, top = _shown(records)
    figure, panels = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained", sharey=True)
    look_of = looks.of(list(dict.fromkeys(shown["recipe"])))
    _panel(panels[0], "Uplink", shown, look_of, "uplink", floor, top)
    _both_directions(panels[1], shown, look_of, floor, top)
    panels[0].set_ylabel(_ACCURACY)
    _key(figure, shown["recipe"])
    return figure


def families(records: pd.DataFrame) -> Figure:
    """Draws `curves` of many recipes: a panel of the uplink for each kind of compression.

    Recipes of other panels are grey there. The last panel has both directions.

    Args:
        records: Tidy records (`standings.records`) of one data set.
    """
    shown, floor, top = _shown(records)
    look_of = looks.of(list(dict.fromkeys(shown["recipe"])))
    kinds: dict[str, list[str]] = {}
    for name in sorted(look_of, key=looks.kind, reverse=True):  # this project's first
        kinds.setdefault(looks.kind(name).removeprefix("adaptive "), []).append(name)
    compared = kinds.pop(looks.kind("none"), [])
    count = -(-(len(kinds) + 1) // 2)
    height = 2.9 + 0.06 * max(map(len, look_of))  # with the names above a panel
    figure, panels = plt.subplots(
        count, 2, figsize=(11, height * count), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (kind, names) in zip(panels.flat, kinds.items(), strict=False):
        for name, of_recipe in shown.groupby("recipe"):
            if name not in (*names, *compared):
                means = of_recipe.groupby("round")[["uplink", "test_accuracy"]].mean()
                axes.plot(means["uplink"], means["test_accuracy"], **_BACKGROUND)
        some = shown[shown["recipe"].isin([*names, *compared])]
        _panel(axes, kind[0].upper() + kind[1:], some, look_of, "uplink", floor, top)
    _both_directions(panels.flat[len(kinds)], shown, look_of, floor, top)
    for axes in panels.flat[len(kinds) + 1 :]:
        axes.set_visible(False)
    figure.supylabel(_ACCURACY, fontsize="medium")
    return figure


def _panel(
    axes: Axes,
    title: str,
    shown: pd.DataFrame,
    look_of: Mapping[str, Mapping[str, str]],
    column: str,
    floor: float,
    top: float,
    unnamed: Collection[str] = (),
) -> None:
    """Draws recipes, and names them but for some."""
    ends = {
        name: _line(axes, name, of_recipe.groupby("round"), column, look_of[name], floor)
        for name, of_recipe in shown.groupby("recipe", sort=False)
    }
    looks.bits_axis(axes)
    _error_axis(axes, floor, top)
    axes.text(0.02, 0.98, title, transform=axes.transAxes, fontweight="bold", va="top")
    across = f"Bits so far, {_DIRECTIONS[column].lower()}, all clients"
    named = {name: end for name, end in ends.items() if name not in unnamed}
    if below := [name for name, end in named.items() if not end]:
        text = f"(always below {100 * floor:g} %: {', '.join(below)})"
        across += "\n" + textwrap.fill(text, 72, break_on_hyphens=False)
    axes.set_xlabel(across)
    _label_above(axes, {name: end for name, end in named.items() if end}, look_of)


def _both_directions(
    axes: Axes, shown: pd.DataFrame, look_of: Mapping, floor: float, top: float
) -> None:
    """Draws the panel in which what compresses the uplink alone is close together, and unnamed."""
    broadcast = shown.groupby("recipe")["cumulative_broadcast_bits"].max()
    alone = set(broadcast.index[broadcast > _COMPRESSED * broadcast.max()]) - {"none"}
    _panel(axes, "Both directions", shown, look_of, "total", floor, top, alone)
    begin = shown[shown["recipe"].isin(alone) & (shown["test_accuracy"] >= floor)]["total"].min()
    if alone and begin == begin:
        axes.annotate(
            "uplink\nalone\ncompressed",
            (begin, 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
            color="0.2",
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            zorder=6,
        )


def _shown(records: pd.DataFrame) -> tuple[pd.DataFrame, float, float]:
    """Evaluated rounds with the bits of both panels, and the axis of accuracy's ends."""
    shown = records.dropna(subset=["test_accuracy"])
    shown = shown[shown["round"] > 0].rename(columns={"cumulative_aggregated_bits": "uplink"})
    shown["total"] = shown["uplink"] + shown["cumulative_broadcast_bits"]
    best = shown.groupby(["recipe", "round"])["test_accuracy"].mean().max()
    return shown, 0.85 if best > 0.9 else 0.0, min(best + 0.2 * (1 - best), 0.9999)


def _key(figure: Figure, recipes: Iterable[str], lines: Sequence[plt.Line2D] = ()) -> None:
    """Says below the panels what the colours of the literature mean, and some lines."""
    kinds = looks.kinds(recipes)
    handles = [
        plt.Line2D([], [], color=colour, linewidth=2, label=kind) for kind, colour in kinds.items()
    ]
    if handles:
        figure.legend(
            handles=[*lines, *handles],
            loc="outside lower center",
            ncols=5,
            frameon=False,
            fontsize=9,
        )


def _line(
    axes: Axes, recipe: str, seeds, column: str, look: Mapping[str, str], floor: float
) -> tuple[float, float] | None:
    """Draws one recipe; returns where its line is last seen above the floor, if at all."""
    x, y = seeds[column].mean(), seeds["test_accuracy"].mean()
    own = looks.is_own(recipe) or recipe == "none"
    axes.fill_between(
        x,
        seeds["test_accuracy"].min(),
        seeds["test_accuracy"].max(),
        color=look["color"],
        alpha=0.18,
        linewidth=0,
        zorder=3 if own else 1,
    )
    axes.plot(
        x,
        y,
        label=recipe,
        markevery=[-1],
        markersize=6 if own else 5,
        linewidth=1.9 if own else 0.9,
        zorder=4 if own else 2,
        **look,
    )
    seen = y >= floor
    return (x[seen].iloc[-1], y[seen].iloc[-1]) if seen.any() else None


def _error_axis(axes: Axes, least: float, greatest: float) -> None:
    axes.set_yscale(
        "function",
        functions=(
            lambda accuracy: -np.log10(np.clip(1 - np.asarray(accuracy), 1e-6, None)),
            lambda value: 1 - 10 ** -np.asarray(value, float),
        ),
    )
    coarse = [0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995]
    fine = [*coarse, 0.94, 0.965, 0.9725, 0.975, 0.9775]
    shown = [[tick for tick in ticks if least <= tick <= greatest] for ticks in (coarse, fine)]
    ticks = shown[0] if len(shown[0]) > 3 else sorted(shown[1])
    axes.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_ylim(least, greatest)


def _label_above(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    look_of: Mapping[str, Mapping[str, str]],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Names recipes above the axes, side by side, each with a thin leader from its point.

    Args:
        axes: Whose limits are final.
        points: By recipe, in the axes' units.
        look_of: By recipe (`looks.of`).
        notes: What is to follow a recipe's name.
    """
    if not points:
        return
    notes = notes or {}
    axes.figure.canvas.draw()
    order = sorted(points, key=lambda name: points[name])
    to_axes = axes.transData + axes.transAxes.inverted()
    at = np.array([to_axes.transform(points[name]) for name in order])
    width = 10.5 * axes.figure.dpi / 72 / axes.get_window_extent().width  # of a line of text
    places = looks.spread(at[:, 0], width)
    places -= max(0.0, places[-1] - 1.0)
    for name, point, place in zip(order, at, places, strict=True):
        axes.plot(
            [point[0], place, place],
            [point[1], 1.01, 1.03],
            transform=axes.transAxes,
            color=look_of[name]["color"],
            linewidth=0.6,
            alpha=0.8,
            clip_on=False,
            zorder=1,
        )
        axes.text(
            place,
            1.04,
            name + notes.get(name, ""),
            transform=axes.transAxes,
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8.5,
            fontweight="bold" if looks.is_own(name) else "normal",
            color="0.15",
        )


def bits_to_target(rows: Sequence[Mapping], targets: Sequence[float]) -> Figure:
    """Draws what each recipe sent until it reached each target, who saves most of the uplink first.

    Args:
        rows: Rows of the race's table, and of its references, of one data set
            (`standings.compute`).
        targets: Accuracies, as fractions, in rising order; the last one has a bar.
    """
    last = f"{100 * targets[-1]:g}"
    # By what is saved with the same seeds, as bits depend on which seeds there are.
    rows = sorted(rows, key=lambda row: row[f"uplink_ratio_{last}"] or 0)
    look_of = looks.of([row["name"] for row in rows])
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 1.4 + 0.27 * len(rows)), layout="constrained", sharey=True
    )
    markers = ("|", "d", "o")[-len(targets) :]
    for axes, (kind, title) in zip(panels, _DIRECTIONS.items(), strict=True):
        all_bits = [row[f"{kind}_bits_{100 * target:g}"] for row in rows for target in targets]
        begin = 0.5 * min(filter(None, all_bits), default=1.0)
        for place, row in enumerate(rows):
            colour = look_of[row["name"]]["color"]
            after = begin  # which is where text stands
            for marker, target in zip(markers, targets, strict=True):
                bits = row[f"{kind}_bits_{100 * target:g}"]
                if bits:
                    axes.plot(bits, place, marker, color=colour, markersize=6, zorder=3)
                    after = bits
            reached = row[f"{kind}_bits_{last}"]
            if reached:
                axes.barh(
                    place,
                    reached - begin,
                    left=begin,
                    height=0.62,
                    color=colour,
                    alpha=0.3,
                )
            ratio = row[f"{kind}_ratio_{last}"]
            text = f"÷ {format_factor(ratio)}" if ratio and row["name"] != "none" else ""
            if not reached:
                some, seeds = row[f"seeds_reached_{last}"], len(row["seeds"])
                text = f"{last} %: {some} of {seeds} seeds" if some else f"{last} % not reached"
            axes.annotate(
                text,
                (after, place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color="0.2" if reached else "0.45",
            )
        looks.bits_axis(axes)
        axes.set_xlim(begin, axes.get_xlim()[1] * 4)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, numticks=4))
        axes.set(
            title=title, xlabel="Bits until the target (÷: times fewer),\non a logarithmic axis"
        )
    _name_rows(panels[0], [row["label"] for row in rows])
    handles = [
        plt.Line2D([], [], linestyle="", marker=m, color="0.3", label=f"{100 * t:g} % accuracy")
        for m, t in zip(markers, targets, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    return figure


def frontier(rows: Sequence[Mapping], references: Sequence[Mapping] = ()) -> Figure:
    """Draws the accuracy at the end against the uplink's bits per parameter.

    Recipes without all the reference's seeds are hollow, and a dotted line has the reference with
    theirs.

    Args:
        rows: Rows of the race's table of one data set (`standings.compute`).
        references: Its references, with fewer seeds.
    """
    # Names stand above the axes: the longer ones need a higher figure.
    height = 5.6 + 0.1 * max(0, max(len(row["name"]) for row in rows) - 24)
    figure, axes = plt.subplots(figsize=(11, height), layout="constrained")
    best = max(row["final_accuracy"] for row in rows)
    # Recipes far below the others are drawn at the lower end, with their accuracy beside them.
    near = [a for row in rows if (a := row["final_accuracy"]) >= 1 - 2.5 * (1 - best)]
    low = min(near) - 0.1 * (1 - min(near))
    look_of = looks.of([row["name"] for row in rows])
    points, notes = {}, {}
    for row in rows:
        points[row["name"]] = row["bits_per_parameter"], max(row["final_accuracy"], low)
        below = row["final_accuracy"] < low
        look = look_of[row["name"]] | ({"marker": 7} if below else {})
        axes.plot(
            *points[row["name"]],
            linestyle="",
            markersize=10 if looks.is_own(row["name"]) else 7,
            clip_on=False,
            **look | ({} if row["label"] == row["name"] else {"markerfacecolor": "white"}),
        )
        if below:
            notes[row["name"]] = f" ({100 * row['final_accuracy']:.1f} %)"
    for row in [*(row for row in rows if row["name"] == "none"), *references]:
        whole = row["label"] == row["name"]
        axes.axhline(
            row["final_accuracy"],
            color="0.4",
            linewidth=1,
            linestyle="--" if whole else ":",
            label=row["label"] + ("" if whole else ", for hollow markers"),
            zorder=0,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("Uplink bits per parameter, client and round")
    axes.set_ylabel("Test accuracy at the end (axis logarithmic in the error)")
    _error_axis(axes, low, best + 0.15 * (1 - best))
    _label_above(axes, points, look_of, notes)
    lines = axes.get_legend_handles_labels()[0]
    _key(figure, [row["name"] for row in rows], lines if references else [])
    return figure


def time_to_accuracy(times: pd.DataFrame, target: float) -> Figure:
    """Draws how long each recipe takes to the target, one panel per link, in parts.

    Args:
        times: A row a link and recipe: `link`, `recipe`, how many `seeds` it has and how many
            `reached` the target, and seconds of `download`, `compute` and `upload` until then
            (`links.table`); missing unless all did.
        target: An accuracy, as a fraction.
    """
    parts = {"download": "#56B4E9", "compute": "#999999", "upload": "#D55E00"}
    links_ = list(dict.fromkeys(times["link"]))
    recipes = list(dict.fromkeys(times["recipe"]))[::-1]
    figure, panels = plt.subplots(
        1,
        len(links_),
        figsize=(11, 1.5 + 0.27 * len(recipes)),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, link in zip(panels[0], links_, strict=True):
        table = times[times["link"] == link].set_index("recipe").loc[recipes]
        left = np.zeros(len(recipes))
        for part, colour in parts.items():
            minutes = table[part].to_numpy(float) / 60
            axes.barh(
                range(len(recipes)),
                minutes,
                left=left,
                color=colour,
                edgecolor="none",
                label=part,
                height=0.7,
            )
            left += np.nan_to_num(minutes)
        for place, (total, row) in enumerate(zip(left, table.to_dict("records"), strict=True)):
            text = f" {total:,.{0 if total >= 99.5 else 1}f}"
            if row["reached"] < row["seeds"]:
                text = (
                    f" {row['reached']} of {row['seeds']} seeds"
                    if row["reached"]
                    else " not reached"
                )
            axes.text(total, place, text, va="center", fontsize=8.5, color="0.2")
        axes.set(title=link, xlabel=f"Minutes to {100 * target:g} %")
        axes.set_xlim(0, 1.3 * max(left.max(), 1e-9))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        axes.grid(axis="y", visible=False)
    _name_rows(panels[0][0], recipes)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3, frameon=False)
    return figure


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Names the rows of a chart of bars, the lowest first; this project's recipes in bold."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    for text in axes.get_yticklabels():
        own = looks.is_own(text.get_text().split(" (")[0])
        text.set_fontweight("bold" if own else "normal")
