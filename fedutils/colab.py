"""Hands a notebook's cells to a Python 3.11, where the notebook's own Python cannot run them.

Google Colab runs a newer Python than TensorFlow Federated was released for. There a notebook's
first code cell fetches this repository and calls `start`, which makes the locked environment with
`make setup`, starts a Jupyter kernel in it, and from then on hands every cell to that kernel:

    page ── cell ──▶ Colab's kernel ── one call a cell ──▶ kernel with Python 3.11
         ◀─ output ─                ◀─ output, questions ─

Colab's own shell sees each cell as a single call. So numbers of cells, Run all, interrupting, and
what Colab does around a cell stay as they are; code, magics and tracebacks are the other kernel's.

This module runs in Colab's Python: it imports nothing of this package, needs only what each Jupyter
kernel has, and keeps to the syntax of Python 3.8.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import zmq
from IPython import get_ipython
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

ROOT = Path(__file__).resolve().parent.parent
HERE = "%%colab"  # first line of a cell that is not handed on, such as one that mounts a drive

_ATTRIBUTE = "python311"  # of the shell: how a cell finds the kernel that it is handed to
_START_SECONDS = 120.0
_COMPLETION_SECONDS = 5.0
_END_SECONDS = 5.0
# What steers Colab's Python, pip, uv, make or Matplotlib would mislead another Python's.
_FOREIGN = (
    *("CONDA", "IPYTHON", "JPY_", "MAKE", "MFLAGS", "MPL", "PIP_", "PYTHON", "UV_", "VIRTUAL_ENV"),
)


def start() -> None:
    """Makes the environment, starts a kernel in it, and hands it all further cells.

    Raises:
        CellError: If the environment cannot be made or the kernel does not start.
    """
    began = time.monotonic()
    own = ".".join(map(str, sys.version_info[:2]))
    print(f"This notebook runs Python {own}, for which there is no TensorFlow Federated.")
    make_environment()
    print("Starting Python 3.11", flush=True)
    kernel = Kernel(ROOT / ".venv" / "bin" / "python")
    _install(kernel)
    print(
        f"Ready after {time.monotonic() - began:.0f} s. From here on every cell runs in Python "
        f"{kernel.version}, in the folder {ROOT}; a cell that begins with {HERE} "
        f"still runs in Python {own}."
    )


def make_environment() -> None:
    """Makes `.venv` from the hashed lock, unless it is there.

    Raises:
        CellError: If that fails.
    """
    if (ROOT / ".venv" / ".ready").exists():
        return
    print("Installing Python 3.11 and the locked packages beside it: about 2.7 GB on disk.")
    print("That takes some minutes, once in a session.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = os.environ.get("PATH", os.defpath)
        if shutil.which("uv") is None:
            _run(uv_command(Path(folder)), path)
            path = os.pathsep.join([str(Path(folder) / "bin"), path])
        _run(["make", "--silent", "setup"], path)


def uv_command(folder: Path) -> list[str]:
    """Returns the command that installs the locked uv, which fetches Python 3.11, into a folder."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (locked,) = re.findall(r"^uv==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    (folder / "uv.lock").write_text(locked, encoding="utf-8")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder)]
    return [*pip, "-r", str(folder / "uv.lock")]


def _run(command: list[str], path: str) -> None:
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=_environment(PATH=path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    with process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        _stop(
            f"`{' '.join(command)}` failed with exit status {process.returncode}; its messages "
            "stand above. Run this cell again. If that does not help, run the notebooks on Linux "
            "with `make`, as the README says."
        )


def _environment(**changed: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) or "INDEX" in name  # where packages come from may stay
    }
    return {**kept, **changed}


class CellError(Exception):
    """Ends a cell. In place of a traceback of this process it shows the lines it was given."""

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self._lines = lines

    def _render_traceback_(self) -> list[str]:
        return self._lines


def _stop(message: str) -> None:
    raise CellError(message, [message])


class Result:
    """The value of a cell as the other kernel formatted it."""

    def __init__(self, data: dict[str, object], metadata: dict[str, object]) -> None:
        self._bundle = data, metadata

    def __repr__(self) -> str:
        return str(self._bundle[0].get("text/plain", ""))

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple:
        return self._bundle


