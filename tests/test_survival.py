"""Full disks, folders that vanish, clocks that go back, no home: a clear error or correct work."""

import asyncio
import dataclasses
import os
import pwd
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import REPOSITORY, environment, fedutils, only_run, outcome

from fedutils import checkpoints, data, results, training
from fedutils.errors import UsageError

CONFIG = training.RunConfig(
    data=data.DataConfig("synthetic"), model="logistic", rounds=3, clients_per_round=2, eval_every=2
)
COMMAND = (
    *("run", "--dataset", "synthetic", "--model", "logistic", "--rounds", "3"),
    *("--clients", "2", "--eval-every", "2"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return training.run(CONFIG, tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def expected(finished):
    return outcome(finished)


def copy(run: results.Run, store: Path) -> results.Run:
    return results.Run(shutil.copytree(run.folder, store / run.folder.name))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, free_bytes: int) -> Path:
    """Fills a disk but for some bytes; returns the file that does."""
    status = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(status.f_bavail * status.f_bsize - free_bytes))
    return filler


# Where it becomes full: at the configuration, the records, TensorBoard's events, the states.
@pytest.mark.parametrize("free_kib", [0, 8, 16, 96])
def test_full_disk_is_one_error_and_space_is_enough_to_go_on(small_disk, expected, free_kib):
    store = small_disk / "store"
    filler = fill(small_disk, free_kib * 1024)
    with pytest.raises(UsageError, match=f"{store}.*No space left on device.*same command again"):
        training.run(CONFIG, store)
    assert not list(store.rglob("*.partial"))
    for table in store.rglob("records.csv"):
        assert pd.read_csv(table)["round"].tolist() == list(range(len(pd.read_csv(table))))
    filler.unlink()
    assert outcome(training.run(CONFIG, store)) == expected


def test_command_line_on_a_full_disk(small_disk, expected):
    filler = fill(small_disk, 64 * 1024)
    full = fedutils(*COMMAND, "--out", small_disk / "store")
    assert full.returncode == 1
    assert full.stderr.startswith("Error: the results folder ") and full.stderr.count("\n") == 1
    filler.unlink()
    assert outcome(training.run(CONFIG, small_disk / "store")) == expected


def test_what_is_there_survives_a_failed_write(tmp_path):
    """As any user: what would be the new file is a device that is always full."""
    path = tmp_path / "records.csv"
    results.write_text(path, "old\n")
    (tmp_path / f"records.csv.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="No space left on device"):
        results.write_text(path, "new\n")
    assert [p.name for p in tmp_path.iterdir()] == ["records.csv"]
    assert path.read_text() == "old\n"


def test_read_only_disk(small_disk):
    run = results.open_run(small_disk, "run", {}, {})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for write in (
        lambda: results.write_rows(run.records_path, [{"round": 0}]),
        lambda: training.run(CONFIG, small_disk / "store"),
        lambda: training.run(CONFIG, small_disk),
    ):
        with pytest.raises(
            UsageError, match=r"Read-only file system.*choose another one \(--out\)"
        ):
            write()


def test_run_that_is_deleted_while_it_trains(tmp_path):
    store = tmp_path / "store"

    def delete() -> None:
        while not list(store.glob("*/checkpoints/round_000002.npz")):
            time.sleep(0.01)
        while store.exists():
            shutil.rmtree(store, ignore_errors=True)

    deleter = threading.Thread(target=delete)
    deleter.start()
    with pytest.raises(UsageError, match=f"{store}.*deleted meanwhile, the same command makes it"):
        training.run(dataclasses.replace(CONFIG, rounds=5000), store)
    deleter.join()
    assert not store.exists()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was ended after its second round."""
    store = tmp_path_factory.mktemp("interrupted")
    datasets = training.Cohorts.datasets

    def select(self, round_number):
        if round_number == 3:
            raise KeyboardInterrupt
        return datasets(self, round_number)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training.Cohorts, "datasets", select)
        training.run(CONFIG, store)
    return only_run(store)


DAMAGES = {
    "deleted": None,
    "cut short": lambda text: text[:-40],
    "a row lost": lambda text: b"".join(text.splitlines(keepends=True)[i] for i in (0, 1, 3)),
    "noise": lambda text: bytes(range(256)),
}


def damage(path: Path, change) -> None:
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_run_goes_on_from_where_its_records_are_whole(interrupted, expected, tmp_path, change):
    run = copy(interrupted, tmp_path)
    assert run.recorded() == 2 and run.checkpoints.exists()
    damage(run.records_path, change)
    assert training.run(CONFIG, tmp_path).folder == run.folder
    assert outcome(run) == expected


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("records.csv", None),
        ("records.csv", DAMAGES["cut short"]),
        ("provenance.json", DAMAGES["cut short"]),
    ],
)
def test_finished_run_that_lost_a_part_is_made_again(finished, expected, tmp_path, name, change):
    run = copy(finished, tmp_path)
    damage(run.folder / name, change)
    training.run(CONFIG, tmp_path)
    assert outcome(run) == expected


def test_no_damaged_byte_of_a_checkpoint_stops_or_changes_a_run(tmp_path):
    """Every byte of the newest state is damaged in turn: it is passed over, or still the same."""
    manager = checkpoints.CheckpointManager(tmp_path)

    def state(value: float) -> list[np.ndarray]:
        return [np.full([2], value, np.float32), np.int64(value)]

    for version in (1, 2):
        asyncio.run(manager.save(state(version), version))
    newest = max(tmp_path.iterdir())
    content, passed_over = newest.read_bytes(), 0
    for place in range(len(content)):
        newest.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        loaded, version = asyncio.run(manager.load_latest(state(0)))
        passed_over += version == 1
        assert [leaf.tolist() for leaf in loaded] == [leaf.tolist() for leaf in state(version)]
    assert passed_over > len(content) / 2


def test_clock_that_goes_back(tmp_path, monkeypatch, expected):
    begin = time.monotonic()
    now = [1.6e9]

    def an_hour_earlier() -> float:
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", an_hour_earlier)
    made = training.run(CONFIG, tmp_path)
    assert now[0] < 1.6e9  # somebody asked
    table = made.records()
    seconds = table["seconds"][1:].tolist() + table["evaluation_seconds"].tolist()
    assert min(seconds) >= 0.0 and table["seconds"][1:].min() > 0.0
    assert sum(seconds) <= time.monotonic() - begin
    assert outcome(made) == expected


def without_home(*arguments: object, **extra: str) -> subprocess.CompletedProcess:
    """Runs the command line without HOME or, if it is given, with that one; with no terminal."""
    return subprocess.run(
        [Path(sys.executable).with_name("fedutils"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        env={k: v for k, v in environment().items() if k != "HOME"} | extra,
        cwd=REPOSITORY,
        start_new_session=True,
    )


def test_run_without_a_home(tmp_path, expected):
    result = without_home(*COMMAND, "--out", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("none: round 0/3")
    assert outcome(only_run(tmp_path)) == expected


@pytest.mark.notebook
def test_notebook_with_a_home_that_cannot_be_made(tmp_path):
    arguments = ("notebook", "00_setup", "--profile", "smoke", "-p", f"results_dir={tmp_path}")
    result = without_home(*arguments, HOME="/proc/nobody")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "notebooks" / "00_setup.ipynb").exists()


def test_user_unknown_to_the_system_needs_a_folder_only_for_downloads(tmp_path, monkeypatch):
    """As in a container that runs under a number of its own."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "FEDUTILS_DATA"):
        monkeypatch.delenv(name, raising=False)
    assert len(data.load(data.DataConfig("synthetic")).train.client_ids) == 2
    with pytest.raises(UsageError, match=r"no home folder.*--data-dir, FEDUTILS_DATA"):
        data.load(data.DataConfig("emnist"))
    assert data.data_folder(tmp_path) == tmp_path
