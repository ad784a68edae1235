"""Notebooks in Colab: a real kernel of another Python, without TensorFlow, in Colab's place."""

import ast
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import IPython.display
import nbformat
import papermill
import pytest
import tensorboard.manager
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
from support import REPOSITORY, environment

from fedutils import address, board, colab, manifest, notebooks
from fedutils.errors import UsageError

NAMES = notebooks.names()
# As in Colab in 2025; its Python is 3.12 or 3.13.
PYTHON = ">=3.12,<3.14"
PACKAGES = ["ipykernel==6.17.1", "ipython==7.34.0", "jupyter_client==7.4.9", "setuptools"]
UV = Path(sys.executable).with_name("uv")


def stored(name):
    return nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# What stands in files.


@pytest.mark.parametrize("name", NAMES)
def test_first_code_cell_is_the_one_for_colab(name):
    first, second, *others = code_cells(stored(name))
    assert first.source == code_cells(stored("00_setup"))[0].source
    assert first.metadata.tags == ["colab"]
    assert second.metadata.tags == ["parameters"]
    assert not any("colab" in cell.metadata.get("tags", []) for cell in others)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_suits_colab(name):
    metadata = stored(name).metadata
    assert metadata.kernelspec.name == "python3" and metadata.kernelspec.language == "python"
    assert metadata.colab == {"provenance": [], "toc_visible": True}


def test_cell_for_colab_does_nothing_elsewhere(capfd):
    before = set(Path.cwd().iterdir()), list(sys.path)
    exec(code_cells(stored("00_setup"))[0].source, {})
    assert (set(Path.cwd().iterdir()), list(sys.path)) == before
    assert capfd.readouterr() == ("", "")


def test_module_needs_no_more_than_a_kernel_of_python_3_8_has():
    text = (REPOSITORY / "fedutils" / "colab.py").read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=module):
                imported.add(module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"IPython", "jupyter_client", "zmq"}
    ast.parse((REPOSITORY / "fedutils" / "__init__.py").read_text(), feature_version=(3, 8))


# The repository's address.


