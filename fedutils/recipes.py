"""Recipes: named ways to aggregate client updates, as the command line and notebooks know them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import tensorflow_federated as tff

from fedutils import aggregators
from fedutils.codecs import recipes as codec_recipes
from fedutils.codecs.base import Codec
from fedutils.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named way to compress what clients send.

    Attributes:
        name: How it is called on the command line and in notebooks.
        paper: Where it comes from.
        sentence: What it does.
        aggregator: Builds, from the seed of the compression's randomness, the factory that
            aggregates the clients' updates.
        code: Source text that decides what it does, if it is not part of this package.
    """

    name: str
    paper: str
    sentence: str
    aggregator: Callable[[int], tff.aggregators.WeightedAggregationFactory]
    code: str = ""


def from_codec(recipe: codec_recipes.Recipe) -> Recipe:
    """Makes a recipe of a codec's: the weighted mean of decoded updates, nothing clipped."""

    def aggregator(seed: int) -> tff.aggregators.WeightedAggregationFactory:
        return aggregators.compressed_aggregator(
            aggregators.Compression(recipe.build, seed), zeroing=False, clipping=False
        )

    return Recipe(recipe.name, recipe.paper, recipe.sentence, aggregator)


_UNCODED = (
    Recipe(
        "none",
        "McMahan et al. 2017, arXiv:1602.05629",
        "Every weight as a 32-bit float: plain weighted federated averaging.",
        lambda seed: tff.aggregators.MeanFactory(),
    ),
    Recipe(
        "tff-compression",
        "TensorFlow Federated, Model and Update Compression",
        "TFF's own: large variables at 8 bits between their extremes, norms clipped and zeroed.",
        lambda seed: tff.learning.compression_aggregator(),
    ),
)

RECIPES = {
    recipe.name: recipe for recipe in (*_UNCODED, *map(from_codec, codec_recipes.RECIPES.values()))
}


def codecs(layout: Sequence[tuple[int, ...]]) -> dict[str, Codec]:
    """Returns the codec of each recipe that is one, by name.

    Args:
        layout: Shapes of the model's variables.
    """
    return {name: recipe.build(layout) for name, recipe in codec_recipes.RECIPES.items()}


def add(codec: Codec, name: str, paper: str = "your own", sentence: str = "") -> Recipe:
    """Makes a codec of your own known under a name, for `training.RunConfig`, until Python ends.

    Args:
        codec: The codec.
        name: A name that no recipe of this package has; your own may be replaced.
        paper: Where it comes from.
        sentence: What it does.

    Returns:
        The recipe. Runs with it are keyed by the source of its parts too, so that a changed codec
        is trained anew.

    Raises:
        UsageError: If a recipe of this package has that name.
    """
    if name in RECIPES and not RECIPES[name].code:
        raise UsageError(f"{name!r} is a recipe of this package: choose another name")
    own = from_codec(codec_recipes.Recipe(name, paper, sentence, lambda layout: codec))
    parts = [type(part) for part in (*codec.stages, codec.coder)]
    sources = [_source(part) for part in parts if not part.__module__.startswith("fedutils.")]
    RECIPES[name] = dataclasses.replace(own, code="\n".join([repr(codec), *sources]))
    return RECIPES[name]


def _source(part: type) -> str:
    """Source of a class's methods, and its attributes; works on a notebook's classes too."""
    functions = [
        inspect.getsource(value)
        for value in vars(part).values()
        if inspect.isfunction(value) and value.__code__.co_filename != "<string>"  # dataclass's
    ]
    values = {k: repr(v) for k, v in vars(part).items() if not (k.startswith("_") or callable(v))}
    return "".join([part.__qualname__, repr(values), *functions])


def get(name: str) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        UsageError: If there is none; the message names those that exist.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
