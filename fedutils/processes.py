"""Processes that do not outlive the one that started them (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

# Runs in a fresh interpreter between fork and the program proper, which keeps the setting.
_LAUNCHER = (
    "import ctypes, os, sys; "
    f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {signal.SIGKILL.value}); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def bound_to_parent(command: list[str]) -> list[str]:
    """Returns a command that the kernel kills when the thread that starts it ends.

    Args:
        command: Path of a program and its arguments.
    """
    return [sys.executable, "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def end_with_make() -> None:
    """If `make` started this process, asks the kernel to end it when `make` dies."""
    if "MAKELEVEL" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM.value)