@pytest.fixture
def copied(tmp_path):
    """The files that name the address, in a folder of their own."""
    for folder in ("notebooks", "docs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def test_all_places_name_one_address():
    assert list(address.problems()) == []


def test_address_is_written_to_all_places(copied):
    before = {path: path.read_text() for path in copied.rglob("*") if path.is_file()}
    was, fork = address.read(copied), address.Address("https://github.com/you/fork.x", "v2/main")
    digest = manifest.cells_digest(copied / "notebooks" / "00_setup.ipynb")
    written = address.write(fork, copied)
    assert len(written) == 3 + len(NAMES)
    assert address.read(copied) == fork and list(address.problems(copied)) == []
    assert (
        "/you/fork.x/blob/v2/main/notebooks/00_setup.ipynb)" in (copied / "README.md").read_text()
    )
    for name in NAMES:
        cell = code_cells(nbformat.read(copied / "notebooks" / f"{name}.ipynb", 4))[0]
        assert 'repository, ref = "https://github.com/you/fork.x", "v2/main"\n' in cell.source
    # What notebooks compute did not change, so neither did published results become stale.
    assert manifest.cells_digest(copied / "notebooks" / "00_setup.ipynb") == digest
    assert address.write(fork, copied) == []
    address.write(was, copied)
    assert {path: path.read_text() for path in before} == before


def test_another_address_in_one_place_is_found(copied):
    path = copied / "notebooks" / "03_adaptive_compression.ipynb"
    path.write_text(path.read_text().replace(address.read(copied).repository, "https://x.org/y"))
    (problem,) = address.problems(copied)
    assert "03_adaptive_compression.ipynb names another address" in problem


@pytest.mark.parametrize(
    ("repository", "ref"),
    [
        ("https://example.org/you/fork", "main"),
        ("https://github.com/you", "main"),
        ('https://github.com/you/fork", "main"; import os #', "main"),
        ("https://github.com/you/fork", "--upload-pack=x"),
        ("https://github.com/you/fork", "a b"),
    ],
)
def test_what_is_no_address_is_refused(repository, ref):
    with pytest.raises(UsageError, match="must be"):
        address.Address(repository, ref)


# The environment.


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A checkout without environment, whose `make` only tells how it was called."""
    for name in ("requirements.lock", "Makefile"):
        shutil.copy(REPOSITORY / name, tmp_path)
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(
        '#!/bin/sh\necho "make $*, in $PWD"\nenv > env\n'
        "[ -e broken ] && exit 3\nmkdir -p .venv && touch .venv/.ready\n"
    )
    make.chmod(0o755)
    (make.parent / "uv").symlink_to(make)
    monkeypatch.setattr(colab, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", f"{make.parent}:/usr/bin:/bin")
    return tmp_path


def test_environment_is_what_make_setup_makes(bare, capfd, monkeypatch):
    for name in ("PYTHONPATH", "UV_SYSTEM_PYTHON", "PIP_CONSTRAINT", "MPLBACKEND", "MAKEFLAGS"):
        monkeypatch.setenv(name, "misleading")
    colab.make_environment()
    printed = capfd.readouterr().out
    assert "2.7 GB" in printed and "some minutes" in printed
    assert f"make --silent setup, in {bare}\n" in printed
    assert "misleading" not in (bare / "env").read_text()
    colab.make_environment()
    assert capfd.readouterr().out == ""


def test_failed_installation_ends_the_cell_and_is_tried_again(bare, capfd):
    (bare / "broken").touch()
    with pytest.raises(colab.CellError, match="`make --silent setup` failed with exit status 3"):
        colab.make_environment()
    (bare / "broken").unlink()
    capfd.readouterr()
    colab.make_environment()
    assert "make --silent setup" in capfd.readouterr().out


def test_uv_is_installed_from_the_lock_where_there_is_none(bare, monkeypatch):
    (bare / "bin" / "uv").unlink()
    monkeypatch.setenv("PATH", str(bare / "bin"))
    run = []
    monkeypatch.setattr(colab, "_run", lambda command, path: run.append((command, path)))
    colab.make_environment()
    (pip, _), (make, path) = run
    target = pip[pip.index("--target") + 1]
    assert pip[:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--no-deps", "--require-hashes"} <= set(pip)
    assert pip[-2:] == ["-r", f"{target}/uv.lock"]
    assert make == ["make", "--silent", "setup"] and path.split(":")[0] == f"{target}/bin"


def test_uv_of_the_lock_comes_with_its_hashes(tmp_path):
    colab.uv_command(tmp_path)
    lines = (tmp_path / "uv.lock").read_text().splitlines()
    assert re.fullmatch(r"uv==[\d.]+ \\", lines[0]) and len(lines) > 2
    assert all(line.strip().startswith("--hash=sha256:") for line in lines[1:])


def test_tensorboard_is_shown_through_the_proxy_of_colab(tmp_path, monkeypatch, capsys):
    shown, started = [], []
    run = SimpleNamespace(folder=tmp_path, tensorboard=tmp_path / "a folder")

    def start(arguments, timeout):
        started.append(arguments)
        return tensorboard.manager.StartLaunched(SimpleNamespace(port=4321))

    monkeypatch.setattr(tensorboard.manager, "start", start)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.setenv("FEDUTILS_COLAB", "1")
    monkeypatch.delenv("FEDUTILS_HEADLESS", raising=False)
    board.show(run)
    assert started == [["--logdir_spec", f"{tmp_path.name}:{tmp_path}/a folder", "--port", "0"]]
    assert "proxyPort(4321," in shown[0].data
    late = tensorboard.manager.StartTimedOut(pid=1)
    monkeypatch.setattr(tensorboard.manager, "start", lambda *_, **__: late)
    board.show(run)
    assert "did not start" in capsys.readouterr().out and len(shown) == 1


# Cells, handed from a kernel to another.


def installed(*arguments):
    return subprocess.run(
        [UV, *arguments], capture_output=True, text=True, env=environment(), timeout=120
    )


@pytest.fixture(scope="module")
def other_python(tmp_path_factory):
    """A Python without TensorFlow, with what Colab's kernel has."""
    folder = tmp_path_factory.mktemp("colab") / "python"
    newer = installed("venv", "--no-python-downloads", "--python", PYTHON, folder)
    if newer.returncode:  # not on this machine: the version differs, all else does not
        installed("venv", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    result = installed("pip", "install", "--python", python, *PACKAGES)
    if result.returncode:
        pytest.skip(f"no kernel like Colab's could be installed: {result.stderr.strip()[-200:]}")
    return python


@pytest.fixture(scope="module")
def first_cell(tmp_path_factory):
    """The notebooks' first code cell, fetching this checkout with the environment of the tests."""
    origin = tmp_path_factory.mktemp("origin")
    for folder in ("fedutils", "notebooks", "results/race"):
        shutil.copytree(
            REPOSITORY / folder, origin / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", origin)
    ready = origin / ".venv"
    ready.mkdir()
    for path in Path(sys.prefix).iterdir():
        (ready / path.name).symlink_to(path)
    (ready / ".ready").unlink(missing_ok=True)
    (ready / ".ready").touch()
    ref = address.read().ref
    as_nobody = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All"], ["tag", ref]):
        subprocess.run(["git", *as_nobody, *command], cwd=origin, check=True)
    source = code_cells(stored("00_setup"))[0].source
    assert source.count(address.read().repository) == 1
    return source.replace(address.read().repository, origin.as_uri())


class Kernel:
    """A kernel and what a front end does with it."""

    def __init__(self, python, folder, **variables):
        folder.mkdir(parents=True, exist_ok=True)
        file = Path("/tmp") / f"{uuid.uuid4().hex}.json"  # a socket's path must be short
        self.manager = KernelManager(transport="ipc", connection_file=str(file))
        arguments = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.manager._kernel_spec = KernelSpec(argv=arguments)
        self.manager.start_kernel(cwd=str(folder), env=environment(**variables))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code, answers=(), interrupt_after=None, **options):
        """Executes a cell; returns its outputs as (kind, content), and its reply."""
        outputs, answers = [], list(answers)

        def output(message):
            kind, content = message["header"]["msg_type"], message["content"]
            if kind not in ("status", "execute_input"):
                outputs.append((kind, content))
            if kind == "stream" and content["text"].strip() == interrupt_after:
                self.manager.interrupt_kernel()

        def answer(message):
            outputs.append(("question", message["content"]))
            self.client.input(answers.pop(0))

        status = "aborted"
        while status == "aborted":  # for a moment after an error, whatever is asked
            reply = self.client.execute_interactive(
                code,
                allow_stdin=bool(answers),
                output_hook=output,
                stdin_hook=answer,
                timeout=300,
                **options,
            )
            status = reply["content"]["status"]
        return outputs, reply["content"]

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def in_colab(python, folder, **variables):
    """A kernel that is to a notebook as Colab's is: with settings that mislead other Pythons."""
    package = folder / "packages" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def load_ipython_extension(shell): pass\n")
    settings = folder / "ipython" / "profile_default" / "ipython_config.py"
    settings.parent.mkdir(parents=True)
    settings.write_text("c.InteractiveShellApp.extensions = ['google.colab']\n")
    return Kernel(
        python,
        folder / "content",
        PYTHONPATH=str(folder / "packages"),
        IPYTHONDIR=str(folder / "ipython"),
        MPLBACKEND="module://not.there",
        **variables,
    )


@pytest.fixture(scope="module")
def kernel(other_python, first_cell, tmp_path_factory):
    """A kernel like Colab's that hands on its cells."""
    folder = tmp_path_factory.mktemp("session")
    kernel = in_colab(other_python, folder)
    try:
        outputs, reply = kernel.run("import importlib.util, sys; 'google.colab' in sys.modules")
        assert outputs[-1][1]["data"]["text/plain"] == "True", (outputs, reply)
        outputs, reply = kernel.run("importlib.util.find_spec('tensorflow') is None")
        assert outputs[-1][1]["data"]["text/plain"] == "True", (outputs, reply)
        outputs, reply = kernel.run(first_cell)
        assert reply["status"] == "ok", reply
        assert {content["name"] for _, content in outputs} == {"stdout"}, outputs
        said = "".join(content["text"] for _, content in outputs)
        assert "for which there is no TensorFlow Federated" in said
        assert "Ready after" in said and "every cell runs in Python 3.11" in said
        yield kernel
    finally:
        kernel.end()


def plain(outputs):
    """Returns (kind, what a reader sees), a stream in one piece however it came."""
    seen = []
    for kind, content in outputs:
        shown = content.get("text") or content.get("data", {}).get("text/plain")
        name, shown = content.get("name", kind), shown or content.get("evalue")
        if kind == "stream" and seen and seen[-1][0] == name:
            shown = seen.pop()[1] + shown
        seen.append((name, shown))
    return seen


def test_cells_run_in_the_other_python(kernel):
    outputs, reply = kernel.run(
        "import os, pathlib, sys\nimport fedutils\n"
        "print(sys.version_info[:2], 'google.colab' in sys.modules)\n"
        "print(pathlib.Path(fedutils.__file__).parents[1] == pathlib.Path.cwd())\n"
        "print(os.environ.get('PYTHONPATH'), os.environ['MPLBACKEND'])"
    )
    assert reply["status"] == "ok"
    text = "".join(shown for _, shown in plain(outputs))
    assert text == "(3, 11) False\nTrue\nNone module://matplotlib_inline.backend_inline\n"


def test_first_cell_run_again_does_nothing(kernel, first_cell):
    outputs, reply = kernel.run(first_cell)
    assert (outputs, reply["status"]) == ([], "ok")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('to stdout')", [("stdout", "to stdout\n")]),
        ("import sys\nprint('to stderr', file=sys.stderr)", [("stderr", "to stderr\n")]),
        ("'value'", [("execute_result", "'value'")]),
        ("'value';", []),
        ("%%bash\necho shell", [("stdout", "shell\n")]),
        ("%pprint", [("stdout", "Pretty printing has been turned OFF\n")]),
        ("\n\n  # only a comment", []),
        ("import asyncio\nawait asyncio.sleep(0)\n'awaited'", [("execute_result", "'awaited'")]),
        ("text = '''%%colab ? ! \\n'''\ntext", [("execute_result", r"'%%colab ? ! \n'")]),
        ("%%colab\n'google.colab' in sys.modules", [("execute_result", "True")]),
    ],
)  # fmt: skip
def test_outputs(kernel, code, expected):
    outputs, reply = kernel.run(code)
    assert (plain(outputs), reply["status"]) == (expected, "ok")


