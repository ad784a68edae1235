"""Names beside points: clear of points, curves, the legend and each other, with leaders."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import textalloc
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from fedutils import looks


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    colours: Mapping[str, str] | None = None,
    bold: Collection[str] = looks.OWN,
) -> None:
    """Writes each point's name where it is clear of points, curves, the legend and other names.

    Call it last: limits, curves, the legend and the figure's other panels, on which the size of
    this one depends, must be final.

    Args:
        axes: Where the points are drawn, as lines without a line style.
        points: By name, in the axes' units.
        colours: By name, if not dark grey.
        bold: The names that are.
    """
    if not points:
        return
    axes.figure.canvas.draw()
    # Where points are close, those in the middle have the fewest places left: they choose first.
    at = axes.transAxes.inverted().transform(axes.transData.transform([*points.values()]))
    crowding = np.exp(-((np.linalg.norm(at[:, None] - at, axis=2) / 0.1) ** 2)).sum(1)
    names = [name for _, name in sorted(zip(-crowding, points, strict=True))]
    markers = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
    # In pixels first, as a line across the axes has other units.
    curves = [
        line.get_transform().transform(np.column_stack(line.get_data()))
        for line in axes.get_lines()
        if line not in markers
    ]
    if legend := axes.get_legend():
        curves.append(_hatched(legend.get_window_extent()))
    curves = [axes.transData.inverted().transform(curve) for curve in curves]
    spots = np.concatenate([[*points.values()], *(np.column_stack(m.get_data()) for m in markers)])
    textalloc.allocate(
        axes,
        *zip(*(points[name] for name in names), strict=True),
        names,
        x_scatter=spots[:, 0],
        y_scatter=spots[:, 1],
        x_lines=[curve[:, 0] for curve in curves],
        y_lines=[curve[:, 1] for curve in curves],
        textsize=10,
        textcolor=[(colours or {}).get(name, "0.15") for name in names],
        fontweight=["bold" if name in bold else "normal" for name in names],
        linecolor=[(colours or {}).get(name, "0.45") for name in names],
        linewidth=0.7,
        margin=0.004,
        min_distance=0.01,
        max_distance=0.3,
        nbr_candidates=2000,
        avoid_label_lines_overlap=True,
        avoid_crossing_label_lines=True,
    )


def _hatched(box: Bbox) -> np.ndarray:
    """A line back and forth across a box: float[2k, 2]."""
    return np.array([(x, y) for y in np.linspace(box.y0, box.y1, 12) for x in (box.x0, box.x1)])
