"""What is told of others: their decoders used right, and table and figures from the record."""

import collections
import contextlib
import copy
import json
import math
import re
import shutil
import sys
import time

import numpy as np
import psutil
import pytest
from support import REPOSITORY

from fedutils import distortion, peers, peers_figures, peers_table, verify
from fedutils.errors import UsageError

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "peers"))

import coders
import turns

RECORD = REPOSITORY / peers.RECORD
HERE = ("constriction ANS", "constriction range", "constriction Huffman", "zlib", "bz2")


@pytest.fixture(scope="module")
def found():
    return peers.read()


def test_nmse_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    vector = rng.normal(size=300).astype(np.float32)
    decoded = vector + rng.normal(size=300).astype(np.float32)
    error = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(decoded, vector, strict=True))
    expected = error / math.fsum(float(b) ** 2 for b in vector)
    assert distortion.nmse(decoded, vector) == pytest.approx(expected, rel=1e-12)
    assert distortion.nmse(vector, vector) == 0


def symbols_of(kind):
    rng = np.random.default_rng(1)
    return {
        "laplace": np.rint(rng.laplace(size=4000) * 2),
        "sparse": np.where(rng.random(4000) < 0.01, rng.choice([-1, 1], 4000), 0),
        "wide": np.rint(rng.standard_cauchy(4000) * 300).clip(-80_000, 80_000),
        "constant": np.full(4000, -7),
        "positive": rng.integers(100, 110, 4000),
    }[kind].astype(np.int32)


@pytest.mark.parametrize("kind", ["laplace", "sparse", "wide", "constant", "positive"])
@pytest.mark.parametrize("name", HERE)
def test_others_give_back_the_symbols(name, kind):
    given = symbols_of(kind)
    encode, decode = coders.coders()[name]()
    data = encode(given)
    assert isinstance(data, bytes)
    decoded = decode(data, len(given))
    np.testing.assert_array_equal(decoded, given)
    assert decoded.dtype == np.int32


@pytest.mark.parametrize("name", ["constriction ANS", "constriction range"])
def test_others_come_as_near_to_the_entropy_as_they_can(name):
    given = np.rint(np.random.default_rng(2).laplace(size=200_000) * 3).astype(np.int32)
    counts = np.array(list(collections.Counter(given.tolist()).values()))
    entropy = -np.sum(counts * np.log2(counts / len(given))) / 8
    data = coders.coders()[name]()[0](given)
    assert entropy <= len(data) <= 1.01 * entropy


@pytest.mark.parametrize("name", ["zlib", "bz2"])
def test_eight_bits_err_by_less_than_a_level_and_are_right_in_the_mean(name):
    layout = [(60, 500), (7,), (30_000,)]
    rng = np.random.default_rng(3)
    parts = [rng.normal(size=30_000), rng.normal(size=7), np.full(30_000, 0.25)]
    vector = np.concatenate(parts).astype(np.float32)
    encode, decode = coders.eight_bit(layout, *coders.compressors(False)[name])
    decoded = decode(encode(vector))
    level = np.ptp(vector[:30_000]) / 255
    error = decoded - vector
    assert np.max(np.abs(error[:30_000])) <= 1.001 * level
    assert abs(np.mean(error[:30_000])) < 4 * level / 2 / math.sqrt(30_000)
    np.testing.assert_array_equal(decoded[30_000:], vector[30_000:])


def points(codec, own, pairs, rounding="nearest", **more):
    return [
        {
            "codec": codec,
            "own": own,
            "measured": True,
            "round": 1,
            "rounding": rounding,
            "nmse": nmse,
            "bytes": size,
            **more,
        }
        for nmse, size in pairs
    ]


def test_what_ours_needs_is_read_off_between_its_points():
    rows = points("default", True, [(0.1, 100), (0.001, 300)])
    assert peers.own_bytes(rows, 0.001) == 300
    assert peers.own_bytes(rows, 0.01) == pytest.approx(200)
    assert peers.own_bytes(rows, 5.0) == 100
    assert peers.own_bytes(rows, 0.0009) == float("inf")


