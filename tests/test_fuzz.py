"""Hostile and broken clients: nothing they send does harm, and the fuzzer would see if it did."""

import concurrent.futures
import dataclasses
import multiprocessing
import re
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from click.testing import CliRunner

from fedutils import adaptive, cli, fuzz
from fedutils.aggregators import (
    CompressedMeanFactory,
    CompressedUnweightedMeanFactory,
    Compression,
)
from fedutils.codecs import recipes
from fedutils.codecs.base import Codec, Decoded, chain, tensors, to_string
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.floats import Raw
from fedutils.codecs.lowrank import ScaleParts
from fedutils.codecs.quantizers import Nearest
from fedutils.codecs.transforms import Clip, Hadamard, Max, Norm, Rms
from fedutils.controllers import LineActivity, MeanWeight, TargetRate, Together

NAMES = list(fuzz.codecs(fuzz.LAYOUT))
PAYLOADS = 5000


@pytest.mark.parametrize("name", NAMES)
def test_no_damaged_payload_does_harm(name):
    """Together PAYLOADS of them; `make fuzz` tries more."""
    (target,) = fuzz.targets([name])
    report = fuzz.run(target, -(-PAYLOADS // len(NAMES)), seed=1)
    assert not report.failures, report.failures[0]
    assert report.tried * len(NAMES) >= PAYLOADS
    assert report.tried == report.rejected + report.accepted
    assert report.tried // 2 == report.forged > report.accepted > 0


def test_every_recipe_is_attacked_and_only_identity_sends_numbers_whole():
    built = fuzz.codecs(fuzz.LAYOUT)
    assert set(recipes.RECIPES) < set(built)
    assert [name for name, codec in built.items() if codec == chain(Raw())] == ["identity"]


def bad(codec):
    """A target of a codec of one's own."""
    return fuzz.Target("bad", lambda layout: codec)


@dataclasses.dataclass(frozen=True)
class Unchecked(Codec):
    """Its check is always the same."""

    def frame(self, rest, params, n):
        return tf.strings.join(["same", rest])


@dataclasses.dataclass(frozen=True)
class OnDamage(Raw):
    """Does something if the data are not of the right length."""

    def harm(self, data, m):
        """A float32 scalar, not negative."""
        raise NotImplementedError

    def decode(self, data, m):
        wrong = tf.not_equal(tf.size(data), 4 * m)
        harm = tf.cond(wrong, lambda: self.harm(data, m), lambda: 0.0)
        values, ok = super().decode(data, m)
        return Decoded(values + tf.minimum(harm, 0.0), ok)


class Sleeps(OnDamage):
    def harm(self, data, m):
        return tf.numpy_function(lambda: time.sleep(0.4) or np.float32(0), [], tf.float32)


class TakesMemory(OnDamage):
    def harm(self, data, m):
        numbers = 25_000_000 + tf.size(data)
        return tf.reduce_sum(tf.random.stateless_uniform([numbers], [1, 2]))


class Raises(OnDamage):
    def harm(self, data, m):
        return tf.reduce_sum(tf.cast(tf.reshape(data, [m, 4]), tf.float32))


def test_a_codec_without_a_check_is_found_out():
    report = fuzz.run(bad(Unchecked((), Raw())), 40, seed=1)
    assert {f.problem.split(".")[0] for f in report.failures} == {
        "It is accepted, although damaged"
    }
    assert not any("forged" in failure.damage for failure in report.failures)


def report_of(coder, ceiling):
    """What the fuzzer finds of a coder, with other ceilings."""
    target = bad(chain(coder))
    target.decode(target.honest[0])  # Tracing takes time, too.
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ceiling.items():
            patched.setattr(fuzz, name, value)
        return fuzz.run(target, range(1, 20, 4), seed=1)


def found_out(report, words):
    assert report.failures
    for failure in report.failures:
        assert failure.damage.endswith("forged")
        assert re.search(words, failure.problem), failure.problem
    return True


@pytest.mark.parametrize(
    ("coder", "ceiling", "words"),
    [
        (Sleeps(), {"SECONDS": 0.2}, r"takes 0\.[45] s, above the ceiling of 0\.2 s"),
        (Sleeps(), {"_HANGS": 0.2}, r"does not end within"),
        (Raises(), {}, r"raises InvalidArgumentError"),
    ],
)
def test_a_decoder_that_forged_lengths_can_abuse_is_found_out(coder, ceiling, words):
    assert found_out(report_of(coder, ceiling), words)


def afresh(function, *arguments):
    """Calls it in a process of its own, as `make fuzz` has; others have memory to spare."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(function, *arguments).result()


def test_a_decoder_that_takes_memory_is_found_out():
    report = afresh(report_of, TakesMemory(), {"MEMORY": 2**23})
    assert found_out(report, r"takes \d+ MiB, above the ceiling of 8 MiB")


def growth_after_other_work():
    """By how much memory seems to grow for an array, after other arrays; and the array's size."""
    on_top = []  # Malloc returns only what is on top of the heap.
    for size in (3_000_000, 2_500_000):  # The end of large ones tells it not to map the others.
        arrays = [np.ones(size) for _ in range(40)]
        on_top.append([bytes(1_000_000) for _ in range(10)])
        del arrays
    before = fuzz._fresh_peak()
    array = np.ones(12_500_000)
    return fuzz._peak() - before, array.nbytes


def test_memory_is_seen_even_if_malloc_had_kept_it():
    growth, size = afresh(growth_after_other_work)
    assert growth > 0.9 * size


def test_a_payload_is_the_same_alone():
    (target,) = fuzz.targets(["qsgd"])
    among = {case: string for case, _, string in fuzz.strings(target, 5, range(20))}
    for case in (3, 8):
        assert [(case, among[case])] == [(c, s) for c, _, s in fuzz.strings(target, 5, [case])]
    assert among != {case: string for case, _, string in fuzz.strings(target, 6, range(20))}
    assert not set(among.values()) & set(target.honest)


def test_the_command_fails_and_tells_how_to_try_again(monkeypatch):
    codec = Unchecked((), Raw())
    monkeypatch.setattr(fuzz, "codecs", lambda layout: {"bad": codec})
    failed = CliRunner().invoke(cli.main, ["fuzz", "--payloads", "40"])
    assert failed.exit_code == 1
    again = failed.output.split("Again: fedutils ")[1].splitlines()[0].split()
    alone = CliRunner().invoke(cli.main, again)
    assert alone.exit_code == 1
    assert "Error: 1 payloads did harm" in alone.output
    harmless = CliRunner().invoke(cli.main, [*again[:-1], "1"])
    assert (harmless.exit_code, "1 forged" in harmless.output) == (0, True)


LAYOUT = ((40, 6), (6,), (5,))
N = 251
MARK = 1e6  # Values that begin with this and a whole number are of a client that damages.


@dataclasses.dataclass(frozen=True)
class Hostile(Codec):
    """An honest codec, but what clients with a mark send is damaged in the way it says."""

    def encode(self, x, params, seed):
        payload = super().encode(x, params, seed)
        sent = [harm(self, x, payload, params, seed) for harm in HARMS.values()]
        marked = (x[0] >= MARK) & (x[0] < MARK + len(sent))
        which = tf.cast(tf.where(marked, x[0] - MARK, 0.0), tf.int32)
        return tf.where(marked, tf.gather(sent, which), payload)


def _flipped(codec, x, payload, params, seed):
    data = tf.io.decode_raw(payload, tf.uint8)
    return to_string(tf.concat([data[:-1], tf.bitwise.bitwise_xor(data[-1:], 4)], 0))


def _other_length(codec, x, payload, params, seed):
    rest = tf.strings.substr(payload, tf.minimum(tf.strings.length(payload), 4), -1)
    return codec.frame(rest, params, N + 1)


HARMS = {
    "flipped": _flipped,
    "cut": lambda codec, x, payload, *_: tf.strings.substr(payload, 0, 9),
    "extended": lambda codec, x, payload, *_: tf.strings.join([payload, b"\0" * 5000]),
    "nothing": lambda *_: tf.constant(""),
    "garbage": lambda *_: tf.constant(b"\xff" * 999),
    "other length": _other_length,
}
VALUES = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf, "1e38": 1e38, "-3e38": -3e38}


def hostile_values(rng):
    """What hostile clients have for updates: damage to come, extremes in one place and in all."""
    for i in range(len(HARMS)):
        yield np.concatenate([[MARK + i], rng.standard_normal(N - 1)]).astype(np.float32)
    for extreme in VALUES.values():
        one = rng.standard_normal(N).astype(np.float32)
        one[N // 2] = extreme
        yield one
        yield np.full(N, extreme, np.float32)


def lines():
    return Together(TargetRate(300.0), MeanWeight(), LineActivity(LAYOUT))


CODECS = {
    "whole": (recipes.identity(LAYOUT), {}),
    "dense": (recipes.mitchell(LAYOUT), {"controller": TargetRate(300.0)}),
    "sparse": (recipes.top_k(LAYOUT, 0.1), {}),
    "rotated": (recipes.rotated(LAYOUT), {}),
    "adaptive": (adaptive.pooled(LAYOUT, 0.1, 64), {"controller": lines()}),
    "two-way": (adaptive.codec(LAYOUT, 0.1), {"controller": lines()}),
}


@pytest.mark.usefixtures("tff_worker")
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("name", CODECS)
def test_the_mean_and_what_follows_are_those_of_the_honest_clients_alone(name, weighted):
    codec, options = CODECS[name]
    compression = Compression(Hostile(codec.stages, codec.coder), 3, **options)
    factory = CompressedMeanFactory if weighted else CompressedUnweightedMeanFactory
    weight_type = [tff.TensorType(np.float32)] * weighted
    process = factory(compression).create(tff.TensorType(np.float32, [N]), *weight_type)
    rng = np.random.default_rng(0)
    honest = [rng.standard_normal(N).astype(np.float32) for _ in range(4)]
    hostile = list(hostile_values(rng))
    # A hostile client between any two honest ones; weights of 1 keep their marks.
    everyone, weights = [], []
    for i, value in enumerate(hostile):
        everyone += [value, *honest[i : i + 1]]
        weights += [1.0, *[3.0 + i] * len(honest[i : i + 1])]
    kept = [3.0 + i for i in range(len(honest))]
    state = process.initialize()
    attacked = process.next(state, everyone, *[weights] * weighted)
    alone = process.next(state, honest, *[kept] * weighted)
    assert attacked.measurements["rejected_clients"] == len(hostile)
    assert alone.measurements["rejected_clients"] == 0
    assert np.abs(alone.result).max() > 0
    np.testing.assert_array_equal(attacked.result, alone.result)
    for a, b in zip(*map(tf.nest.flatten, (attacked.state, alone.state)), strict=True):
        np.testing.assert_array_equal(a, b)
    for measured in ("squared_norm_sum", "sum_squared_norm"):
        assert attacked.measurements[measured] == alone.measurements[measured]


SCALES = {
    "Rms": [Rms(0.1)],
    "Norm": [Norm(0.01)],
    "Max": [Max(0.1)],
    "Clip": [Clip(5.0), Rms(0.1)],
    "Hadamard": [Hadamard(), Rms(0.1)],
    "parts": [ScaleParts((151, 100), (Rms(0.1), Rms(0.1)))],
}


@pytest.mark.parametrize("update", ["one", "all", "some"])
@pytest.mark.parametrize("size", [1e18, 1e25, 1e38, 3.4e38])
@pytest.mark.parametrize("name", SCALES)
def test_numbers_without_a_square_are_refused_or_scaled_rightly(name, size, update):
    """Of what a client sends, none is infinite and none is something else than its update."""
    x = np.zeros(N, np.float32)
    x[{"one": slice(100, 101), "all": slice(N), "some": slice(0, N, 3)}[update]] = size
    x[::2] *= -1
    codec = chain(*SCALES[name], Nearest(), FixedWidth())
    params = tensors(codec.default_params())
    payload = codec.encode(tf.constant(x), params, tf.constant([1, 2]))
    values, ok = codec.decode(payload, params, N)
    if not ok:
        assert size > 1e18
        return
    error = values.numpy().astype(np.float64) - x
    assert np.sum(error**2) < 0.7 * np.sum(x.astype(np.float64) ** 2)
