"""Every recipe conforms; codecs that break the contract are found out."""

import dataclasses
import functools

import pytest
import tensorflow as tf

from fedutils import adaptive
from fedutils.codecs import recipes
from fedutils.codecs.base import Decoded, Encoded, Stage, chain, tensors
from fedutils.codecs.conformance import NonConformance, check
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.floats import Raw
from fedutils.codecs.quantizers import DeadZone, Dithered, MinMax, Stochastic
from fedutils.codecs.sparsifiers import RandomK
from fedutils.codecs.transforms import Hadamard, Max, Rms, Step

# Codecs of recipes that are more than a codec, and compositions that no recipe has, so that every
# part is in one of the two lists. (`adaptive.pooled` is in test_pool.)
COMPOSITIONS = {
    "rotation alone": chain(Hadamard(), Raw()),
    "dither": chain(Rms(), Step(2.0), Dithered(), FixedWidth()),
    "dead zone": chain(Max(), Step(0.1), DeadZone(), FixedWidth()),
    "deterministic min-max": chain(MinMax(3, unbiased=False), FixedWidth()),
    "random k, quantized": chain(RandomK(0.1), Rms(), Stochastic(), FixedWidth()),
    "small variables whole": recipes.small_whole(
        lambda large: chain(Rms(), Stochastic(), FixedWidth()), 60
    ),
    "study with small layers": functools.partial(recipes.study, threshold=20),
    "two-way": functools.partial(adaptive.codec, step=0.1),
    "dadaquant": adaptive.client_adaptive_qsgd(step=1.0),
    "drive of least error": functools.partial(recipes.drive, unbiased=False),
}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipe_conforms(name):
    assert "bit/parameter" in check(recipes.RECIPES[name].build)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition_conforms(name):
    assert "bit/parameter" in check(COMPOSITIONS[name])


@pytest.mark.parametrize("name", ["default", "context", "3lc"])
def test_ten_million_numbers(name):
    n = 10_000_000
    x = tf.random.stateless_normal([n], [1, 2])
    codec = recipes.RECIPES[name].build([(n,)])
    params = tensors(codec.default_params())
    payload = tf.function(lambda x: codec.encode(x, params, tf.constant([1, 2])))(x)
    values, ok = tf.function(lambda p: codec.decode(p, params, n))(payload)
    assert bool(ok)
    assert values.shape == (n,)
    assert 0 < 8 * len(payload.numpy()) < codec.bound_bits(n)


def test_recipes_are_described_in_one_line_each():
    for recipe in recipes.RECIPES.values():
        assert len(recipe.sentence) <= 100
        assert recipe.sentence.endswith(".")
        assert recipe.paper


def test_step_is_the_round_parameter_of_the_default():
    assert recipes.default([(7,)], step=3.0).default_params() == {"step": 3.0}


@dataclasses.dataclass(frozen=True)
class Broken(Stage):
    """A stage that does nothing, for its subclasses to do wrong."""

    def encode(self, x, params, seed):
        return Encoded(x)

    def decode(self, y, side, params, seed, n):
        return Decoded(y)


class SaysUnbiased(Broken):
    def decode(self, y, side, params, seed, n):
        return Decoded(1.1 * y)


class SaysLossless(Broken):
    lossless = True

    def encode(self, x, params, seed):
        return Encoded(x + 1e-3)


class LosesTheShape(Broken):
    def decode(self, y, side, params, seed, n):
        return Decoded(tf.concat([y, [0.0]], axis=0))


class CannotEncodeZeros(Broken):
    def encode(self, x, params, seed):
        with tf.control_dependencies([tf.debugging.assert_positive(tf.reduce_max(tf.abs(x)))]):
            return Encoded(tf.identity(x))


class CallsWhatIsNot(Broken):
    def decode(self, y, side, params, seed, n):
        return Decoded(inverse(y))  # noqa: F821


class CannotDecodeZeros(Broken):
    def encode(self, x, params, seed):
        return Encoded(x / tf.reduce_max(tf.abs(x)))


class TurnsZerosToOnes(Broken):
    unbiased = False

    def decode(self, y, side, params, seed, n):
        return Decoded(tf.where(tf.equal(y, 0), 1.0, y))


class ForgetsItsSeed(Broken):
    def encode(self, x, params, seed):
        return Encoded(x * (1 + tf.random.uniform([])))


class PassesNumbersBeside(Broken):
    """Keeps what it should send."""

    def encode(self, x, params, seed):
        SECRET.assign(x)
        return Encoded(tf.zeros_like(x))

    def decode(self, y, side, params, seed, n):
        return Decoded(SECRET.read_value())


SECRET = tf.Variable(tf.zeros([0]), shape=[None])


@dataclasses.dataclass(frozen=True)
class RaisesOnDamage(Raw):
    def decode(self, data, m):
        return Decoded(tf.bitcast(tf.reshape(data, [m, 4]), tf.float32), True)


@dataclasses.dataclass(frozen=True)
class UnderstatesItsBound(FixedWidth):
    def bound_bits(self, m):
        return m


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (chain(SaysUnbiased(), Raw()), "says unbiased"),
        (chain(SaysLossless(), Raw()), "says lossless"),
        (chain(LosesTheShape(), Raw()), r"decoded shape is \(2,\), not \(1,\)"),
        (chain(CannotEncodeZeros(), Raw()), "Encoding zeros raises InvalidArgumentError: "),
        (chain(CallsWhatIsNot(), Raw()), "its payload of Gaussian numbers raises NameError: name"),
        (chain(CannotDecodeZeros(), Raw()), "rejects its own payload of zeros"),
        (chain(TurnsZerosToOnes(), Raw()), "zeros to something else"),
        (chain(ForgetsItsSeed(), Raw()), "Equal seeds gave different payloads"),
        (chain(PassesNumbersBeside(), Max(), Stochastic(), FixedWidth()), "not in the payload"),
        (chain(RaisesOnDamage()), "a forged payload that is extended raises InvalidArgumentError"),
        (chain(Rms(), Stochastic(), UnderstatesItsBound()), "above its bound"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value),
)
def test_broken_codec_is_found_out(codec, message):
    with pytest.raises(NonConformance, match=message):
        check(codec)
