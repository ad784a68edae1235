"""In a process of its own: this one may have children of other tests."""

import json
import subprocess
import sys

from support import REPOSITORY

SCRIPT = """
import json, subprocess, sys, time
from fedutils import usage
with usage.measured() as used:
    {work}
print(json.dumps([used.seconds, used.peak_bytes]))
"""


def measured(work):
    script = [sys.executable, "-c", SCRIPT.format(work=work)]
    made = subprocess.run(script, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return json.loads(made.stdout)


def test_time_and_memory_of_children():
    """A child that holds 200 MiB for a while."""
    child = "import time; held = bytearray(200 * 2**20); time.sleep(2)"
    seconds, peak = measured(f"subprocess.run([sys.executable, '-c', {child!r}], check=True)")
    assert 2 <= seconds < 20
    assert 200 * 2**20 < peak < 400 * 2**20


def test_nothing_started():
    seconds, peak = measured("time.sleep(0.7)")
    assert peak == 0 and 0.7 <= seconds < 10
