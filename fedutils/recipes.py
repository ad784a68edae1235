"""Recipes: named ways to aggregate client updates, as the command line and notebooks know them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow_federated as tff

from fedutils.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named way to compress what clients and server send each other.

    Attributes:
        name: How it is called on the command line and in notebooks.
        paper: Where it comes from.
        summary: What it does, in one sentence.
        aggregator: Builds the factory that aggregates the clients' updates.
    """

    name: str
    paper: str
    summary: str
    aggregator: Callable[[], tff.aggregators.WeightedAggregationFactory]


_ALL = (
    Recipe(
        "none",
        "McMahan et al. 2017, arXiv:1602.05629",
        "Sends every weight as a 32-bit float: plain weighted federated averaging.",
        tff.aggregators.MeanFactory,
    ),
    Recipe(
        "tff-compression",
        "TensorFlow Federated, Model and Update Compression",
        "Rounds variables of over 20,000 elements to 8 bits between their extremes: the study's.",
        tff.learning.compression_aggregator,
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}


def get(name: str) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        UsageError: If there is none; the message names those that exist.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