def test_result_keeps_its_forms_and_its_number(kernel):
    outputs, reply = kernel.run("import pandas as pd\npd.DataFrame({'a': [1]})")
    ((kind, content),) = outputs
    assert kind == "execute_result" and "<table" in content["data"]["text/html"]
    assert content["execution_count"] == reply["execution_count"]


def test_displays_are_updated_and_cleared(kernel):
    outputs, _ = kernel.run(
        "from IPython.display import clear_output, display\n"
        "handle = display({'text/plain': 'one'}, raw=True, display_id='shown')\n"
        "handle.update({'text/plain': 'two'}, raw=True)\n"
        "clear_output(wait=True)\n"
        "display({'image/png': 'aGk=', 'text/plain': 'three'}, raw=True, metadata={'x': 1})"
    )
    (shown, first), (updated, second), (cleared, third), (last, fourth) = outputs
    assert (shown, updated) == ("display_data", "update_display_data")
    assert first["transient"] == second["transient"] == {"display_id": "shown"}
    assert first["data"]["text/plain"] == "one" and second["data"]["text/plain"] == "two"
    assert (cleared, third) == ("clear_output", {"wait": True})
    assert last == "display_data" and fourth["data"]["image/png"] == "aGk="
    assert fourth["metadata"] == {"x": 1}


