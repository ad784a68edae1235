"""What several tests need: where things are, and the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from fedutils import results

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command started by a test: nothing of make's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return {**kept, **extra}


def fedutils(*arguments: object, timeout: float = 300, **extra: str) -> subprocess.CompletedProcess:
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [Path(sys.executable).with_name("fedutils"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**extra),
        cwd=REPOSITORY,
    )


def only_run(store: Path) -> results.Run:
    """The one run in a folder of run folders."""
    (folder,) = store.iterdir()
    return results.Run(folder)


def outcome(run: results.Run) -> tuple[str, str]:
    """What a run must repeat: its records, but for times, and its last weights."""
    table = pd.read_csv(run.records_path, dtype=str)
    kept = table.drop(columns=["seconds", "evaluation_seconds"])
    return kept.to_csv(), run.provenance["final_weights_sha256"]
