"""Runs `fedutils` again and again in processes that fork from this one, and kills them.

TensorFlow Federated takes ten seconds to import. It is imported once, here, where nothing of it
runs; each command is a child that starts it, as a process of its own would.

Reads a JSON object a line: the command's `arguments`, the `store` it works in, and the `moment` at
which it is killed, or null. Answers with a JSON object: its `status` as `os.waitpid` has it, and
the `rounds` that it began.

A moment is an `anchor` (a word of the path of a file, or empty: the start), the number of
`operations` on files in the store to wait for from then on, and the `delay` in seconds from there
to the kill; null kills before the operation is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from fedutils import cli, training

OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}


def watch(store: str, moment: dict, pipe: int) -> None:
    """Writes to a pipe when the moment has come."""
    left, at_anchor = moment["operations"], not moment["anchor"]

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left, at_anchor
        if event not in OPERATIONS or left < 0:
            return
        path = str(arguments[0])
        if Path(path).is_absolute() and not path.startswith(
            store
        ):  # others are in a folder held open
            return
        at_anchor = at_anchor or moment["anchor"] in path
        if at_anchor:
            left -= 1
            if left < 0:
                os.write(pipe, b"!")
                if moment["delay"] is None:
                    time.sleep(600)

    sys.addaudithook(hook)


def command(task: dict, pipe: int) -> None:
    """What the child does."""
    datasets = training.Cohorts.datasets

    def announced(self, round_number: int) -> list:
        os.write(pipe, b"%d\n" % round_number)
        return datasets(self, round_number)

    training.Cohorts.datasets = announced
    if task["moment"]:
        watch(task["store"], task["moment"], pipe)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    cli.main(task["arguments"], prog_name="fedutils")


def main() -> None:
    """Answers each line."""
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            return command(task, write)
        os.close(write)
        said = b""
        while some := os.read(read, 1000):
            said += some
            if b"!" in some:
                time.sleep(task["moment"]["delay"] or 0.0)
                os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(read)
        rounds = [int(word) for word in said.replace(b"!", b"").split()]
        print(json.dumps({"status": status, "rounds": rounds}), flush=True)


if __name__ == "__main__":
    main()
