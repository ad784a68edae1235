"""TFF's worker process, and how other machines reach it: at one address, as long as a command runs.

`worker_binary` listens on all network interfaces and cannot be told otherwise. To be reached at one
address only, it gets a network namespace of its own, in which there is nothing but loopback. This
process has opened the address before it enters that namespace too, and hands bytes on:

    other process ─▶ host:port, this process │ namespace: localhost:port, worker_binary

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.util
import os
import socket
import struct
import subprocess
from pathlib import Path

from fedutils import processes
from fedutils.errors import UsageError

EVERYWHERE = "0.0.0.0"
"""The host that stands for all network interfaces."""

ENVIRONMENT = {
    # Sums split among threads round differently. Clients of a round still train at the same time.
    "TF_NUM_INTRAOP_THREADS": "1",
    # A heap for each thread keeps what another thread could use: memory would grow for hundreds of
    # rounds.
    "MALLOC_ARENA_MAX": "1",
}
"""What each worker process gets beside this process's environment."""

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 60.0
_BUFFER_BYTES = 2**20
# From sched.h, sockios.h and if.h.
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def command(port: int) -> list[str]:
    """Returns the command that starts TFF's worker, bound to the thread that starts it."""
    package = Path(importlib.util.find_spec("tensorflow_federated").origin).parent
    binary = str(package / "data" / "worker_binary")
    # As many clients at a time as there are cores: more would only take turns, and memory.
    at_once = len(os.sched_getaffinity(0))
    options = [f"--port={port}", f"--max_concurrent_computation_calls={at_once}"]
    return processes.bound_to_parent([binary, *options])


def serve(port: int, host: str = _LOOPBACK) -> None:
    """Runs a worker for others until this process is interrupted or the worker ends.

    Args:
        port: The port, from 1 to 65535.
        host: The address at which it is reached, of this machine; `EVERYWHERE` for all.

    Raises:
        UsageError: If there is no such address or port, the port is not free, the kernel does not
            let a process have a network of its own, or the worker ends by itself.
    """
    try:
        if port == 0:
            raise OSError("whoever is to reach it must know its port")
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"nothing can listen at {host}:{port} ({error}): choose an address of this machine "
            "(--host) and a free port from 1 to 65535 (--port)"
        ) from error
    if host == EVERYWHERE:
        listener.close()
    else:
        _leave_the_network()
    asyncio.run(_serve(port, host, None if host == EVERYWHERE else listener))


def _leave_the_network() -> None:
    """Moves this process, and those it will start, to a network that is loopback alone."""
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.unshare(_CLONE_NEWNET) and kernel.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise UsageError(
            "TFF's worker listens on all network interfaces unless it has a network namespace of "
            f"its own, which is refused here ({os.strerror(ctypes.get_errno())}): allow user "
            f"namespaces, or say --host {EVERYWHERE} where a firewall or a container closes the "
            "port to strangers"
        )
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


async def _serve(port: int, host: str, listener: socket.socket | None) -> None:
    worker = await asyncio.create_subprocess_exec(
        *command(port),
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the terminal is for this process to handle
    )
    try:
        await _answers(worker, port)
        if listener is not None:
            await asyncio.start_server(
                lambda *outside: _hand_on(*outside, port), sock=listener, limit=_BUFFER_BYTES
            )
        print(_announcement(host, port), flush=True)
        await worker.wait()
        raise UsageError("TFF's worker process ended by itself: is there memory left?")
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()


async def _answers(worker: asyncio.subprocess.Process, port: int) -> None:
    for _ in range(int(_START_SECONDS / 0.1)):
        if worker.returncode is not None:
            break
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(_LOOPBACK, port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise UsageError("TFF's worker process did not start: `fedutils check` tells why")


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Hands the bytes of one connection to the worker, and back."""
    inner_reader, inner_writer = await asyncio.open_connection(_LOOPBACK, port, limit=_BUFFER_BYTES)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # whoever goes away, the other side is told
            while data := await source.read(_BUFFER_BYTES):
                sink.write(data)
                await sink.drain()
        sink.close()

    with contextlib.suppress(asyncio.CancelledError):  # the command ends
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))


def _announcement(host: str, port: int) -> str:
    shown = "every address of this machine," if host == EVERYWHERE else host
    return (
        f"TFF's worker listens at {shown} port {port}, until this command is interrupted.\n"
        "Warning: TFF's wire is neither encrypted nor authenticated. Whoever reaches this address "
        "can have this machine compute, and read what is sent.\n"
        f"From another machine, reach {_LOOPBACK} here through a tunnel: "
        f"ssh -N -L {port}:{_LOOPBACK}:{port} THIS_MACHINE"
    )
