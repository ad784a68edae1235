import dataclasses

import pytest
import tensorflow as tf

from fedutils import recipes
from fedutils.codecs import base, entropy, floats
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


def gaps(more):
    """A coder of one's own within one of this package."""

    @dataclasses.dataclass(frozen=True)
    class Gaps:
        @property
        def more(self):
            return more

        def encode(self, values):
            return entropy.Huffman().encode(values + self.more)

        def decode(self, data, m):
            values, ok = entropy.Huffman().decode(data, m)
            return values - self.more, ok

        def bound_bits(self, m):
            return entropy.Huffman().bound_bits(m)

    return base.chain(floats.SparseFloats(gaps=Gaps()))


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


def test_a_part_of_ones_own_within_one_of_the_package_counts(forget):
    code = recipes.add(gaps(1), "gaps").code
    assert recipes.add(gaps(1), "gaps").code == code
    assert recipes.add(gaps(2), "gaps").code != code


def test_unknown_recipe_names_those_that_exist():
    with pytest.raises(UsageError, match="unknown recipe 'gzip': choose one of none, tff-compress"):
        recipes.get("gzip")


def test_every_recipe_names_its_paper_and_says_what_it_does():
    for recipe in recipes.RECIPES.values():
        assert recipe.paper and recipe.sentence.endswith(".") and len(recipe.sentence) < 100
