"""The look of all figures: one colour and one marker per recipe, the same everywhere.

Figures do not depend on what a machine has: fonts are matplotlib's own, settings are ours, and
files carry no dates. Equal records give equal files.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

from fedutils import results

# Okabe and Ito's palette, which colour-blind readers can distinguish; yellow is left out, as it is
# faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ACCENT = "#D55E00"

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "*")

# Each of this project's recipes has a strong colour. Those of the literature have one muted colour
# per kind of compression, and one marker per recipe. What is compared with is black.
_PROJECT = {
    "adaptive": ("#D55E00", "o"),
    "two-way": ("#009E73", "s"),
    "adaptive-fine": ("#E69F00", "^"),
    "backward": ("#882255", "X"),
    "adaptive-scheduled": ("#332288", "D"),
    "adaptive-fixed": ("#56B4E9", "v"),
    "adaptive-fixed-fine": ("#56B4E9", "^"),
    "adaptive-frozen": ("#777777", "s"),
    "adaptive-frozen-fine": ("#777777", "p"),
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
        "qsgd-coarse",
    ),
    "#79AD9B": ("drive", "eden1", "eden2", "eden4", "rotated", "caldas", "eden-sparse"),
    "#BFA267": ("top-k", "threshold", "random-k"),
    "#A988AC": ("adaquantfl", "dadaquant"),
}
_KINDS = {
    "#0072B2": "the study's, and TFF's",
    "#7F8FB5": "quantization",
    "#79AD9B": "rotation",
    "#BFA267": "sparsification",
    "#A988AC": "adaptive quantization",
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

    One with other parameters has the colour of the one with its own, and another marker. Recipes
    that this package does not have are brown and differ in their markers.
    """
    known = dict(_PROJECT) | {
        name: (colour, marker)
        for colour, names in _LITERATURE.items()
        for name, marker in zip(names, _MARKERS[: len(names)], strict=True)
    }
    others = [name for name in recipes if name not in known]
    for i, name in enumerate(others):
        colour, taken = known.get(base(name), (_UNKNOWN, ""))
        free = [marker for marker in _MARKERS if marker != taken]
        place = zlib.crc32(name.encode()) if taken else i
        known[name] = (colour, free[place % len(free)])
    return {name: dict(zip(("color", "marker"), known[name], strict=True)) for name in recipes}


def kinds(recipes: Iterable[str]) -> dict[str, str]:
    """Returns the colours of the kinds of compression in the literature that recipes are of."""
    recipes = {base(name) for name in recipes}
    return {kind: colour for colour, kind in _KINDS.items() if recipes & set(_LITERATURE[colour])}


def base(recipe: str) -> str:
    """Returns the name of a recipe without the parameters that it may set (`recipes.get`)."""
    return recipe.partition("@")[0]


def is_own(recipe: str) -> bool:
    """Whether a recipe is this project's, whatever its parameters."""
    return base(recipe) in OWN


def kind(recipe: str) -> str:
    """Returns what kind of compression a recipe is, as figures call it."""
    if is_own(recipe):
        return "this project's"
    for colour, names in _LITERATURE.items():
        if base(recipe) in names:
            return _KINDS.get(colour, "uncompressed")
    return "others"


def bits_text(bits: float, digits: int = 6) -> str:
    """Writes a number of bits as all figures do, with a binary prefix: `50.76 Mibit`.

    Args:
        bits: The number.
        digits: How many significant digits are written, at most.
    """
    for unit in ("", "Ki", "Mi", "Gi"):
        if bits < 1024:
            return f"{bits:.{digits}g} {unit}bit"
        bits /= 1024
    return f"{bits:.{digits}g} Tibit"


@matplotlib.ticker.FuncFormatter
def bits_formatter(bits: float, _: int) -> str:
    """Writes a tick's number of bits with a binary prefix."""
    return bits_text(bits)


def bits_axis(axes: Axes) -> None:
    """Makes the horizontal axis one of bits: logarithmic, ticks at powers of two."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, numticks=5))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(bits_formatter)


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
    """Saves a figure as PNG and as SVG, without dates so that equal figures are equal files.

    Raises:
        UsageError: If a file cannot be written; none is written in part.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, none in (("png", ("Software",)), ("svg", ("Date", "Creator"))):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, metadata=dict.fromkeys(none))
        results.write_bytes(folder / f"{name}.{kind}", drawn.getvalue())