def test_progress_of_a_run_is_one_living_line(kernel):
    outputs, _ = kernel.run(
        "for percent in (0, 50, 100): print(f'\\r{percent} %', end='', flush=True)"
    )
    assert "".join(shown for _, shown in plain(outputs)) == "\r0 %\r50 %\r100 %"


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("def divide():\n    return 1 / 0\ndivide()", "ZeroDivisionError", "division by zero"),
        ("this is no Python", "SyntaxError", "invalid syntax"),
        ("raise SystemError()", "SystemError", ""),
    ],
)
def test_error_is_the_one_that_was_raised(kernel, code, name, message):
    outputs, reply = kernel.run(code)
    kind, content = outputs[-1]
    assert kind == "error" and content["ename"] == name
    assert content["evalue"].startswith(message)
    assert (reply["status"], reply["ename"]) == ("error", name)
    traceback = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(content["traceback"]))
    assert name in traceback and code.split("\n")[-1] in traceback
    assert "colab" not in traceback and f"In[{reply['execution_count']}]" in traceback


def test_cells_after_an_error_do_not_run(kernel):
    """As the front end sends them when all are run."""
    sent = [
        kernel.client.execute("import time\ntime.sleep(0.5)\nreached = 1\n1 / 0"),
        kernel.client.execute("reached = 2"),
    ]
    replies = {}
    while len(replies) < len(sent):
        reply = kernel.client.get_shell_msg(timeout=60)
        replies[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
    assert [replies[one] for one in sent] == ["error", "aborted"]
    outputs, _ = kernel.run("reached")
    assert plain(outputs) == [("execute_result", "1")]


def test_questions_are_the_readers_to_answer(kernel):
    outputs, reply = kernel.run(
        "import getpass\n[input('name? '), getpass.getpass('word? ')]", ["me", "secret"]
    )
    assert reply["status"] == "ok"
    (_, first), (_, second), (_, result) = outputs
    assert (first["prompt"], first["password"]) == ("name? ", False)
    assert (second["prompt"], second["password"]) == ("word? ", True)
    assert result["data"]["text/plain"] == "['me', 'secret']"
    outputs, reply = kernel.run("input('nobody is there')")
    assert reply["ename"] == "StdinNotImplementedError"


def test_interrupt_reaches_the_other_kernel(kernel):
    outputs, reply = kernel.run(
        "import time\nkept = 'kept'\nprint('sleeping', flush=True)\ntime.sleep(600)",
        interrupt_after="sleeping",
    )
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert outputs[-1][0] == "error" and "time.sleep" in "".join(outputs[-1][1]["traceback"])
    assert plain(kernel.run("kept")[0]) == [("execute_result", "'kept'")]


def test_names_are_completed_and_inspected_where_they_are(kernel):
    kernel.run("only_there = 7")
    completed = kernel.client.complete("only_th", reply=True, timeout=60)["content"]
    assert completed["matches"] == ["only_there"]
    found = kernel.client.inspect("only_there", reply=True, timeout=60)["content"]
    assert found["found"] and "7" in found["data"]["text/plain"]


def test_what_a_front_end_asks_for_itself_stays_here(kernel):
    """Colab's does, to show which cells were run."""
    here = "__import__('sys').version_info[:2] + ('google.colab' in __import__('sys').modules,)"
    _, reply = kernel.run("", user_expressions={"here": here}, store_history=False)
    assert reply["user_expressions"]["here"]["data"]["text/plain"].endswith("True)")
    _, reply = kernel.run("assert 'google.colab' in __import__('sys').modules", silent=True)
    assert reply["status"] == "ok"


def test_after_the_other_kernel_died_the_first_cell_starts_it_again(kernel, first_cell):
    outputs, reply = kernel.run("import os\nos.kill(os.getpid(), 9)")
    assert reply["status"] == "error"
    assert "ended with exit status -9" in reply["evalue"] and "first cell" in reply["evalue"]
    assert "Traceback" not in "".join(outputs[-1][1]["traceback"])
    here, _ = kernel.run("import sys\n'google.colab' in sys.modules")
    assert plain(here) == [("execute_result", "True")]
    outputs, reply = kernel.run(first_cell)
    assert "Ready after" in "".join(shown for _, shown in plain(outputs))
    there, _ = kernel.run("import sys\n'google.colab' in sys.modules")
    assert plain(there) == [("execute_result", "False")]


def joined(outputs):
    """Returns the outputs of a cell with each stream in one piece."""
    pieces = []
    for output in outputs:
        if pieces and output.get("name") and pieces[-1].get("name") == output["name"]:
            pieces[-1]["text"] += output["text"]
        else:
            pieces.append({key: output[key] for key in output if key != "transient"})
    return pieces


def run_all(kernel, notebook):
    """Runs the code cells of a notebook; returns the outputs of each as a notebook has them."""
    shown = []
    for cell in code_cells(notebook):
        outputs, reply = kernel.run(cell.source)
        assert reply["status"] == "ok", reply
        shown.append(joined({"output_type": kind, **content} for kind, content in outputs))
    return shown


def without_progress(outputs):
    """Leaves out how a run got on: it is made once, and found by whoever comes next."""

    def is_progress(output):
        shown = output.get("data", {})
        return list(shown) == ["text/plain"] and re.search(r": round \d+/\d+", shown["text/plain"])

    return [output for output in outputs if not is_progress(output)]


@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_notebook_shows_what_it_shows_elsewhere(
    name, executed, other_python, first_cell, tmp_path, no_process_left
):
    values = executed(name)
    notebook = papermill.execute_notebook(
        str(REPOSITORY / "notebooks" / f"{name}.ipynb"),
        str(tmp_path / "given.ipynb"),
        parameters=values,
        prepare_only=True,
    )
    code_cells(notebook)[0].source = first_cell
    kernel = in_colab(other_python, tmp_path / "session", FEDUTILS_HEADLESS="1")
    try:
        first, *shown = run_all(kernel, notebook)
    finally:
        kernel.end()
    path = Path(values["results_dir"]) / "notebooks" / f"{name}.ipynb"
    nothing, *expected = [joined(c.outputs) for c in code_cells(nbformat.read(path, as_version=4))]
    assert nothing == [] and "Ready after" in str(first)
    assert [*map(without_progress, shown)] == [*map(without_progress, expected)]
    kinds = {output["output_type"] for outputs in shown for output in outputs}
    assert kinds >= {"execute_result", "display_data"}
