"""TensorBoard inside a notebook, when a person is there to see it."""

from __future__ import annotations

import os
import shlex

from fedutils import results


def show(*runs: results.Run) -> None:
    """Opens TensorBoard on the events of runs; headless, says how to open it instead."""
    logdir = ",".join(f"{run.folder.name}:{run.tensorboard}" for run in runs)
    arguments = f"--logdir_spec {shlex.quote(logdir)} --port 0"
    if os.environ.get("FEDUTILS_HEADLESS"):
        print("Executed without a person: TensorBoard is not opened. To open it later:")
        print(f"  .venv/bin/tensorboard {arguments}")
        return
    from IPython import get_ipython

    shell = get_ipython()
    shell.run_line_magic("load_ext", "tensorboard")
    shell.run_line_magic("tensorboard", arguments)
