"""The look of all figures: one colour and marker a recipe everywhere, labels clear of each other.

Figures do not depend on what a machine has: fonts are matplotlib's own, settings are ours, and
files carry no dates. Equal records give equal files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.isotonic import isotonic_regression

# Okabe and Ito's palette, which colour-blind readers can tell apart; yellow is left out, as it is
# faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ACCENT = "#D55E00"

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

# This project's recipes have a strong colour each, those of the literature a muted one a kind of
# compression and a marker each; what is compared with is black.
_PROJECT = {
    "adaptive": ("#D55E00", "o"),
    "two-way": ("#009E73", "s"),
    "adaptive-fine": ("#E69F00", "^"),
    "adaptive-fixed": ("#56B4E9", "v"),
    "adaptive-fixed-fine": ("#56B4E9", "^"),
    "adaptive-frozen": ("#56B4E9", "s"),
    "default": ("#CC79A7", "D"),
    "context": ("#CC79A7", "P"),
}
OWN = tuple(_PROJECT)
_LITERATURE = {
    "#000000": ("none", "identity"),
    "#0072B2": ("tff-compression", "study", "study-huffman"),
    "#7F8FB5": (
        "qsgd",
        "terngrad",
        "mitchell",
        "1-bit-sgd",
        "3lc",
        "natural",
        "nuqsgd",
        "lloyd-max",
    ),
    "#79AD9B": ("drive", "eden1", "eden2", "eden4", "rotated"),
    "#BFA267": ("top-k", "threshold", "random-k"),
    "#A988AC": ("adaquantfl", "dadaquant"),
}
_UNKNOWN = "#8C4F2B"


def style() -> None:
    """Sets the look of all figures."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.95)
    plt.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "mathtext.fontset": "dejavusans",
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
    _use_own_fonts()


def _use_own_fonts() -> None:
    """Forgets the machine's fonts, and what a cache says of them, for those matplotlib brings."""
    manager = font_manager.fontManager
    manager.ttflist = []
    for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        manager.addfont(path)


def of(recipes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns colour and marker of each recipe, the same in every figure.

    Recipes that this package does not have are brown and told apart by their markers.
    """
    known = dict(_PROJECT) | {
        name: (colour, marker)
        for colour, names in _LITERATURE.items()
        for name, marker in zip(names, _MARKERS, strict=False)
    }
    others = (name for name in recipes if name not in known)
    known |= {name: (_UNKNOWN, _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(others)}
    return {name: dict(zip(("color", "marker"), known[name], strict=True)) for name in recipes}


@matplotlib.ticker.FuncFormatter
def bits_formatter(bits: float, _: int) -> str:
    """Writes a tick's number of bits with a binary prefix."""
    for unit in ("", "Ki", "Mi", "Gi"):
        if bits < 1024:
            return f"{bits:g} {unit}bit"
        bits /= 1024
    return f"{bits:g} Tibit"


def bits_axis(axes: Axes) -> None:
    """Makes the horizontal axis one of bits: logarithmic, ticks at powers of two."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, numticks=5))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(bits_formatter)


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


def label_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
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


def spread(wanted: np.ndarray, least: float) -> np.ndarray:
    """Moves positions apart until neighbours have a least distance, each as little as can be.

    Args:
        wanted: Where each would be, float[n] in rising order.
        least: Distance of neighbours.

    Returns:
        Positions float[n] in the same order, of least squared distance to the wanted ones.
    """
    # Distances of at least `least` are monotony of x - i * least.
    offsets = least * np.arange(len(wanted))
    return isotonic_regression(np.asarray(wanted, float) - offsets) + offsets


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Saves a figure as PNG and as SVG, without dates so that equal figures are equal files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
