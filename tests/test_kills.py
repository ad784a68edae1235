"""Runs that are killed at any moment, and commands that meet in one folder: the same records."""

import json
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from support import REPOSITORY, environment, only_run, outcome

ROUNDS = 50
COMMAND = (
    *("run", "--recipe", "tff-compression", "--dataset", "synthetic", "--model", "logistic"),
    *("--clients", "2", "--rounds", str(ROUNDS), "--eval-every", "7", "--seed", "3"),
)


def moments(chance: random.Random) -> list[dict]:
    """Twenty moments: in start-up and training, then at the end; see `launcher`."""

    def moment(anchor: str, operations: int, delay: float | None) -> dict:
        return {"anchor": anchor, "operations": operations, "delay": delay}

    early = [moment("", chance.randrange(8), chance.uniform(0, 3)) for _ in range(5)]
    for at_operation in (True, False):
        for _ in range(5):
            delay = None if at_operation else chance.uniform(0, 0.1)
            early.append(moment("records.csv.", chance.randrange(20), delay))
    chance.shuffle(early)
    # Before the provenance is written; before it gets its name; while the checkpoints are removed.
    late = [moment("provenance.json.", chance.randrange(2), None) for _ in range(4)]
    return [*early, *late, moment("provenance.json.", chance.randrange(2, 6), None)]


@pytest.fixture(scope="module")
def launch():
    """Runs the command in a store, kills it at a moment if one is given; see `launcher`."""
    launcher = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("launcher.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    )
    assert launcher.stdout.readline() == "ready\n"

    def run(store: Path, moment: dict | None) -> dict:
        task = {"arguments": [*COMMAND, "--out", str(store)], "store": str(store), "moment": moment}
        launcher.stdin.write(json.dumps(task) + "\n")
        launcher.stdin.flush()
        return json.loads(launcher.stdout.readline())

    yield run
    launcher.stdin.close()
    assert launcher.wait(30) == 0


def recorded(store: Path) -> int:
    """The last round recorded, every file having been read."""
    for path in store.rglob("*.json"):
        json.loads(path.read_text())
    for path in store.rglob("*.npz"):
        assert zipfile.ZipFile(path).testzip() is None
    rounds = []
    for path in store.rglob("*.csv"):
        assert path.read_text().endswith("\n")
        rounds = pd.read_csv(path)["round"].tolist()
    assert rounds == list(range(len(rounds)))
    return len(rounds) - 1


@pytest.fixture(scope="module")
def expected(launch, tmp_path_factory):
    """The outcome of a run that was left alone."""
    store = tmp_path_factory.mktemp("left")
    assert launch(store, None) == {"status": 0, "rounds": list(range(1, ROUNDS + 1))}
    return outcome(only_run(store))


@pytest.mark.slow
def test_run_that_is_killed_at_twenty_moments_has_the_same_records(
    launch, expected, tmp_path, no_process_left
):
    """No file is ever half written, and a kill costs one round at most."""
    done, began = -1, 0
    for moment in moments(random.Random(6)):
        ended = launch(tmp_path, moment)
        assert ended["status"] == signal.SIGKILL, moment
        before, done = done, recorded(tmp_path)
        assert done >= before
        if ended["rounds"]:
            assert ended["rounds"][0] >= began  # the one in progress again, none before it
            began = ended["rounds"][-1]
    assert done == ROUNDS
    assert launch(tmp_path, None) == {"status": 0, "rounds": []}
    assert outcome(only_run(tmp_path)) == expected
    run = only_run(tmp_path)
    assert not list(run.folder.rglob("*.partial")) and not run.checkpoints.exists()


@pytest.mark.slow
def test_two_commands_at_once_share_one_run(expected, tmp_path, no_process_left):
    """One trains, and the other finds the run finished."""
    command = [Path(sys.executable).with_name("fedutils"), *COMMAND, "--out", tmp_path]
    options = dict(stdout=subprocess.PIPE, text=True, env=environment(), cwd=REPOSITORY)
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    said = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert ["round" in text for text in sorted(said, key=len)] == [False, True]
    assert len({text.splitlines()[-1] for text in said}) == 1  # where the records are
    assert outcome(only_run(tmp_path)) == expected
