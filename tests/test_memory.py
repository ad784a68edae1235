"""Memory stays flat: three hundred rounds, measured from outside."""

import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import REPOSITORY, environment

ROUNDS = 300
_MIB = 2**20


def memory(process: psutil.Process) -> tuple[float, float]:
    """MiB that a run's process and its worker have for themselves."""
    (worker,) = (p for p in process.children() if p.name() == "worker_binary")
    return tuple(p.memory_full_info().uss / _MIB for p in (process, worker))


@pytest.mark.slow
def test_memory_is_flat_over_300_rounds(tmp_path, no_process_left):
    """Medians of fifty rounds before the half and at the end: what a round needs comes and goes."""
    command = [Path(sys.executable).with_name("fedutils"), "run", "--dataset", "synthetic"]
    command += ["--model", "logistic", "--clients", "2", "--rounds", str(ROUNDS), "--out", tmp_path]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment(), cwd=REPOSITORY)
    process, samples = psutil.Process(run.pid), []
    while run.poll() is None:
        time.sleep(0.1)
        for path in tmp_path.glob("*/records.csv"):
            # they may end meanwhile
            with contextlib.suppress(psutil.Error, ValueError):
                samples.append((path.read_text().count("\n") - 2, *memory(process)))
    assert run.returncode == 0
    for position in (1, 2):
        half, end = (
            statistics.median(s[position] for s in samples if last - 50 < s[0] <= last)
            for last in (ROUNDS // 2, ROUNDS)
        )
        assert end - half < 3
