import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from fedutils import adaptive
from fedutils.codecs.base import Stage, chain, tensors
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.quantizers import Stochastic
from fedutils.codecs.transforms import Rms, Step
from fedutils.errors import UsageError
from fedutils.wire import Wire

COARSE = chain(Rms(), Step(2.0), Stochastic(), FixedWidth())
LINED = adaptive.codec([(3, 4), (5,)], 0.01)
N, WEIGHT = 17, 2.5


@pytest.fixture
def value(rng):
    return tf.constant(rng.standard_normal(N, "f4"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def of(codec, **options):
    """The wire of a codec, its parameters and what is announced of them."""
    wire = Wire(codec, N, **{"weighted": True, **options})
    params = tensors(codec.default_params())
    if "lines" in params:
        params["lines"] = tf.constant(np.arange(len(params["lines"])) % 5 - 2.0, tf.float32)
    return wire, params, wire.announce(params, tf.constant(7))


def decoded_alone(codec, value, params):
    """What the codec itself makes of the value and loses of it, without a wire."""
    fingerprint = tf.fingerprint(tf.reshape(value, [1, -1]))[0, :4]
    seed = tf.stack([7, tf.bitcast(fingerprint, tf.int32)])
    payload = codec.encode(value, params, seed)
    decoded, ok = codec.decode(payload, params, N)
    assert bool(ok)
    return decoded.numpy(), payload.numpy()


@pytest.mark.parametrize("codec", [COARSE, LINED], ids=["scalars", "vectors"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("reports", [True, False])
def test_the_server_gets_what_the_codec_makes_of_the_weighted_value(
    codec, weighted, reports, value
):
    wire, params, announced = of(codec, weighted=weighted, reports=reports)
    string = wire.encode(announced, value, tf.constant(WEIGHT)).numpy()
    received = wire.decode(string, params)
    sent = value * WEIGHT if weighted else value
    expected, payload = decoded_alone(codec, sent, params)
    assert bool(received.ok)
    np.testing.assert_array_equal(received.value, expected)
    assert received.weight == (WEIGHT if weighted else 1)
    error = np.sum((sent.numpy() - expected) ** 2) if reports else 0
    np.testing.assert_allclose(received.squared_error, error, rtol=1e-5)
    norm = np.sum(sent.numpy() ** 2) if reports else 0
    np.testing.assert_allclose(received.squared_norm, norm, rtol=1e-5)
    # Scalars are repeated, four bytes each, unless there are vectors, which are not.
    repeated = 4 * len(params) if codec is COARSE else 0
    assert len(string) == len(payload) + repeated + 4 * weighted + 8 * reports


def test_the_context_tells_the_vectors_and_is_small():
    wire, params, announced = of(LINED)
    assert list(announced) == ["step", "weight_unit", "seed", "context"]
    received, ok = wire._params(announced)
    assert bool(ok)
    for name in params:
        np.testing.assert_array_equal(received[name], params[name])
    assert len(announced["context"].numpy()) < 4 * len(params["lines"])


def test_without_vectors_there_is_no_context():
    _, _, announced = of(COARSE)
    assert list(announced) == ["step", "seed"]


def test_a_client_that_cannot_read_the_context_sends_nothing(value):
    wire, _, announced = of(LINED)
    announced["context"] = tf.constant(announced["context"].numpy()[:-2])
    assert wire.encode(announced, value, tf.constant(WEIGHT)).numpy() == b""


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("reports", [True, False])
def test_a_client_that_is_not_finite_sends_nothing(bad, reports, value):
    wire, _, announced = of(LINED, reports=reports)
    damaged = tf.concat([value[:-1], [bad]], 0)
    assert wire.encode(announced, damaged, tf.constant(WEIGHT)).numpy() == b""
    assert wire.encode(announced, value, tf.constant(bad)).numpy() == b""


def test_a_report_that_no_float32_holds_sends_nothing(value):
    wire, _, announced = of(COARSE, reports=True)
    huge = value * 1e25
    assert wire.encode(announced, huge, tf.constant(1.0)).numpy() == b""


def test_other_lines_do_not_decode(value):
    wire, params, announced = of(LINED)
    string = wire.encode(announced, value, tf.constant(WEIGHT))
    params["lines"] += 1
    assert not bool(wire.decode(string, params).ok)


@pytest.mark.parametrize("cut", [0, 1, 4, 7, 8, 11, 12, 40])
@pytest.mark.parametrize("codec", [COARSE, LINED], ids=["scalars", "vectors"])
@pytest.mark.parametrize("reports", [True, False])
def test_string_cut_short_anywhere_is_rejected(cut, codec, reports, value):
    wire, params, announced = of(codec, reports=reports)
    string = wire.encode(announced, value, tf.constant(WEIGHT)).numpy()
    received = wire.decode(string[:cut][: len(string) - 1], params)
    assert not bool(received.ok)
    assert not received.value.numpy().any()
    assert received.weight == received.squared_error == received.squared_norm == 0


@pytest.mark.parametrize("codec", [COARSE, LINED], ids=["scalars", "vectors"])
def test_every_bit_of_the_string_is_under_the_check(codec, value):
    """The report, the weight and the codec's parameters, too."""
    wire, params, announced = of(codec, reports=True)
    string = wire.encode(announced, value, tf.constant(WEIGHT)).numpy()
    decode = tf.function(
        lambda s: wire.decode(s, params), input_signature=[tf.TensorSpec([], tf.string)]
    )
    assert bool(decode(string).ok)
    for bit in range(8 * len(string)):
        data = bytearray(string)
        data[bit // 8] ^= 1 << bit % 8
        assert not bool(decode(bytes(data)).ok), bit


@dataclasses.dataclass(frozen=True)
class Told(Stage):
    """A stage with a parameter."""

    name: str
    start: tuple[float, ...]

    def default_params(self):
        return {self.name: np.array(self.start, np.float32)}


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("levels", (1.0, 1.5), "'levels' is a vector.*not all of it is whole"),
        ("seed", (1.0,), "cannot be called 'seed'"),
        ("weight", (1.0,), "cannot be called 'weight'"),
        ("context", (1.0,), "cannot be called 'context'"),
    ],
)
def test_parameters_that_clients_cannot_be_told_are_refused(name, start, words):
    codec = chain(Told(name, start), COARSE)
    with pytest.raises(UsageError, match=words):
        Wire(codec, N, weighted=True)
