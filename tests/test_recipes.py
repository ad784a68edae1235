import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from fedutils import dissection, recipes, training
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
    with pytest.raises(UsageError, match="has no @"):
        recipes.add(halves(), "halves@twice")


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("top-k@fraction=1e-3", "top-k@fraction=0.001"),
        ("adaptive-frozen@step=.5+size=4096", "adaptive-frozen@size=4096+step=0.5"),
        ("drive@unbiased=False", "drive@unbiased=false"),
        ("qsgd@levels=2500000000", "qsgd@levels=2500000000"),
        ("top-k@fraction=0.010", "top-k"),  # its own value
        ("study@threshold=10000000000000", "study@threshold=10000000000000"),
        ("qsgd@levels=1e16", "qsgd@levels=1e16"),
        ("qsgd@levels=1e+16", "qsgd@levels=1e16"),
    ],
)
def test_a_name_sets_parameters_and_has_one_spelling(name, expected):
    recipe = recipes.get(name)
    assert recipe.name == expected
    assert recipes.get(recipe.name).name == expected
    assert recipe.paper == recipes.get(expected.partition("@")[0]).paper
    assert training.RunConfig(name).recipe == expected


def test_parameters_of_a_name_reach_the_codec():
    update = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    kept = {}
    for name in ("top-k", "top-k@fraction=0.1"):
        wire = dissection.wire_of(name, [(1000,)])
        kept[name] = dissection.of(dissection.encode(update, wire), wire).nonzeros
    assert kept == {"top-k": 10, "top-k@fraction=0.1": 100}


def test_parameters_of_a_name_reach_what_adapts():
    codec, controller = (
        recipes.get("adaptive@budget=700+size=512")
        .aggregator(0)
        .compression.for_layout([(300, 200), (200,)])
    )
    assert codec.stages[0].size == 512
    assert "bits=700" in repr(controller)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("top-k@fraction=2", r"'top-k@fraction=2' cannot be: fraction of TopK must be"),
        ("top-k@fraction=-1", "above 0"),
        ("top-k@fraction=nan", "not 'nan'"),
        ("qsgd@levels=inf", "not 'inf'"),
        ("study@bits=2.5", "must be a whole number above 0"),
        ("study@bits=31", "bits of MinMax must be from 1 to 16"),
        ("3lc@sparsity=0.5", "at least 1 and below 2"),
        ("qsgd@levels=1e-60", "unit of Norm must be"),
        ("drive@unbiased=2", "must be true or false"),
        ("top-k@size=1", "what it can have: top-k@fraction=…"),
        ("top-k@", "cannot have ''"),
        ("eden1@bits=2", "what it can have: no parameters"),
        ("gzip@level=9", "unknown recipe 'gzip'"),
        ("top-k@fraction=0.1+fraction=0.2", "sets a parameter twice"),
    ],
)
def test_parameters_that_a_recipe_cannot_have_are_told(name, message):
    with pytest.raises(UsageError, match=message):
        recipes.get(name)


def test_all_recipes_with_numbers_among_their_keywords_show_them():
    shown = {name: recipe.parameters for name, recipe in recipes.RECIPES.items()}
    assert shown["adaptive-fine"]["budget"] == 3000 and shown["adaptive-fine"]["size"] == 8192
    assert shown["qsgd"] == {"levels": None} and shown["none"] == {}
    assert recipes.written(shown["adaquantfl"]) == "levels=2"
