"""TensorBoard inside a notebook, when a person is there to see it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from fedutils import results

# Colab's page shows a server of its machine only through its proxy.
_FRAME = """
google.colab.kernel.proxyPort(%d, {cache: true}).then((url) => {
  const frame = document.createElement("iframe");
  frame.src = url;
  frame.style = "width: 100%%; height: 800px; border: 0";
  document.body.append(frame);
});
"""


def show(*runs: results.Run) -> None:
    """Opens TensorBoard on the events of runs; headless, says how to open it instead."""
    logdir = ",".join(f"{run.folder.name}:{run.tensorboard}" for run in runs)
    arguments = f"--logdir_spec {shlex.quote(logdir)} --port 0"
    if os.environ.get("FEDUTILS_HEADLESS"):
        print("Executed without a person: TensorBoard is not opened. To open it later:")
        print(f"  .venv/bin/tensorboard {arguments}")
        return
    if os.environ.get("FEDUTILS_COLAB"):
        _show_in_colab(shlex.split(arguments))
        return
    from IPython import get_ipython

    # A kernel's PATH need not lead to the programs of its environment.
    os.environ.setdefault("TENSORBOARD_BINARY", str(Path(sys.executable).with_name("tensorboard")))
    shell = get_ipython()
    shell.run_line_magic("load_ext", "tensorboard")
    shell.run_line_magic("tensorboard", arguments)


def _show_in_colab(arguments: list[str]) -> None:
    """Starts TensorBoard, or finds it started, and shows it in Colab's page.

    Its own notebook extension would point the page at a port of the reader's machine: it runs in
    a kernel that does not look like Colab's (`fedutils.colab`).
    """
    from IPython.display import Javascript, display
    from tensorboard import manager

    started = manager.start(arguments)
    if isinstance(started, manager.StartLaunched | manager.StartReused):
        display(Javascript(_FRAME % started.info.port))
    else:
        print("TensorBoard did not start. To see why:")
        print(f"  .venv/bin/tensorboard {shlex.join(arguments)}")
