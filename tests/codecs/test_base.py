import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from fedutils import fuzz
from fedutils.codecs import base, floats, nonuniform, quantizers, sparsifiers, transforms
from fedutils.codecs.base import Decoded, Encoded, Stage, chain, from_bytes, tensors, to_bytes
from fedutils.codecs.entropy.nonzeros import NonzeroCoder
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.floats import Raw, SparseFloats
from fedutils.codecs.quantizers import Dithered, Nearest
from fedutils.codecs.transforms import Max, Rms, Step
from fedutils.errors import UsageError

SEED = tf.constant([1, 2])


@dataclasses.dataclass(frozen=True)
class Reversed(Stage):
    def encode(self, x, params, seed):
        return Encoded(x[::-1])

    def decode(self, y, side, params, seed, n):
        return Decoded(y[::-1])


@dataclasses.dataclass(frozen=True)
class SeedEcho(Stage):
    """Sends what it was given, so that a test can see what a stage's decoder is given."""

    needs_seed = True

    def side_size(self):
        return 2

    def encode(self, x, params, seed):
        return Encoded(x, tf.bitcast(seed, tf.float32))

    def decode(self, y, side, params, seed, n):
        return Decoded(y, tf.reduce_all(tf.equal(tf.bitcast(side, tf.int32), seed)))


def test_payload_is_check_then_side_information_then_body():
    x = np.float32([1, -2, 4])
    payload = chain(Reversed(), Max(), Raw()).encode(x, {}, SEED).numpy()
    assert np.array_equal(np.frombuffer(payload[4:], "<f4"), [4, 1, -0.5, 0.25])


def test_header_counts_the_seed_only_if_decoding_needs_it():
    assert chain(Rms(), Nearest(), FixedWidth()).header_bytes == 4 + 4
    assert chain(Rms(), Dithered(), FixedWidth()).header_bytes == 4 + 4 + 4


def test_each_stage_decodes_with_the_seed_it_encoded_with(through):
    x = np.float32([1, 2, 3])
    values, _ = through(chain(SeedEcho(), Reversed(), SeedEcho(), Raw()), x, seed=3)
    assert np.array_equal(values, x)


def test_a_codec_can_end_a_chain():
    inner = chain(Rms(), Nearest(), FixedWidth())
    assert chain(Reversed(), inner) == chain(Reversed(), Rms(), Nearest(), FixedWidth())


def test_properties_are_those_of_all_stages():
    assert chain(Raw()).lossless
    assert chain(Raw()).unbiased
    assert not chain(Rms(), Raw()).lossless
    assert not chain(Rms(), Nearest(), FixedWidth()).unbiased


def test_parameters_change_between_rounds_without_a_new_codec(through):
    codec = chain(Step(1.0), Nearest(), FixedWidth())
    x = np.float32([0.26, -0.9])
    assert codec.default_params() == {"step": 1.0}
    assert np.array_equal(through(codec, x)[0], [0, -1])
    assert np.array_equal(through(codec, x, step=0.25)[0], np.float32([0.25, -1]))


def test_a_step_that_is_not_positive_is_refused():
    codec = chain(Step(), Nearest(), FixedWidth())
    for step in (0.0, -1.0, np.nan):
        assert codec.encode([1.0], tensors({"step": step}), SEED).numpy() == b""


def test_float_coder_cannot_follow_a_quantizer():
    with pytest.raises(TypeError, match="takes float32 but would be given int32"):
        chain(Nearest(), Raw())


def test_integer_coder_needs_a_quantizer():
    with pytest.raises(TypeError, match="takes int32 but would be given float32"):
        chain(Rms(), FixedWidth())


def test_two_stages_must_not_share_a_parameter():
    with pytest.raises(ValueError, match="share a parameter"):
        chain(Step(), Step(), Raw())


def test_a_codec_must_print_the_same_in_every_process():
    @dataclasses.dataclass(frozen=True)
    class WithFunction(Stage):
        function: object = lambda x: x

    with pytest.raises(ValueError, match="no lasting identity"):
        chain(WithFunction(), Raw())


def test_payload_of_another_length_or_codec_or_round_is_rejected():
    codec = chain(Step(), Nearest(), FixedWidth())
    params = tensors({"step": 1.0})
    payload = codec.encode([1.0, 2.0], params, SEED)
    assert bool(codec.decode(payload, params, 2).ok)
    assert not bool(codec.decode(payload, params, 3).ok)
    assert not bool(codec.decode(payload, tensors({"step": 2.0}), 2).ok)
    assert not bool(chain(Step(), Nearest(), SparseNothing()).decode(payload, params, 2).ok)


@dataclasses.dataclass(frozen=True)
class SparseNothing(FixedWidth):
    """Same code, another name."""


