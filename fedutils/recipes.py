"""Recipes: named ways to compress communication, as the command line and notebooks know them.

A name may set a recipe's parameters: `top-k@fraction=0.001`, `adaptive-frozen@size=4096+step=0.5`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf
import tensorflow_federated as tff

from fedutils import (
    adaptive,
    aggregators,
    definitions,
    distributors,
    provenance,
    tff_compression,
)
from fedutils.codecs import recipes as codec_recipes
from fedutils.codecs.base import Codec
from fedutils.codecs.lowrank import low_rank_change
from fedutils.controllers import Schedule
from fedutils.errors import UsageError

Distributor = Callable[
    [tff.Type, Callable[[], list[tf.Tensor]], int], tff.learning.templates.DistributionProcess
]
"""From the type of the model's weights, a function that computes the initial ones and the seed of
the compression's randomness to the process that gives clients the model; see `distributors`."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named way to compress what clients send, and what they get.

    Attributes:
        name: How it is called on the command line and in notebooks.
        paper: Where it comes from.
        sentence: What it does.
        aggregator: Builds, from the seed of the compression's randomness and the recipe's
            parameters (keywords), the factory that aggregates the clients' updates.
        code: Text that decides what it does, if it is not part of this package.
        distributor: Builds what gives clients the model; None broadcasts it whole.
    """

    name: str
    paper: str
    sentence: str
    aggregator: Callable[..., tff.aggregators.WeightedAggregationFactory]
    code: str = ""
    distributor: Distributor | None = None

    @property
    def parameters(self) -> dict[str, bool | int | float | None]:
        """What a name may set (see `get`), with the values that hold if it does not."""
        keywords = inspect.signature(self.aggregator).parameters.values()
        known = (bool, int, float, type(None))
        return {it.name: it.default for it in keywords if isinstance(it.default, known)}


def from_codec(recipe: codec_recipes.Recipe) -> Recipe:
    """Makes a recipe of a codec's: the weighted mean of decoded updates, nothing clipped."""

    @functools.wraps(recipe.build)  # whose parameters it has
    def aggregator(seed: int, **parameters) -> tff.aggregators.WeightedAggregationFactory:
        build = functools.partial(recipe.build, **parameters)
        return aggregators.compressed_aggregator(
            aggregators.Compression(build, seed), zeroing=False, clipping=False
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
        "TFF's own, with seeded rounding: large variables at 8 bits, norms clipped and zeroed.",
        tff_compression.compression_aggregator,
    ),
)


def low_rank_broadcast(
    weights_type: tff.Type, initial: Callable[[], list[tf.Tensor]], seed: int
) -> tff.learning.templates.DistributionProcess:
    """The broadcast of a model's change since its start, large matrices at low rank."""
    return distributors.compressed_distributor(weights_type, low_rank_change, initial, seed)


def rotated_broadcast(
    weights_type: tff.Type, initial: Callable[[], list[tf.Tensor]], seed: int
) -> tff.learning.templates.DistributionProcess:
    """The broadcast of a model's change since its start, rotated and rounded to four bits."""
    return distributors.compressed_distributor(weights_type, codec_recipes.rotated, initial, seed)


_CODECS = tuple(map(from_codec, codec_recipes.RECIPES.values()))

_BOTH_WAYS = (
    dataclasses.replace(
        from_codec(codec_recipes.RECIPES["rotated"]),
        name="caldas",
        aggregator=lambda seed: from_codec(codec_recipes.RECIPES["rotated"]).aggregator(seed),
        paper="Caldas et al. 2018, arXiv:1812.07210, its lossy compression alone",
        sentence="`rotated` in both directions; what is broadcast is the model's change.",
        distributor=rotated_broadcast,
    ),
)