def test_others_are_compared_at_equal_distortion_within_the_range():
    rows = points("default", True, [(0.1, 100), (0.001, 300)])
    rows += points("default", True, [(1.0, 50), (0.01, 400)], rounding="random")
    rows += points("twice", False, [(0.01, 400)], rounding="random")
    rows += points("finer than any", False, [(1e-5, 400)])
    rows += points("finer than those that round alike", False, [(0.002, 400)], rounding="random")
    compared = peers.compare(rows, 800)
    assert [row["codec"] for row in compared] == ["twice"]
    assert compared[0]["own_bits"] == pytest.approx(4)
    assert compared[0]["ratio"] == pytest.approx(1)
    assert compared[0]["ratio_any"] == pytest.approx(2)
    assert peers.compare(rows, 80) == []  # 40 bits per parameter
    assert peers.compare(rows, 800_000) == []  # 0.004


def test_what_context_saves_is_of_one_coder_one_rounding_and_a_range(monkeypatch):
    rows = [
        {"codec": codec, "rounding": rounding, "own_bits": bits, "ratio": ratio}
        for codec, rounding, bits, ratio in (
            ("constriction ANS", "random", 1.0, 2.0),
            ("constriction ANS", "random", 2.0, 1.25),
            ("constriction ANS", "random", 3.0, 9.0),
            ("constriction ANS", "nearest", 1.0, 9.0),
            ("zstd", "random", 1.0, 9.0),
        )
    ]
    monkeypatch.setattr(peers, "compare", lambda *_: rows)
    nothing = {"rate_distortion": [], "parameters": 1}
    found = peers.saved_by_context(nothing, "random", 1.0, 2.0)
    assert found == pytest.approx((0.2, 0.5))


def test_a_peer_that_wins_is_named(found):
    assert peers.summary(found)["closest"] > 0
    changed = copy.deepcopy(found)
    row = next(row for row in changed["rate_distortion"] if row["codec"] == "bfloat16")
    row["bytes"] //= 10
    told = peers.summary(changed)
    assert "bfloat16" in told["wins"]
    assert told["closest"] < 1
    assert "Fewer bytes than ours somewhere: " in peers_table.table(changed, {})


def test_curves_that_coincide_have_one_name():
    bits = np.array([0.1, 1.0, 5.0])
    curves = {
        "constriction ANS": (bits, np.array([1.1, 1.5, 1.2])),
        "zstd": (bits, np.array([2.0, 1.5, 1.4])),
        "constriction range": (bits, np.array([1.11, 1.5, 1.2])),
        "tfc range": (bits, np.array([1.1, 1.52, 1.22])),
        "bfloat16": (bits[:1], np.array([1.1])),
    }
    groups = [peers_figures._joined(group) for group in peers_figures._alike(curves)]
    assert groups == ["constriction ANS, range; tfc range", "zstd", "bfloat16"]


def test_every_codec_is_named_in_the_figure(found):
    figure = peers_figures.rate_distortion(found)
    left, right = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert len(set(left)) == len(left) and len(set(right)) == len(right)
    compared = {row["codec"] for row in found["rate_distortion"] if not row["own"]}
    ends = {name.split()[-1] for name in compared}
    assert all(any(end in name for name in right) for end in ends)
    assert "ours" in right and {"ours, at random", "ours, to the nearest"} <= set(left)


