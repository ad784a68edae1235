"""Names beside points: clear of points, curves and each other, with a leader where one is far."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from fedutils import looks

# All lengths are in points (1/72 inch). Candidate places: how far the end of a name that is next
# to its point is from it, and in how many directions.
_DISTANCES = (8, 14, 21, 29, 38, 48, 60, 74)
_DIRECTIONS = 16
_LEADER_FROM = 10  # A name that is nearer needs no leader.
_STARTS, _SWEEPS = 8, 5


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    texts: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Writes each point's name where it is clear of points, curves, the legend and other names.

    A name that is not right beside its point has a thin leader to it. Call it last: limits, curves,
    the legend and the figure's other panels, on which the size of this one depends, must be final.

    Args:
        axes: Where the points are drawn.
        points: By name, in the axes' units.
        texts: By name, what is different of its text, such as `color`.
    """
    if not points:
        return
    texts = {
        name: {"fontsize": "small", "fontweight": "bold" if name in looks.OWN else "normal"}
        | dict((texts or {}).get(name, {}))
        for name in points
    }
    axes.figure.canvas.draw()
    scale = axes.figure.dpi / 72
    spots = np.array([axes.transData.transform(point) for point in points.values()]) / scale
    names = [
        _Name(spot, *_candidates(spot, _size(axes, name, texts[name], scale)))
        for name, spot in zip(points, spots, strict=True)
    ]
    surroundings = _Surroundings(axes, spots, scale)
    fixed = [surroundings.costs(i, name) for i, name in enumerate(names)]
    chosen = _choose(names, fixed)
    for i, (name, point) in enumerate(points.items()):
        _write(axes, name, point, texts[name], names[i], chosen[i])


@dataclasses.dataclass(frozen=True)
class _Name:
    """A point and the places its name may have.

    spot: float[2].
    boxes: float[k, 4], left, bottom, right and top of the name.
    ends: float[k, 2], the place of the name that is next to the spot.
    alignments: of the text at its end, horizontal and vertical.
    """

    spot: np.ndarray
    boxes: np.ndarray
    ends: np.ndarray
    alignments: list[tuple[str, str]]

    @property
    def distances(self) -> np.ndarray:
        return np.hypot(*(self.ends - self.spot).T)


def _choose(names: Sequence[_Name], fixed: Sequence[np.ndarray]) -> list[int]:
    """Where each name goes: the place of least cost given all others, from the best of some starts.

    Names are placed one after the other, and moved a few times more when all are placed. That ends
    in different arrangements from different orders; the one of least cost in all is taken.
    """

    @functools.cache
    def mutual(i: int, j: int, k: int) -> np.ndarray:
        return _mutual(names[i], names[j], k)

    crowded_first = sorted(range(len(names)), key=lambda i: -np.sort(fixed[i])[:8].mean())
    shuffles = np.random.default_rng(0)
    orders = [crowded_first, *(shuffles.permutation(len(names)) for _ in range(_STARTS - 1))]
    best, least = [0] * len(names), math.inf
    for order in orders:
        chosen: dict[int, int] = {}
        total = 0.0
        for _ in range(_SWEEPS):
            total = 0.0
            for i in map(int, order):
                others = (mutual(i, j, k) for j, k in chosen.items() if j != i)
                cost = sum(others, fixed[i])
                chosen[i] = int(np.argmin(cost))
                total += cost[chosen[i]]
        if total < least:
            best, least = [chosen[i] for i in range(len(names))], total
    return best


def _size(axes: Axes, name: str, look: Mapping, scale: float) -> tuple[float, float]:
    text = axes.text(0, 0, name, **look)
    box = text.get_window_extent()
    text.remove()
    return box.width / scale, box.height / scale


def _candidates(spot: np.ndarray, size: tuple[float, float]):
    boxes, ends, alignments = [], [], []
    for distance in _DISTANCES:
        for angle in 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
            across, up = math.cos(angle), math.sin(angle)
            ha = ("right", "center", "left")[1 + round(1.2 * across)]
            va = ("top", "center", "bottom")[1 + round(1.2 * up)]
            x, y = spot + distance * np.array([across, up])
            left = x - size[0] * {"left": 0, "center": 0.5, "right": 1}[ha]
            bottom = y - size[1] * {"bottom": 0, "center": 0.5, "top": 1}[va]
            boxes.append((left, bottom, left + size[0], bottom + size[1]))
            ends.append((x, y))
            alignments.append((ha, va))
    return np.array(boxes), np.array(ends), alignments


