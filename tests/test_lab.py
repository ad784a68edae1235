"""JupyterLab as `make lab` starts it, used as a person would: in a browser, from the Run menu."""

import contextlib
import json
import re
import secrets
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import browser
import papermill
import portpicker
import psutil
import pytest
from support import REPOSITORY, environment

from fedutils import notebooks

NAMES = ("01_baseline_fedavg", "04_accuracy_vs_bits")
SECONDS = 600  # for what takes some ten, where the machine is not busy

# Whether the kernel is idle, and the numbers that stand before the cells of code.
STATE = """[
  document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status,
  [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText.trim())
]"""
# Where the element of a class whose text is this one has its middle, once it is there.
MIDDLE = """(() => {
  const found = [...document.querySelectorAll('%s')].find(e => e.innerText.trim() === '%s');
  if (!found) return null;
  const box = found.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


def until(holds, what):
    """Waits until a function returns something true, and returns that."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {SECONDS} s")


def click(tab, selector, text):
    """Clicks on the middle of an element with the mouse."""
    x, y = until(lambda: tab.evaluate(MIDDLE % (selector, text)), f"{text} is on the page")
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        event = dict(type=kind, x=x, y=y, button="left", clickCount=1)
        tab.call("Input.dispatchMouseEvent", **event)


@pytest.fixture(params=NAMES)
def copy(request, tmp_path):
    """The notebook with the smoke profile's parameters, set as papermill does."""
    name = request.param
    folders = {"results_dir": str(tmp_path / "results"), "store": str(tmp_path / "runs")}
    values = notebooks.resolve([name], "smoke", folders)[name]
    path = tmp_path / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir()
    source = str(notebooks.FOLDER / path.name)
    papermill.execute_notebook(source, str(path), parameters=values, prepare_only=True)
    return path


@contextlib.contextmanager
def lab(notebook):
    """Yields the address of a notebook in a JupyterLab that shows its folder, and its process."""
    folder = notebook.parent
    port, token = portpicker.pick_unused_port(), secrets.token_hex(16)
    made = subprocess.run(
        ["make", "-s", "-n", "lab"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    )
    command = shlex.split(made.stdout.splitlines()[-1])
    start = next(i for i, word in enumerate(command) if word.endswith("/jupyter"))
    options = [f"--port={port}", "--ServerApp.port_retries=0", "--no-browser", "--allow-root"]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    jupyter = folder.parent / "jupyter"
    settings = jupyter / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # All cells are on the page, not only those that can be seen without scrolling.
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    own = {
        "JUPYTER_CONFIG_DIR": jupyter / "config",
        "JUPYTER_RUNTIME_DIR": jupyter / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": jupyter / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": jupyter / "workspaces",
        "IPYTHONDIR": jupyter / "ipython",
    }
    kept = [w for w in command[start:] if not w.startswith("--ServerApp.root_dir")]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("jupyter"), *kept[1:], *options],
        cwd=REPOSITORY,
        env=environment(**{name: str(value) for name, value in own.items()}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder.parent / "jupyter.log").open("wb"),
    )

    def answers():
        assert process.poll() is None, (folder.parent / "jupyter.log").read_text()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/login", timeout=60).status

    server = psutil.Process(process.pid)
    try:
        until(answers, "JupyterLab answers")
        yield f"http://127.0.0.1:{port}/lab/tree/{notebook.name}?token={token}", server
    finally:
        # What notebooks start, TensorBoard for one, outlives their kernels.
        started = server.children(recursive=True) if server.is_running() else []
        for one in [server, *started]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)


def kernels_of(server):
    """The processes of the server's kernels."""
    found = []
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "ipykernel_launcher" in process.cmdline():
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.skipif(not browser.PROGRAM, reason="needs a browser: apt-get install chromium")
def test_notebook_runs_from_the_menu(copy, tmp_path, no_process_left):
    def done():
        status, prompts = tab.evaluate(STATE)
        return status == "idle" and prompts and all(re.fullmatch(r"\[\d+\]:", p) for p in prompts)

    with lab(copy) as (address, server), browser.tab(tmp_path / "profile") as tab:
        tab.open(address, 1280, 900)
        kernels = until(lambda: kernels_of(server), "there is a kernel")
        assert [Path(kernel.cmdline()[0]) for kernel in kernels] == [Path(sys.executable)]
        assert [Path(kernel.cwd()) for kernel in kernels] == [REPOSITORY]
        click(tab, ".lm-MenuBar-itemLabel", "Run")
        click(tab, ".lm-Menu-itemLabel", "Run All Cells")
        until(done, "all cells ran")
        assert (
            tab.evaluate(
                "[...document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.error\"]')]"
                ".map(e => e.innerText)"
            )
            == []
        )
        images = tab.evaluate(
            "[...document.querySelectorAll('.jp-RenderedImage img')]"
            ".map(i => [i.naturalWidth, i.clientWidth, i.clientHeight])"
        )
        assert images and all(min(sizes) > 100 for sizes in images)
        if copy.stem != "01_baseline_fedavg":
            return  # only that one shows TensorBoard
        frame = "document.querySelector('iframe[id^=tensorboard]')?.src"
        board = until(lambda: tab.evaluate(frame), "TensorBoard is on the page")
        assert "TensorBoard" in urllib.request.urlopen(board, timeout=60).read().decode()
