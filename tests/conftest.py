"""Fixtures shared by all tests."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
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


@pytest.fixture
def no_process_left():
    """Fails if a process that the test started is still there some seconds after it."""
    before = {p.pid for p in psutil.process_iter()}
    yield
    _, alive = psutil.wait_procs(
        [p for p in psutil.process_iter() if p.pid not in before and _is_ours(p)],
        timeout=10,
    )
    assert not alive, [p.cmdline() for p in alive]


def _is_ours(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(name in words for name in ("worker_binary", "ipykernel", "fedutils", "papermill"))
