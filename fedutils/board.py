"""TensorBoard inside a notebook, when a person is there to see it."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from pathlib import Path

import tensorboard.manager
import tensorboard.notebook
from IPython import display

from fedutils import results

# TensorBoard's own limit, a minute, is too short on a machine that does other work.
_START = datetime.timedelta(minutes=5)

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
    """Opens TensorBoard on the events of runs; headless, says how to open it on all runs."""
    logdir = ",".join(f"{run.folder.name}:{run.tensorboard}" for run in runs)
    arguments = f"--logdir_spec {shlex.quote(logdir)} --port 0"
    if os.environ.get("FEDUTILS_HEADLESS"):
        print(f"To open TensorBoard: .venv/bin/tensorboard --logdir {runs[0].folder.parent}")
        return
    port = _started(arguments)
    if port is None:
        print("TensorBoard did not start. To see why:")
        print(f"  .venv/bin/tensorboard {arguments}")
    elif os.environ.get("FEDUTILS_COLAB"):
        # TensorBoard's own way would point the page at a port of the reader's machine: it runs in
        # a kernel that does not look like Colab's (`fedutils.colab`).
        display.display(display.Javascript(_FRAME % port))
    else:
        tensorboard.notebook.display(port, height=800)


def _started(arguments: str) -> int | None:
    """The port of a TensorBoard, started or found started; None if it does not start in time."""
    # A kernel's PATH need not lead to the programs of its environment.
    os.environ.setdefault("TENSORBOARD_BINARY", str(Path(sys.executable).with_name("tensorboard")))
    found = tensorboard.manager.start(shlex.split(arguments), timeout=_START)
    return found.info.port if hasattr(found, "info") else None