class _Surroundings:
    """What names must keep clear of, other names apart: points, curves, the legend, the edges."""

    def __init__(self, axes: Axes, spots: np.ndarray, scale: float) -> None:
        self.spots = spots
        self.curves = np.concatenate([np.zeros([0, 2]), *_samples(axes, scale)])
        self.edges = np.array(axes.get_window_extent().extents) / scale
        legend = axes.get_legend()
        self.legend = np.array(legend.get_window_extent().extents) / scale if legend else None

    def costs(self, i: int, name: _Name) -> np.ndarray:
        """How bad each place of the i-th name is, whatever the other names do: float[k]."""
        boxes, distances = name.boxes, name.distances
        led = distances > _LEADER_FROM
        cost = 0.6 * distances + 6 * led
        outside = (boxes[:, :2] < self.edges[:2] + 3) | (boxes[:, 2:] > self.edges[2:] - 3)
        cost += 1000 * outside.any(axis=1)
        if self.legend is not None:
            cost += 500 * _overlap(boxes, self.legend)
        for other in np.delete(self.spots, i, axis=0):
            gaps = _distance(boxes, other)
            cost += 300 * (gaps < 6)
            # A name that another point is about as near to seems to be that one's.
            cost += np.where(led, 4, 60) * (gaps < 1.6 * distances)
            # Where the leader begins, a neighbour may be near.
            share = np.linspace(0.35, 1, 7)[:, None, None]
            along = name.spot + share * (name.ends - name.spot)
            passed = np.hypot(*(along - other).T).min(axis=1)
            cost += 150 * (led & (passed < 5))
        if len(self.curves):
            hidden = np.array([_distance(boxes, sample) < 2 for sample in self.curves]).sum(0)
            cost += 25 * (hidden > 0) + 2 * hidden
        return cost


def _samples(axes: Axes, scale: float) -> list[np.ndarray]:
    """Points some three apart on every line that is drawn."""
    samples = []
    for line in axes.get_lines():
        if line.get_linestyle() == "None":
            continue
        at = line.get_transform().transform(np.column_stack(line.get_data())) / scale
        at = at[np.isfinite(at).all(axis=1)]
        for begin, end in itertools.pairwise(at):
            count = int(np.clip(np.hypot(*(end - begin)) / 3, 1, 400))
            samples.append(begin + (end - begin) * np.linspace(0, 1, count + 1)[:, None])
    return samples


def _mutual(name: _Name, other: _Name, k: int) -> np.ndarray:
    """How badly the places of a name go with another one that is at its k-th: float[places]."""
    end = other.ends[k]
    cost = 500.0 * _overlap(name.boxes, other.boxes[k])
    cost += 12 * _overlap(name.boxes, other.boxes[k], 5)  # two that look like one of two lines
    share = np.linspace(0.1, 1, 10)[:, None]
    for at in other.spot + share * (end - other.spot):  # the other's leader through this name
        cost += 60 * (_distance(name.boxes, at) < 2)
    along = name.spot + share[:, None] * (name.ends - name.spot)  # [10, places, 2]
    inside = (along > other.boxes[k, :2] - 2) & (along < other.boxes[k, 2:] + 2)
    cost += 60 * inside.all(axis=2).sum(axis=0)
    return cost + 200 * _cross(name.spot, name.ends, other.spot, end)


def _overlap(boxes: np.ndarray, box: np.ndarray, margin: float = 2.0) -> np.ndarray:
    """Which boxes are nearer to a box than the margin."""
    near = (boxes[:, :2] < box[2:] + margin) & (boxes[:, 2:] > box[:2] - margin)
    return near.all(axis=1)


def _distance(boxes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Distances of boxes from a point, 0 inside."""
    beyond = np.maximum(np.maximum(boxes[:, :2] - at, at - boxes[:, 2:]), 0)
    return np.hypot(*beyond.T)


def _cross(start: np.ndarray, ends: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether the segments from a point to its ends cross the one from a to b."""

    def side(p, q, r):
        return np.sign(
            (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1])
            - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
        )

    apart = side(start, ends, a) * side(start, ends, b) < 0
    return apart & (side(a, b, start) * side(a, b, ends) < 0)


def _write(axes: Axes, name: str, point, look: Mapping, places: _Name, k: int) -> None:
    ha, va = places.alignments[k]
    leader = {
        "arrowstyle": "-",
        "color": look.get("color", "0.45"),
        "linewidth": 0.7,
        "shrinkA": 1,
        "shrinkB": 4,
        "relpos": ({"left": 0, "right": 1}.get(ha, 0.5), {"bottom": 0, "top": 1}.get(va, 0.5)),
    }
    text = axes.annotate(
        name,
        point,
        xytext=tuple(places.ends[k] - places.spot),
        textcoords="offset points",
        ha=ha,
        va=va,
        arrowprops=leader if places.distances[k] > _LEADER_FROM else None,
        **look,
    )
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
