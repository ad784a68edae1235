"""No worker outlives what started it. Uses real processes and real signals."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tensorflow as tf
from support import REPOSITORY, environment, only_run, outcome

from fedutils import data, results, training

START = "from fedutils import runtime; runtime.start(); print('ready', flush=True); "


def workers(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if p.name() == "worker_binary"]


def start(script: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    process = subprocess.Popen(
        [sys.executable, "-c", START + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    )
    assert process.stdout.readline() == "ready\n"
    found = workers(psutil.Process(process.pid))
    assert len(found) == 1
    return process, found


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name
)
def test_worker_ends_with_a_killed_process(number):
    process, found = start("import time; time.sleep(600)")
    process.send_signal(number)
    process.wait(30)
    assert psutil.wait_procs(found, timeout=10)[1] == []


def test_worker_ends_at_exit_and_does_not_hold_the_pipe():
    process, found = start("input()")
    process.stdin.write("go on\n")
    process.stdin.close()
    assert process.stdout.read() == ""  # returns only when nobody holds the pipe
    assert process.wait(30) == 0
    assert psutil.wait_procs(found, timeout=10)[1] == []


def test_killed_worker_is_replaced(tff_worker):
    import tensorflow_federated as tff

    hello = tff.federated_computation(lambda: "Hello")
    assert hello() == b"Hello"
    (old,) = workers(psutil.Process())
    old.kill()
    old.wait(10)
    assert hello() == b"Hello"
    (new,) = workers(psutil.Process())
    assert new.pid != old.pid


def test_workers_that_keep_dying_are_told(tff_worker, monkeypatch):
    import tensorflow_federated as tff

    from fedutils import runtime

    monkeypatch.setattr(runtime.Worker, "has_died", lambda self: True)

    @tff.tensorflow.computation
    def fails():
        one = tf.random.uniform([], 1, 2, tf.int32)
        with tf.control_dependencies([tf.debugging.assert_equal(one, 2)]):
            return tf.identity(one)

    with pytest.raises(RuntimeError, match="died 3 times in one computation"):
        fails()


def test_a_run_whose_worker_dies_again_and_again_has_the_same_records(tmp_path, no_process_left):
    """Kills the worker at random moments; the run takes no notice but in its log."""
    command = [Path(sys.executable).with_name("fedutils"), "run", "--dataset", "synthetic"]
    command += ["--recipe", "adaptive", "--rounds", "40", "--clients", "2", "--out"]
    kept, killed = {}, 0
    for name, kill in (("left", False), ("killed", True)):
        process = subprocess.Popen(
            [*command, tmp_path / name],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=REPOSITORY,
        )
        chance = random.Random(1)
        seen = 0
        while kill and process.poll() is None and killed < 10:
            time.sleep(chance.uniform(0.1, 1.0))
            written = sum(len(f.read_bytes()) for f in tmp_path.glob("killed/*/records.csv"))
            if written == seen:
                continue  # three deaths in one round would end the run, as they should
            seen = written
            with contextlib.suppress(psutil.Error):
                for worker in workers(psutil.Process(process.pid)):
                    worker.kill()
                    killed += 1
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        kept[name] = outcome(only_run(tmp_path / name))
        told = output.count("worker process died; computing again in a new one")
        # The last one may have died when there was nothing left to compute.
        assert killed - 1 <= told <= killed
    assert killed > 3
    assert kept["left"] == kept["killed"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_interrupted_make_leaves_nothing(number, tmp_path, no_process_left):
    """Interrupts `make 01_baseline_fedavg` while its notebook trains."""
    command = [
        *("make", "01_baseline_fedavg", "PROFILE=smoke", "ROUNDS=5000"),
        *(f"STORE={tmp_path / 'store'}", f"RESULTS_DIR={tmp_path / 'results'}"),
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("store/*/records.csv")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.wait(60) != 0


@pytest.mark.slow
def test_killed_make_leaves_nothing_and_the_same_command_goes_on(
    tff_worker, tmp_path, no_process_left
):
    """Kills `make` alone, then `make` with all that it started; the third time it is left."""
    command = [
        *("make", "01_baseline_fedavg", "PROFILE=smoke", "ROUNDS=40"),
        *(f"STORE={tmp_path / 'store'}", f"RESULTS_DIR={tmp_path / 'results'}"),
    ]

    def recorded() -> int:
        return sum(len(results.read_rows(p)) for p in tmp_path.glob("store/*/records.csv"))

    for kill in (os.kill, os.killpg):
        before = recorded()
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), start_new_session=True
        )
        deadline = time.monotonic() + 240
        while recorded() < before + 3:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert before >= 3 and recorded() < 41
    subprocess.run(command, cwd=REPOSITORY, env=environment(), timeout=400, check=True)
    run = only_run(tmp_path / "store")
    config = run.config | {"data": data.DataConfig(**run.config["data"])}
    left = training.run(training.RunConfig(**config), tmp_path / "left")
    assert len(run.records()) == 41
    assert outcome(run) == outcome(left)
