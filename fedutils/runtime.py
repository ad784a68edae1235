"""TFF's execution context, and the life of the worker process behind it.

TFF runs computations in `worker_binary`, a C++ process that it starts and never ends. Here it is
started so that it cannot outlive its Python process: it is ended at exit, and the kernel ends it
when the Python process dies in any other way.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import subprocess
import threading

import portpicker
import tensorflow_federated as tff

from fedutils import remotes, serving, workers

WORKERS = "FEDUTILS_WORKERS"
"""The environment variable that names the workers to spread rounds over; see `use_workers`."""

_chosen = ""  # by `use_workers`, in this process

_START_SECONDS = 60.0
_DYING_SECONDS = 1.0
_ATTEMPTS = 3
_ADVICE = "Is there memory left? `make check` tests it alone."
_STARTING = threading.Lock()
_M_ARENA_MAX = -8  # the same for a process that runs already: malloc.h


class Worker:
    """One `worker_binary` process on this machine, with the gRPC stub that talks to it."""

    def __init__(self) -> None:
        self._stub = None
        self._process = None
        self._error = None
        self._started = threading.Event()

    def _start_and_wait(self, port: int) -> None:
        # The worker is bound to the thread that starts it, so this thread lives as long as it.
        try:
            self._process = process = subprocess.Popen(
                serving.command(port),
                env={**os.environ, **serving.ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the terminal is for Python to handle
            )
        except Exception as error:  # whatever it is, another thread waits
            self._error = error
            return
        finally:
            self._started.set()
        process.wait()

    def stub(self) -> tff.framework.RemoteExecutorGrpcStub:
        """Returns the stub of a running worker; starts it if it is not running.

        Raises:
            RuntimeError: If no worker can be started, none answers within a minute, or each dies
                before it does.
        """
        if self._stub is not None and self._process.poll() is None and self._stub.is_ready:
            return self._stub
        if self._process is not None:
            print("TFF's worker process died; computing again in a new one", flush=True)
        for _ in range(_ATTEMPTS):
            self.stop()
            if self._start():
                return self._stub
            status = self._process.poll()
        self.stop()
        failed = f"did not answer within {_START_SECONDS:.0f} s"
        if status is not None:
            failed = f"ended before it answered, with status {status}"
        raise RuntimeError(f"TFF's worker process {failed}. {_ADVICE}")

    def _start(self) -> bool:
        """Starts a worker and waits for it; tells whether it answers."""
        self._started.clear()
        self._error = None
        port = portpicker.pick_unused_port()
        threading.Thread(target=self._start_and_wait, args=(port,), daemon=True).start()
        self._started.wait()
        if self._error is not None:
            raise RuntimeError(
                f"TFF's worker process cannot be started: {self._error}. {_ADVICE}"
            ) from self._error
        process = self._process
        self._stub = remotes.stub(
            f"localhost:{port}", _START_SECONDS, alive=lambda: process.poll() is None
        )
        return self._stub is not None

    def has_died(self) -> bool:
        """Tells whether the process that was started has ended, which may take it a moment."""
        if self._process is None:
            return True
        try:
            self._process.wait(_DYING_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Ends the worker process, if there is one."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = self._stub = None


class _RetryingContext(tff.framework.SyncExecutionContext):
    """Invokes a computation again if its worker died meanwhile: computations are pure."""

    def __init__(self, worker: Worker, **options) -> None:
        super().__init__(**options)
        self._worker = worker

    def invoke(self, comp, arg):
        """Raises RuntimeError if worker after worker dies."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return super().invoke(comp, arg)
            except Exception as error:
                if not self._worker.has_died():
                    raise
                if attempt == _ATTEMPTS:
                    raise RuntimeError(
                        f"TFF's worker process died {_ATTEMPTS} times in one computation. Is there "
                        "memory left? What was computed before is kept; the same command resumes."
                    ) from error


def _local_context() -> tff.framework.SyncExecutionContext:
    with _STARTING:  # `functools.cache` alone would let two threads make two
        return _made_once()


@functools.cache
def _made_once() -> tff.framework.SyncExecutionContext:
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    worker = Worker()
    atexit.register(worker.stop)
    worker.stub()  # start it now, so that a machine that cannot run it says so early

    def executor_stack(cardinalities):
        cardinalities.setdefault(tff.CLIENTS, 0)
        executor = tff.framework.RemoteExecutor(worker.stub())
        executor.set_cardinalities(cardinalities)
        return executor

    return _RetryingContext(
        worker,
        executor_fn=tff.framework.ResourceManagingExecutorFactory(executor_stack),
        compiler_fn=tff.backends.native.desugar_and_transform_to_native,
        transform_args=tff.tensorflow.transform_args,
        transform_result=tff.tensorflow.transform_result,
    )


@functools.cache
def _context(addresses: str) -> tff.framework.SyncContext:
    local = _local_context()
    if not addresses.strip():
        return local
    return workers.SpreadingContext(local, remotes.parse(addresses))


def start() -> None:
    """Makes TFF compute in a worker process that ends with this process.

    Rounds of federated learning are spread over the workers of `use_workers`, if any. TFF keeps its
    execution context per thread: call this in every thread that computes. All threads share one
    worker, started by the first call.

    Raises:
        UsageError: If one of the workers named is not there.
    """
    tff.framework.set_default_context(_context(_chosen or os.environ.get(WORKERS, "")))


def use_workers(addresses: str) -> None:
    """Lets further rounds be spread over TFF workers on other machines; results stay the same.

    Args:
        addresses: `host:port` of each (`fedutils worker` starts one), with commas between them.
            Empty: those of $FEDUTILS_WORKERS; or none, to compute on this machine alone.

    Raises:
        UsageError: If an address is malformed.
    """
    global _chosen
    if addresses.strip():
        remotes.parse(addresses)
    _chosen = addresses.strip()