def test_the_record_has_every_part_with_its_origin(found):
    parameters = found["parameters"]
    for row in found["rate_distortion"]:
        assert {"codec", "own", "measured", "round", "rounding", "nmse", "bytes"} <= set(row)
        assert row["nmse"] > 0 and 0 < row["bytes"] < 5 * parameters
        assert not row["measured"] or isinstance(row["bytes"], int)
    keys = [
        tuple(row.get(key) for key in ("codec", "round", "rounding", "step", "levels"))
        for row in found["rate_distortion"]
    ]
    assert len(set(keys)) == len(keys)
    # This project's codec covers the range on every update.
    for round_number in {row["round"] for row in found["rate_distortion"]}:
        own = [r for r in found["rate_distortion"] if r["own"] and r["round"] == round_number]
        bits = [8 * row["bytes"] / parameters for row in own]
        assert min(bits) <= peers.LEAST_BITS and max(bits) >= 6
    assert all(row["both_ms"] > 0 and row["bytes"] > 0 for row in found["speed"])
    assert {row["coder"] for row in found["growth"] if row["own"]} == {peers.DEFAULT}
    assert {peers.PLAIN, peers.OWN_PLAIN} <= {row["system"] for row in found["round_time"]}
    for part in peers.PARTS:
        about = found["about"][part]
        assert {"date", "commit", "machine", "versions", "peers", "unavailable"} <= set(about)
    assert not re.search(r"/(home|tmp|work|root|usr)/|https?:", RECORD.read_text())


def test_symbols_of_equal_step_have_equal_distortion(found):
    errors = {}
    for row in found["rate_distortion"]:
        if "step" in row:
            errors.setdefault((row["round"], row["rounding"], row["step"]), set()).add(row["nmse"])
    assert errors and all(len(values) == 1 for values in errors.values())


@pytest.fixture
def published(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for path in RECORD.parent.glob("peers*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path / "benchmarks")
    (tmp_path / "results").mkdir()
    shutil.copytree(REPOSITORY / "results" / "quick", tmp_path / "results" / "quick")
    return tmp_path


def test_a_stale_table_or_figure_is_found(published):
    assert list(verify.side_by_side(published)) == []
    folder = published / "benchmarks"
    record = json.loads((folder / "peers.json").read_text())
    row = next(row for row in record["rate_distortion"] if row["codec"] == "TFF 8-bit")
    row["bytes"] = 2 * row["bytes"]
    (folder / "peers.json").write_text(json.dumps(record))
    (folder / "peers_time.svg").unlink()
    told = "\n".join(verify.side_by_side(published))
    assert "peers.md is not what the records give" in told
    assert "peers.png is not what the records give" in told
    assert "peers_time.svg is missing" in told
    assert "peers_time.png" not in told


def test_a_part_that_was_not_measured_is_told(published):
    (published / "benchmarks" / "peers.json").write_text("{}")
    with pytest.raises(UsageError, match="make bench"):
        peers.read(published)
    (problem,) = verify.side_by_side(published)
    assert "make bench" in problem


SERVER = """
import os, subprocess, sys, turns
def start():
    return subprocess.Popen(["sleep", "100"]).pid
def printing(value):
    print("noise")
    return 2 * value
turns.serve({"double": printing, "fail": lambda: 1 / 0, "die": lambda: os._exit(3), "start": start})
"""


def test_a_child_answers_fails_dies_and_leaves_nothing(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    python_path = {"PYTHONPATH": str(REPOSITORY / "benchmarks" / "peers")}
    arguments = (sys.executable, tmp_path / "server.py", tmp_path / "log")
    with turns.Child(*arguments, environment=python_path) as child:
        assert child.ask("double", value=21) == 42
        with pytest.raises(turns.Failed, match="ZeroDivisionError"):
            child.ask("fail")
        started = child.ask("start")
        assert child.ask("double", value=[1]) == [1, 1]
    deadline = time.monotonic() + 30  # it was killed, and dies when the machine lets it
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(started).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with (
        turns.Child(*arguments, environment=python_path) as child,
        pytest.raises(turns.Failed, match="ended without an answer"),
    ):
        child.ask("die")


@pytest.mark.parametrize("name", ["codecs", "flower"])
def test_locks_of_peers_are_hashed_and_name_no_host(name):
    folder = REPOSITORY / "benchmarks" / "peers"
    lock = (folder / f"{name}.lock").read_text()
    assert "://" not in lock and "--index" not in lock
    packages = re.split(r"\n(?=\S)", lock.strip())
    assert len(packages) > 40
    assert all("--hash=sha256:" in package and "==" in package for package in packages)
    asked = re.findall(r"^([a-z][a-z-]*)", (folder / f"{name}.in").read_text(), re.MULTILINE)
    assert set(asked) <= {package.split("==")[0] for package in packages}
