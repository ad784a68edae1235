"""The way into Binder: environment.yml and postBuild, as repo2docker uses them."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from support import REPOSITORY, environment

from fedutils import notebooks


def test_environment_brings_python_and_tools_and_leaves_packages_to_the_lock():
    described = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    assert set(described) == {"name", "channels", "dependencies"}
    assert described["channels"] == ["conda-forge"]
    # Plain names and no pip section: a version here would be a second lock.
    version = dict(entry.partition("=")[::2] for entry in described["dependencies"])
    python = version.pop("python")
    assert version == dict.fromkeys(["pip", "make", "git", "jupyter-server-proxy"], "")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f"=={python}.*"
    assert f"--python-version {python} " in (REPOSITORY / "Makefile").read_text()
    locked = re.findall(r"^([a-z0-9_.-]+)==", (REPOSITORY / "requirements.lock").read_text(), re.M)
    assert not set(locked) & {"jupyter-server-proxy", "make", "git"}


@pytest.fixture
def built(tmp_path):
    """A copy of the repository after postBuild, and the environment of the server that ran it."""
    copy, server = tmp_path / "home", tmp_path / "server"
    (copy / "notebooks").mkdir(parents=True)
    for name in ("Makefile", "postBuild", "requirements.lock", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, copy)
    venv.create(server)
    # What `make setup` would install there is this environment, which it finds to be ready.
    venv.create(copy / ".venv")
    (site,) = (copy / ".venv").glob("lib/python*/site-packages")
    (site / "locked.pth").write_text(sysconfig.get_path("purelib"))
    (copy / ".venv" / ".ready").touch()
    path = f"{server / 'bin'}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [copy / "postBuild"], cwd=copy, env=environment(PATH=path), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return copy, server


def test_notebooks_run_in_the_locked_environment_where_results_are(built):
    copy, server = built
    specs = KernelSpecManager(kernel_dirs=[str(server / "share" / "jupyter" / "kernels")])
    named = {
        yaml.safe_load(path.read_text())["metadata"]["kernelspec"]["name"]
        for path in notebooks.FOLDER.glob("*.ipynb")
    }
    assert named == {"python3"}
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=specs)
    said = []
    # As the server of a hub starts it, for a notebook in that folder.
    manager.start_kernel(
        cwd=str(copy / "notebooks"), env=environment(JUPYTERHUB_SERVICE_PREFIX="/user/me/")
    )
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=120)
        client.execute_interactive(
            "import os, sys\n"
            "print(os.getcwd(), sys.prefix, os.environ['TENSORBOARD_PROXY_URL'], sep='\\n')",
            output_hook=lambda message: said.append(message["content"].get("text", "")),
            timeout=120,
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    folder, prefix, board = "".join(said).split("\n")[:3]
    assert Path(folder) == copy
    assert Path(prefix) == copy / ".venv" != Path(sys.prefix)
    assert board == "/user/me/proxy/%PORT%/"
