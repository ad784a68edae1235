"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import functools
import os
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import SHARED

import fedutils  # noqa: F401 (before TensorFlow, whose log noise it tames)


@pytest.fixture(scope="session")
def tff_worker():
    """Lets TFF compute in this process."""
    from fedutils import runtime

    runtime.start()


@pytest.fixture(scope="session")
def writers_cache(tmp_path_factory) -> Path:
    """Folder of a federated EMNIST file with real digits by 400 writers, where it can be made."""
    source, tool = SHARED / "data" / "digits_by_writer.npz", SHARED / "tools" / "make_emnist_cache"
    if not (source.exists() and tool.exists()):
        pytest.skip("real digits by writer are not beside this checkout (../shared)")
    folder = tmp_path_factory.mktemp("writers")
    subprocess.run([sys.executable, tool, source, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def small_emnist(tmp_path_factory) -> Path:
    """A small file in federated EMNIST's format: 3 clients with 4 train and 2 test examples."""
    import tensorflow as tf

    path = tmp_path_factory.mktemp("small") / "emnist_all.sqlite"
    rng = np.random.default_rng(0)
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)"
        )
        database.execute(
            "CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)"
        )
        for split, size in (("digits_only_train", 4), ("digits_only_test", 2)):
            for client in ("writer_a", "writer_b", "writer_c"):
                database.execute(
                    "INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, size)
                )
                for label in rng.integers(0, 10, size):
                    pixels = rng.random(784, np.float32)
                    features = {
                        "pixels": tf.train.Feature(float_list=tf.train.FloatList(value=pixels)),
                        "label": tf.train.Feature(
                            int64_list=tf.train.Int64List(value=[int(label)])
                        ),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    database.execute(
                        "INSERT INTO examples VALUES (?, ?, ?)",
                        (split, client, example.SerializeToString()),
                    )
    database.close()
    return path


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """Executes a notebook with the smoke profile, once: name to its parameters' values.

    All of them share one folder of runs, `store`; each has a `results_dir` of its own, in whose
    folder `notebooks` the executed copy is. Processes that test side by side share them all.
    """
    from fedutils import notebooks

    beside = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if beside else folder) / "executed"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def execute(name: str) -> dict:
        folders = {"store": str(folder / "store"), "results_dir": str(folder / name)}
        known = {k: v for k, v in folders.items() if k in notebooks.parameters(name)}
        values = notebooks.resolve([name], "smoke", known)[name]
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            notebooks.execute(name, values, folder / name / "notebooks")
        return values

    return execute


@pytest.fixture
def no_process_left(monkeypatch):
    """Fails if a process that the test started is still there some seconds after it.

    Whatever a test starts inherits its environment, so a mark in it tells them from others.
    """
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FEDUTILS_TEST_MARK", mark)
    yield
    left = [process for process in psutil.process_iter() if _is_marked(process, mark)]
    _, alive = psutil.wait_procs(left, timeout=15)
    assert not alive, [process.cmdline() for process in alive]


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("FEDUTILS_TEST_MARK") == mark
    except psutil.Error:
        return False