_ADAPTIVE = (
    Recipe(
        "adaptive",
        "this project",
        "Chooses from a pool that server and clients draw alike; a budget of bits that grows.",
        adaptive.within_budget,
    ),
    Recipe(
        "adaptive-fine",
        "this project",
        "`adaptive` with twice the bits, and a pool twice as large.",
        functools.partial(adaptive.within_budget, budget=3000.0, size=8192),
    ),
    Recipe(
        "backward",
        "this project",
        "`adaptive-fine` whose busy lines both sides see in the model: nobody announces them.",
        functools.partial(adaptive.within_budget, budget=3000.0, size=8192, backward=True),
    ),
    Recipe(
        "adaptive-scheduled",
        "this project",
        "`adaptive` with planned steps near those found on another seed: equal ratios, 4 to 0.115.",
        functools.partial(adaptive.lean, steps=Schedule(0.115, rounds=149), step=4.0),
    ),
    Recipe(
        "adaptive-fixed",
        "this project",
        "`adaptive` with one step in all rounds, to compare.",
        functools.partial(adaptive.lean, step=0.5),
    ),
    Recipe(
        "adaptive-fixed-fine",
        "this project",
        "`adaptive-fixed` with a finer step.",
        functools.partial(adaptive.lean, step=0.3),
    ),
    Recipe(
        "adaptive-frozen",
        "this project",
        "`adaptive` with one step, and a pool of 65,536 weights, all alike in all rounds.",
        functools.partial(adaptive.lean, step=0.35, size=65536, learns_lines=False),
    ),
    Recipe(
        "adaptive-frozen-fine",
        "this project",
        "`adaptive-frozen` with a finer step.",
        functools.partial(adaptive.lean, step=0.25, size=65536, learns_lines=False),
    ),
    Recipe(
        "two-way",
        "this project",
        "Fine sparse updates, their step after the loss; the model's change broadcast at low rank.",
        functools.partial(adaptive.following_loss, step=0.1),
        distributor=low_rank_broadcast,
    ),
    Recipe(
        "adaquantfl",
        "Jhunjhunwala et al. 2021 (AdaQuantFL), section 3",
        "QSGD whose number of levels grows as the root of the loss falls.",
        adaptive.adaquantfl,
    ),
    Recipe(
        "dadaquant",
        "Hönig et al. 2022 (DAdaQuant), sections 3.3 to 3.6",
        "QSGD whose levels double when the loss stalls, with more levels for heavier clients.",
        adaptive.dadaquant,
    ),
)

_SMALL = [(200, 200), (200,)]  # a layout in which the study has a large variable

RECIPES = {recipe.name: recipe for recipe in (*_UNCODED, *_CODECS, *_BOTH_WAYS, *_ADAPTIVE)}


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
        The recipe. Runs with it are keyed by what its parts do too, so that a changed codec is
        trained anew; see `definitions`.

    Raises:
        UsageError: If a recipe of this package has that name, if it has an @, which sets
            parameters, or if the codec uses something that another process cannot know.
    """
    if "@" in name:
        raise UsageError(f"a recipe's name has no @, as {name!r} has: choose another name")
    if name in RECIPES and not RECIPES[name].code:
        raise UsageError(f"{name!r} is a recipe of this package: choose another name")
    recipe = from_codec(codec_recipes.Recipe(name, paper, sentence, lambda layout: codec))
    does = provenance.digest(definitions.of(codec))
    RECIPES[name] = dataclasses.replace(recipe, code=f"{codec!r}\n{does}")
    return RECIPES[name]


def get(name: str) -> Recipe:
    """Returns the recipe of a name.

    Args:
        name: Of a recipe; with `@parameter=value`, and more of these behind `+`, the recipe with
            other values of its `parameters`, all of them positive.

    Returns:
        The recipe. Its name has the values in one spelling, and those alone that differ from the
        recipe's own.

    Raises:
        UsageError: If there is none, or if it cannot have such parameters; the message names
            those that exist.
    """
    base, at, settings = name.partition("@")
    if base not in RECIPES:
        raise UsageError(f"unknown recipe {base!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[base]
    own = recipe.parameters
    # A number may have a + of its own: 1e+16.
    texts = re.split(r"\+(?=[a-z_]+=)", settings) if at else []
    values = dict(_setting(recipe.name, own, text) for text in texts)
    if len(values) < len(texts):
        raise UsageError(f"{name!r} sets a parameter twice: set each once")
    values = {key: value for key, value in sorted(values.items()) if value != own[key]}
    if not values:
        return recipe
    aggregator = functools.partial(recipe.aggregator, **values)
    try:
        aggregator(0).compression.for_layout(_SMALL)
    except (UsageError, ArithmeticError) as error:
        raise UsageError(f"the recipe {name!r} cannot be: {error}") from error
    return dataclasses.replace(
        recipe,
        name=f"{base}@{written(values)}",
        sentence=f"`{base}` with {written(values)}.",
        aggregator=aggregator,
    )


def _setting(recipe: str, own: dict, text: str) -> tuple[str, bool | int | float]:
    key, equals, value = text.partition("=")
    if not equals or key not in own:
        known = ", ".join(f"{recipe}@{key}=…" for key in own) or "no parameters"
        raise UsageError(f"the recipe {recipe!r} cannot have {text!r}; what it can have: {known}")
    kind = float if own[key] is None else type(own[key])
    try:
        number = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        fits = kind is bool or 0 < number <= sys.float_info.max
    except (KeyError, ValueError):
        fits = False
    if not fits:
        expected = {bool: "true or false", int: "a whole number above 0", float: "a number above 0"}
        raise UsageError(f"{key} of {recipe!r} must be {expected[kind]}, not {value!r}")
    return key, number


def written(parameters: Mapping[str, bool | int | float | None]) -> str:
    """Writes a recipe's parameters as a name has them: `size=4096+step=0.5`."""

    def text(value: bool | int | float | None) -> str:
        if value is None or isinstance(value, bool):
            return str(value).lower()
        return repr(value).removesuffix(".0").replace("e+", "e")

    return "+".join(f"{key}={text(value)}" for key, value in parameters.items())
