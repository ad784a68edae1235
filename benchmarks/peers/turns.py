"""Measuring in turn across environments: a child process that answers one request at a time.

A peer whose packages clash with the project's runs in an environment of its own. Its script calls
`serve` with what it can do; `Child` starts it and asks. Requests and answers are lines of JSON, so
that both sides need nothing but Python.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path


def serve(functions):
    """Answers requests on standard input until it ends.

    Args:
        functions: By name, functions of JSON values to a JSON value.
    """
    for request, answer in requests():
        try:
            answer({"value": functions[request.pop("do")](**request)})
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"[:500]})


def requests():
    """Yields requests, each with the function that answers it.

    Whatever else prints to standard output is sent to standard error.
    """
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        yield json.loads(line), lambda value: print(json.dumps(value), file=lines)


def timed(encode, decode, given):
    """Seconds of encoding and of decoding symbols, or floats, and the bytes between."""
    begin = time.perf_counter()
    data = encode(given)
    middle = time.perf_counter()
    decode(data, len(given))
    return middle - begin, time.perf_counter() - middle, len(data)


def least(encode, decode, given, repeats):
    """Least seconds of each over repeats, and this process's peak memory in MiB."""
    times = [timed(encode, decode, given)[:2] for _ in range(repeats)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [*map(min, zip(*times, strict=True)), peak]


class Failed(Exception):
    """What a child says it could not do, or that it ended."""


class Child:
    """A script that serves, in a Python of its own.

    Its standard error goes to `log`; it is ended with the `with` block.
    """

    def __init__(self, python, script, log, *arguments, cpu=None, environment=None):
        self._log = Path(log).open("wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), str(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        import psutil  # here alone: the children's environments need not have it

        descendants = []
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in psutil.wait_procs(descendants, timeout=2)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._log.close()

    def ask(self, do, seconds=900, **request):
        """Returns the child's answer to a request.

        Raises:
            Failed: If it cannot do it, ends, or does not answer in time.
        """
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise Failed(f"ended without an answer ({self._last_words()})")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["value"]

    def _last_words(self):
        self._process.wait()
        text = Path(self._log.name).read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {self._process.returncode}"
