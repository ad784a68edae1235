"""Words that a shell completes: names of recipes, data sets and the like.

Completion must answer at once, so the names stand here, where no TensorFlow is imported to look
them up; a test holds them against the modules that decide them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

DATASETS = ("mnist5k", "emnist", "synthetic")
RACED = ("mnist5k", "emnist")
"""The data sets with clients enough for the race."""
MODELS = ("cnn", "dense", "logistic")
PARTITIONS = ("dirichlet", "iid", "shards")
PROFILES = ("smoke", "quick", "full")
CODECS = (
    *("default", "context", "identity", "study", "study-huffman", "qsgd", "qsgd-coarse"),
    *("terngrad", "1-bit-sgd", "3lc", "rotated", "drive", "eden1", "eden2", "eden4"),
    *("eden-sparse", "lloyd-max", "natural", "nuqsgd", "top-k", "threshold", "random-k"),
    "mitchell",
)
ADAPTIVE = (
    *("adaptive", "adaptive-fine", "backward", "adaptive-scheduled"),
    *("adaptive-fixed", "adaptive-fixed-fine", "adaptive-frozen", "adaptive-frozen-fine"),
    *("two-way", "adaquantfl", "dadaquant"),
)
COMPRESSING = (*CODECS, "caldas", *ADAPTIVE)
"""The recipes whose clients send one string each."""
RECIPES = ("none", "tff-compression", *COMPRESSING)

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def one_of(names: Sequence[str]) -> Completer:
    """Returns what completes one of some names."""
    return lambda context, parameter, begun: [name for name in names if name.startswith(begun)]


def some_of(names: Sequence[str]) -> Completer:
    """Returns what completes the last of names with commas between them."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
        before, comma, last = begun.rpartition(",")
        return [before + comma + name for name in names if name.startswith(last)]

    return complete


def notebook(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Completes the name of a notebook that is not named yet."""
    folder = Path(__file__).parent.parent / "notebooks"
    named = context.params.get(parameter.name) or ()
    names = sorted(path.stem for path in folder.glob("*.ipynb"))
    return [name for name in names if name.startswith(begun) and name not in named]