class Kernel:
    """A Jupyter kernel in another Python; what it outputs appears as output of this one.

    It is spoken to over Unix sockets, so nothing listens on a TCP port. It ends with this process.
    """

    def __init__(self, python: Path) -> None:
        """Starts the kernel and waits until it answers.

        Args:
            python: The Python, in whose environment ipykernel is installed.

        Raises:
            CellError: If it ends or does not answer within two minutes.
        """
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        key = uuid.uuid4().hex.encode()
        file, connection = write_connection_file(
            str(folder / "kernel.json"), ip=str(folder / "socket"), transport="ipc", key=key
        )
        self.transformer = None  # of the cells that are handed to it
        self._shell = get_ipython()
        self._session = Session(key=key)
        self._context = zmq.Context()
        self._requests = self._connect(zmq.DEALER, connection, "shell_port")
        self._questions = self._connect(zmq.DEALER, connection, "stdin_port")
        self._outputs = self._connect(zmq.SUB, connection, "iopub_port")
        self._poller = zmq.Poller()
        for socket in (self._requests, self._questions, self._outputs):
            self._poller.register(socket, zmq.POLLIN)
        self._log = folder / "log"
        self._process = self._launch(python, file)
        atexit.register(self.end)
        self.version = self._wait_until_ready()

    def _connect(self, kind: int, connection: dict, port: str) -> zmq.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        if kind == zmq.SUB:
            socket.setsockopt(zmq.RCVHWM, 0)  # output that nobody reads for a while is kept
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        else:  # a kernel puts its questions to whoever has the identity of the request
            socket.setsockopt(zmq.IDENTITY, self._session.bsession)
        socket.connect(f"ipc://{connection['ip']}-{connection[port]}")
        return socket

    def _launch(self, python: Path, file: str) -> subprocess.Popen:
        # Colab's settings of IPython would load extensions that its own Python alone has.
        settings = ["--IPKernelApp.extensions=[]", "--HistoryManager.enabled=False"]
        settings.append("--Completer.use_jedi=False")  # it takes seconds to start
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [str(python), "-m", "ipykernel_launcher", "-f", file, *settings],
                cwd=str(ROOT),
                env=_environment(
                    PATH=os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
                    IPYTHONDIR=self._folder.name,
                    JPY_PARENT_PID=str(os.getpid()),  # the kernel ends when this process does
                    PYDEVD_DISABLE_FILE_VALIDATION="1",  # no warning about a debugger
                    FEDUTILS_COLAB="1",
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> str:
        """Waits until requests are answered and outputs arrive; returns the Python's version."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            reply = self.ask("kernel_info_request", {}, 1.0)
            if reply is not None:
                return reply["language_info"]["version"]
            if self._process.poll() is not None:
                break
        self.end()
        said = self._log.read_text(encoding="utf-8", errors="replace")
        _stop(f"Python 3.11 did not start. Run this cell again. It said:\n{said}")

    def execute(self, code: str) -> None:
        """Executes a cell there and shows its outputs here.

        Raises:
            CellError: If the cell raised an error: one of that name, with its traceback. Also if
                the kernel ended.
        """
        may_ask = getattr(self._shell.kernel, "_allow_stdin", True)
        content = dict(code=code, silent=False, store_history=True, user_expressions={})
        content.update(allow_stdin=may_ask, stop_on_error=False)
        number = f"get_ipython().execution_count = {self._shell.displayhook.prompt_count}"
        numbering = dict(content, code=number, silent=True, store_history=False)
        with self._interrupts_passed_on():
            self.ask("execute_request", numbering)  # as tracebacks should say it
            reply = self.ask("execute_request", content)
        if reply is None:
            _uninstall(self)
            self.end()
            _stop(
                f"Python 3.11 ended with exit status {self._process.returncode} (-9 is mostly for "
                "want of memory), and its variables are gone. Run the notebook again from its "
                "first cell: runs that were finished are found, not trained again."
            )
        for payload in reply.get("payload", []):
            self._shell.payload_manager.write_payload(payload)
        if reply["status"] != "ok":
            name = reply.get("ename", "Aborted")
            raise type(name, (CellError,), {})(reply.get("evalue", ""), reply.get("traceback", []))

    def ask(self, kind: str, content: dict, seconds: float = float("inf")) -> dict | None:
        """Sends a request and shows outputs until it is answered and all of them have come.

        Args:
            kind: The request's type in Jupyter's messaging protocol, such as `execute_request`.
            content: Its content.
            seconds: How long to wait at most.

        Returns:
            The content of the reply; None if none came in time or the kernel has ended.
        """
        request = self._session.send(self._requests, kind, content)["header"]["msg_id"]
        deadline = time.monotonic() + seconds
        reply, idle = None, False
        while reply is None or not idle:
            ready = self._poller.poll(200)
            over = self._process.poll() is not None or time.monotonic() > deadline
            if over and not ready:
                return None
            for socket, _ in ready:
                message = self._session.recv(socket, zmq.NOBLOCK)[1]
                answers = message["parent_header"].get("msg_id") == request
                if socket is self._questions:
                    self._answer(message)
                elif socket is self._outputs:
                    idle |= answers and message["content"].get("execution_state") == "idle"
                    self._show(message["header"]["msg_type"], message["content"])
                elif answers:
                    reply = message["content"]
        return reply

    def _show(self, kind: str, content: dict) -> None:
        if kind == "stream":
            stream = sys.stderr if content["name"] == "stderr" else sys.stdout
            stream.write(content["text"])
            stream.flush()  # keeps the order of both streams and of displays
        elif kind in ("display_data", "update_display_data"):
            self._shell.display_pub.publish(
                data=content["data"],
                metadata=content["metadata"],
                transient=content.get("transient", {}),
                update=kind == "update_display_data",
            )
        elif kind == "execute_result":
            self._shell.displayhook(Result(content["data"], content["metadata"]))
        elif kind == "clear_output":
            self._shell.display_pub.clear_output(content.get("wait", False))

    def _answer(self, question: dict) -> None:
        """Lets the reader answer `input` or `getpass` of the other kernel."""
        content = question["content"]
        read = getpass.getpass if content.get("password") else input
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            value = read(content["prompt"])
        except KeyboardInterrupt:
            self.interrupt()
            return
        except EOFError:
            value = "\x04"  # which the other kernel takes for it
        finally:
            signal.signal(signal.SIGINT, before)
        self._session.send(self._questions, "input_reply", {"value": value}, parent=question)

    @contextlib.contextmanager
    def _interrupts_passed_on(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, lambda *_: self.interrupt())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def interrupt(self) -> None:
        """Interrupts what the kernel does, and the processes that a cell started there."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> None:
        """Ends the kernel, if it still runs."""
        atexit.unregister(self.end)
        if self._process.poll() is None:
            self._session.send(self._requests, "shutdown_request", {"restart": False})
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._context.destroy(linger=0)


def _install(kernel: Kernel) -> None:
    """Hands all further cells, completions and inspections of this shell to a kernel."""
    shell = get_ipython()
    before = getattr(shell, _ATTRIBUTE, None)
    if before is not None:
        _uninstall(before)
        before.end()

    def handed_on(lines: list[str]) -> list[str]:
        """Replaces a cell by the call that hands it on."""
        request = getattr(shell, "parent_header", None) or {}
        cell = "".join(lines)
        if not cell.strip() or request.get("content", {}).get("silent"):
            return lines  # not a reader's, but a front end's own
        if lines[0].strip() == HERE:
            return lines[1:]
        return [f"get_ipython().{_ATTRIBUTE}.execute({cell!r})\n"]

    def complete(code: str, cursor_pos: int) -> dict:
        content = dict(code=code, cursor_pos=cursor_pos)
        nothing = dict(status="ok", matches=[], metadata={})
        nothing.update(cursor_start=cursor_pos, cursor_end=cursor_pos)
        return kernel.ask("complete_request", content, _COMPLETION_SECONDS) or nothing

    def inspect(code: str, cursor_pos: int, detail_level: int = 0, *_, **__) -> dict:
        content = dict(code=code, cursor_pos=cursor_pos, detail_level=detail_level)
        nothing = dict(status="ok", found=False, data={}, metadata={})
        return kernel.ask("inspect_request", content, _COMPLETION_SECONDS) or nothing

    # Before all other transformers: magics are the other kernel's.
    shell.input_transformers_cleanup.insert(0, handed_on)
    kernel.transformer = handed_on
    shell.kernel.do_complete, shell.kernel.do_inspect = complete, inspect
    setattr(shell, _ATTRIBUTE, kernel)


def _uninstall(kernel: Kernel) -> None:
    """Lets this shell execute its cells itself again."""
    shell = get_ipython()
    if getattr(shell, _ATTRIBUTE, None) is kernel:
        shell.input_transformers_cleanup.remove(kernel.transformer)
        del shell.kernel.do_complete, shell.kernel.do_inspect
        setattr(shell, _ATTRIBUTE, None)
