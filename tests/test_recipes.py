import dataclasses

import pytest
import tensorflow as tf

from fedutils import recipes
from fedutils.codecs import base, entropy
from fedutils.errors import UsageError


def halves():
    """A stage class defined anew, as by running a notebook's cell again."""

    @dataclasses.dataclass(frozen=True)
    class Halves(base.Stage):
        emits = tf.int32

        def encode(self, x, params, seed):
            return base.Encoded(tf.cast(tf.round(2 * x), tf.int32))

        def decode(self, y, side, params, seed, n):
            return base.Decoded(tf.cast(y, tf.float32) / 2)

    return base.chain(Halves(), entropy.Huffman())


def doubled():
    """The same names, but another method."""
    codec = halves()
    type(codec.stages[0]).encode = lambda self, x, params, seed: base.Encoded(
        tf.cast(tf.round(4 * x), tf.int32)
    )
    return codec


@pytest.fixture
def forget():
    before = dict(recipes.RECIPES)
    yield
    recipes.RECIPES.clear()
    recipes.RECIPES.update(before)


def test_a_codec_of_ones_own_becomes_a_recipe_keyed_by_what_it_does(forget):
    own = recipes.add(halves(), "halves", sentence="To halves.")
    assert recipes.get("halves") is own
    assert "Huffman" in own.code
    assert recipes.add(halves(), "halves").code == own.code
    changed = doubled()
    assert repr(changed) == repr(halves())  # alike by name, not by what it does
    assert recipes.add(changed, "halves").code != own.code
    with pytest.raises(UsageError, match="'qsgd' is a recipe of this package"):
        recipes.add(halves(), "qsgd")


def test_unknown_recipe_names_those_that_exist():
    with pytest.raises(UsageError, match="unknown recipe 'gzip': choose one of none, tff-compress"):
        recipes.get("gzip")


def test_every_recipe_names_its_paper_and_says_what_it_does():
    for recipe in recipes.RECIPES.values():
        assert recipe.paper and recipe.sentence.endswith(".") and len(recipe.sentence) < 100