def test_bytes_keep_every_bit():
    x = np.float32([np.nan, -0.0, 1e-45, np.inf, 1.5])
    assert np.array_equal(from_bytes(to_bytes(x), tf.int32), np.frombuffer(x.tobytes(), np.int32))


def test_sparse_floats_cost_little_more_than_their_nonzeros(rng, through):
    x = np.zeros(100_000, np.float32)
    kept = rng.choice(x.size, 100, replace=False)
    x[kept] = rng.standard_normal(100)
    x[kept[:2]] = [-0.0, 1e-45]
    values, payload = through(chain(SparseFloats(FixedWidth())), x)
    assert values.tobytes() == x.tobytes()
    longest_gap = np.diff(np.sort(kept)).max()
    assert len(payload) <= 4 + 4 + 400 + 100 * np.ceil(np.log2(longest_gap)) / 8 + 8


def test_sparse_floats_reject_positions_beyond_the_vector():
    coder = SparseFloats(FixedWidth())
    data = coder.encode(np.float32([0, 0, 0, 0, 5]))
    assert bool(coder.decode(data, 5).ok)
    assert not bool(coder.decode(data, 4).ok)


@dataclasses.dataclass(frozen=True, repr=False)
class Densely:
    """A coder of nonzeros that is only seen to take and give vectors."""

    coder: NonzeroCoder
    name: str

    def __repr__(self):
        return self.name

    def encode(self, symbols):
        return self.coder.encode(symbols)

    def decode(self, data, m):
        return self.coder.decode(data, m)

    def bound_bits(self, m):
        return self.coder.bound_bits(m)


SPARSELY = {
    name: codec
    for name, codec in fuzz.codecs(fuzz.LAYOUT).items()
    if isinstance(codec.coder_for(base.tensors(codec.default_params())), NonzeroCoder)
}


@pytest.mark.parametrize("name", SPARSELY)
def test_no_vector_between_stages_and_coder_changes_nothing(name):
    """With and without vectors, payloads and what they decode to are the same, bit for bit."""
    codec, n = SPARSELY[name], base.total(fuzz.LAYOUT)
    params = base.tensors(codec.default_params())
    densely = base.Codec(codec.stages, Densely(codec.coder_for(params), repr(codec.coder)))
    both = [codec, densely]

    @functools.partial(tf.function, autograph=False, input_signature=[tf.TensorSpec([n])])
    def twice(x):
        payloads = [c.encode(x, params, tf.constant([1, 2])) for c in both]
        return payloads, [c.decode(p, params, n) for c, p in zip(both, payloads, strict=True)]

    rng = np.random.default_rng(5)
    dense, nonzeros = rng.standard_normal(n), 0
    for x in (dense, dense + 3, dense * (rng.random(n) < 0.01), dense * 0, dense**9):
        (few, many), (sparse_values, dense_values) = twice(tf.constant(x, tf.float32))
        assert few == many
        assert sparse_values.ok and dense_values.ok
        assert sparse_values.values.numpy().tobytes() == dense_values.values.numpy().tobytes()
        nonzeros += np.count_nonzero(sparse_values.values)
    assert nonzeros


def test_some_stages_and_coders_need_no_vector():
    assert {"default", "context", "mitchell", "adaptive", "two-way"} <= set(SPARSELY)


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (quantizers.MinMax, {"bits": 31}, "bits of MinMax must be from 1 to 16, not 31"),
        (quantizers.MinMax, {"bits": 0}, "from 1 to 16"),
        (nonuniform.GaussianLevels, {"bits": 9}, "from 1 to 8"),
        (nonuniform.FittedLevels, {"bits": 0}, "from 1 to 12"),
        (nonuniform.ExponentialLevels, {"depth": 101}, "from 1 to 100"),
        (sparsifiers.TopK, {"fraction": 0.0}, "from 1e-09 to 1"),
        (sparsifiers.RandomK, {"fraction": 1.5}, "from 1e-09 to 1"),
        (transforms.Norm, {"unit": 1e30}, "unit of Norm"),
        (transforms.Step, {"size": float("nan")}, "size of Step"),
        (transforms.Clip, {"limit": -1.0}, "limit of Clip"),
    ],
)
def test_a_stage_refuses_what_it_cannot_do(stage, fields, message):
    with pytest.raises(UsageError, match=message):
        stage(**fields)


def test_arrays_do_not_identify_a_codec():
    @dataclasses.dataclass(frozen=True)
    class Table(base.Stage):
        numbers: np.ndarray

    with pytest.raises(ValueError, match=r"Table has arrays \(numbers\).*use tuples"):
        base.chain(Table(np.zeros(2000, np.float32)), floats.Raw())
