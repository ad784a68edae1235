"""The repository as a whole: lock, Makefile, what is committed."""

import ast
import asyncio
import base64
import getpass
import hashlib
import importlib.metadata
import json
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import REPOSITORY, environment

from fedutils import checkpoints, notebooks, recipes
from fedutils.errors import UsageError

LOCK = (REPOSITORY / "requirements.lock").read_text()


def make(*arguments, cwd=REPOSITORY, **extra):
    return subprocess.run(
        ["make", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**extra),
        timeout=300,
    )


def test_every_locked_package_has_a_hash_and_no_index_is_named():
    blocks = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(blocks) > 100
    for block in blocks:
        assert re.match(r"[a-z0-9_.-]+==\S+", block), block
        assert "--hash=sha256:" in block, block
    assert "://" not in LOCK and "--index" not in LOCK


def test_lock_holds_what_is_asked_for_and_installed():
    locked = dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", LOCK, re.MULTILINE))
    asked = re.findall(
        r"^([a-z0-9-]+)(?:==(\S+))?$",
        (REPOSITORY / "requirements.in").read_text()
        + (REPOSITORY / "requirements.overrides").read_text(),
        re.MULTILINE,
    )
    assert len(asked) > 15
    for name, version in asked:
        assert name in locked
        assert version in ("", locked[name])
    for name, version in locked.items():
        assert importlib.metadata.version(name) == version


def test_what_the_package_imports_comes_with_its_dependencies():
    imported = set()
    for path in (REPOSITORY / "fedutils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    imported |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module)):
                    imported.add(module.partition(".")[0])
    imported -= {"fedutils", *sys.stdlib_module_names}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    brought, waiting = set(), [Requirement(text) for text in project["dependencies"]]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in brought:
            brought.add(name)
            asked = map(Requirement, importlib.metadata.requires(name) or ())
            waiting += [r for r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    homes = importlib.metadata.packages_distributions()
    missing = [m for m in imported if not brought & {canonicalize_name(d) for d in homes[m]}]
    assert len(imported) > 20 and missing == []


def test_nothing_is_installed_without_its_hash():
    """But this package itself, whose dependencies are the lock."""
    for name, least in (("Makefile", 2), ("postBuild", 0)):
        text = (REPOSITORY / name).read_text()
        commands = re.findall(r"^.*pip\b.* install (.*)$", text, re.MULTILINE)
        assert len(commands) >= least
        for arguments in commands:
            assert "--no-deps" in arguments
            assert "--require-hashes -r" in arguments or arguments.endswith("-e .")


@pytest.fixture
def wheel(tmp_path):
    """A package that is not on any registry."""
    path = tmp_path / "wheels" / "honest-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        files = {
            "honest.py": "",
            "honest-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: honest\nVersion: 1.0\n",
            "honest-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
            "Root-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "honest-1.0.dist-info/RECORD,,\n"
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
            record += f"{name},sha256={digest.decode()},{len(text)}\n"
            archive.writestr(name, text)
        archive.writestr("honest-1.0.dist-info/RECORD", record)
    return path


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_package_with_another_hash_is_not_installed(tmp_path, wheel, installer):
    """As make installs the lock: with pip for the installer uv, with uv for all others."""
    folder = Path(sys.executable).parent
    program = [sys.executable, "-m", "pip"] if installer == "pip" else [folder / "uv", "pip"]
    lock, target = tmp_path / "requirements.lock", tmp_path / "installed"

    def install(content: bytes) -> subprocess.CompletedProcess:
        lock.write_text(f"honest==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
        options = ["--no-deps", "--require-hashes", "-r", lock, "--no-index"]
        command = [*program, "install", *options, "--find-links", wheel.parent, "--target", target]
        return subprocess.run(command, capture_output=True, text=True, env=environment())

    refused = install(wheel.read_bytes() + b"tampered")
    assert refused.returncode != 0 and "sha256" in refused.stderr
    assert not list(tmp_path.glob("installed/honest*"))
    installed = install(wheel.read_bytes())
    assert installed.returncode == 0, installed.stderr
    assert (target / "honest.py").exists()


# What runs code that stands in a file, or may.
LOADERS_OF_CODE = {
    *("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"),
}
CALLS_THAT_RUN_TEXT = {"eval", "exec", "__import__", "compile"}
METHODS_THAT_UNPICKLE = {"read_pickle", "load_model", "unsafe_load", "full_load", "load_module"}


def dangers(text: str) -> list[str]:
    """Returns what in a source text could run code from data or results."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                modules = {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module)):
                modules = {module.partition(".")[0]}
            case _:
                modules = set()
        found += sorted(modules & LOADERS_OF_CODE)
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        match node.func:
            case ast.Name(id=name) if name in CALLS_THAT_RUN_TEXT:
                found.append(name)
            case ast.Attribute(attr=name) if name in METHODS_THAT_UNPICKLE:
                found.append(name)
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"):
                if keywords.get("allow_pickle") is not False:
                    found.append("np.load")
            case ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "load_all"):
                found.append("yaml.load")
        if keywords.get("shell") or keywords.get("allow_pickle"):
            found.append("shell or allow_pickle")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import torch.nn",
        "eval(text)",
        "pd.read_pickle(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_dangers_are_seen(text):
    assert len(dangers(text)) >= 1


def test_nothing_here_runs_code_from_data_or_results():
    sources = sorted((REPOSITORY / "fedutils").rglob("*.py"))
    assert len(sources) > 50
    found = {path.name: dangers(path.read_text()) for path in sources}
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        found[path.name] = dangers(re.sub(r"^\s*[%!].*$", "", code, flags=re.MULTILINE))
    assert {name: what for name, what in found.items() if what} == {}


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return (Path.touch, (self._path,))


def test_checkpoint_with_a_pickled_object_is_refused_and_nothing_of_it_runs(tmp_path):
    sprung = tmp_path / "sprung"
    bait = np.array([Trap(sprung)], dtype=object)
    np.savez(tmp_path / "round_000001.npz", leaf_0000=bait, leaves=1)
    manager = checkpoints.CheckpointManager(tmp_path)
    with pytest.raises(UsageError, match="delete the run's folder"):
        asyncio.run(manager.load(1, [np.zeros([1], np.float32)]))
    assert not sprung.exists()
    pickle.loads(pickle.dumps(bait))
    assert sprung.exists()  # it would have


def test_make_alone_lists_every_target():
    text = make().stdout
    for target in (
        "setup",
        "check",
        "reproduce",
        "test",
        "lint",
        "html",
        "lab",
        "clean",
        "lock",
        "audit",
    ):
        assert re.search(rf"^  {target} +\w", text, re.MULTILINE), target
    for name in notebooks.names():
        assert name in text


def test_vulnerabilities_are_listed_for_the_versions_that_are_locked():
    text = (REPOSITORY / "docs" / "VULNERABILITIES.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9-]+) (\d\S*) \| (.*?) \|", text, re.MULTILINE)
    assert len(rows) >= 5
    for name, version, advisories in rows:
        assert re.search(rf"^{name}=={re.escape(version)} ", LOCK, re.MULTILINE), (name, version)
        assert re.match(r"CVE-\d{4}-\d{4,}, [A-Z][a-z]+ \d{4}", advisories), advisories


def test_promises_name_tests_that_exist():
    text = (REPOSITORY / "docs" / "RELIABILITY.md").read_text()
    tests = REPOSITORY / "tests"
    files = {path.name: path.read_text() for path in tests.rglob("test_*.py")}
    promised = re.findall(r"`(test_\w+)`", text)
    assert len(promised) > 30
    for name in promised:
        assert any(f"def {name}(" in source for source in files.values()), name
    for name in re.findall(r"`(?:\w+/)?(test_\w+\.py)`", text):
        assert name in files


def test_make_refuses_a_mistyped_parameter():
    result = make("reproduce", "PROFILE=smoke", "RUONDS=3")
    assert result.returncode != 0
    assert "no notebook here has a parameter 'RUONDS'" in result.stderr


@pytest.mark.parametrize("value", ["a folder/with  spaces", "it's"])
def test_make_hands_values_on_as_they_are(tmp_path, value):
    """To a command that prints what it is given, an argument a line."""
    command = tmp_path / ".venv" / "bin" / "fedutils"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    command.chmod(0o755)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_setup.ipynb").touch()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv" / ".ready").touch()  # installs nothing
    race = make("race", f"DATA_DIR={value}", "DATASET=emnist", "RECIPES=own", cwd=tmp_path)
    expected = ["race", "--dataset", "emnist", "--data-dir", value, "--recipes", "own"]
    assert race.stdout.splitlines() == expected, race.stderr
    alone = make("00_setup", f"DATA_DIR={value}", "PROFILE=smoke", cwd=tmp_path)
    expected = ["notebook", "--profile", "smoke", "-p", f"DATA_DIR={value}", "00_setup"]
    assert alone.stdout.splitlines() == expected, alone.stderr
    refused = make("race", "RUONDS=3 4", cwd=tmp_path)
    assert refused.returncode != 0 and "no parameter RUONDS here" in refused.stderr


def test_make_says_how_to_get_python(tmp_path):
    """On a machine without Python 3.11 and uv."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "make", "sed", "awk", "printf", "touch"):
        path = subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip()
        if path:
            (tools / tool).symlink_to(path)
    result = make("setup", cwd=tmp_path, PATH=str(tools))
    assert result.returncode != 0
    for words in ("Python 3.11", "uv", "conda env create -f environment.yml"):
        assert words in result.stderr
    assert not (tmp_path / ".venv" / ".ready").exists()


def test_citation_and_licence():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0" and citation["title"]
    assert "Version 2.0, January 2004" in (REPOSITORY / "LICENSE").read_text()


def test_style():
    ruff = REPOSITORY / ".venv" / "bin" / "ruff"
    if not ruff.exists():
        pytest.skip("ruff is not in .venv: this is another environment")
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([ruff, *command, "."], cwd=REPOSITORY, capture_output=True)
        assert result.returncode == 0, result.stdout.decode()


PUBLISHED = sorted((REPOSITORY / "results").glob("*/provenance.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.parent.name)
def test_published_results_say_where_they_came_from(path):
    if path.parent.name == "smoke":
        pytest.skip("not published")
    origins = json.loads(path.read_text())
    for name, origin in origins.items():
        assert (path.parent / "records" / f"{name}.csv").exists()
        assert origin["config"]["seed"] >= 0
        assert origin["versions"]["tensorflow-federated"] == "0.87.0"
        assert origin["machine"]["cores"] > 0
        assert origin["wall_seconds"] > 0
        assert origin["commit"]
    for executed in (path.parent / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(executed, as_version=4)
        for cell in notebook.cells:
            assert not [o for o in cell.get("outputs", []) if o.output_type == "error"]


def test_published_files_name_no_path_user_or_machine():
    """Records, provenance, tables, figures, executed and stored notebooks."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "results", "notebooks", "README.md", "docs"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    ).stdout
    paths = [REPOSITORY / name for name in tracked.split("\0") if name]
    if not paths:
        pytest.skip("not a git checkout")
    assert {".csv", ".json", ".svg", ".ipynb", ".png", ".md"} <= {path.suffix for path in paths}
    names = {str(REPOSITORY), str(Path.home()), f"/{getpass.getuser()}/"}
    # Names too short or too common to look for are not told apart from words.
    names |= {name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 5}
    traces = re.compile(
        rb"/(home|root|tmp|Users|var/folders)/[\w.]|[A-Z]:\\\\?Users|"
        + b"|".join(re.escape(name.encode()) for name in sorted(names))
    )
    found = {
        str(path.relative_to(REPOSITORY)): match.group()
        for path in paths
        if path.exists() and (match := traces.search(_readable(path)))
    }
    assert found == {}


def _readable(path: Path) -> bytes:
    """Returns a file's bytes; of an executed notebook without the pictures, which are base64."""
    content = path.read_bytes()
    if path.suffix != ".ipynb":
        return content
    notebook = nbformat.reads(content.decode(), as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    return nbformat.writes(notebook).encode()


def test_whatever_is_cited_is_among_the_references():
    listed = (REPOSITORY / "docs" / "REFERENCES.md").read_text().split("\n- ")
    known = {
        (re.match(r"[\w-]+(?: [A-Z]\w+)*", entry)[0].split()[-1], year)
        for entry in listed[1:]
        for year in re.findall(r"\(((?:19|20)\d\d)", entry.replace("(1957, ", "(1957) ("))
    }
    sources = [
        *(REPOSITORY / "notebooks").glob("*.ipynb"),
        *(REPOSITORY / "fedutils").rglob("*.py"),
    ]
    sources += [REPOSITORY / "docs" / name for name in ("claims.toml", "README.template.md")]
    text = " ".join(" ".join(path.read_text() for path in sources).split())
    several = re.findall(r"([^\W\d_][\w-]+) (?:et al\.|and [A-Z]\w+),? ((?:19|20)\d\d)", text)
    papers = " ".join(recipe.paper for recipe in recipes.RECIPES.values())
    alone = re.findall(r"(?<!and )\b([A-Z][\w-]+) ((?:19|20)\d\d)", papers)
    cited = {*several, *alone}
    assert len(cited) > 20 and ("McMahan", "2017") in cited and ("Max", "1960") in cited
    assert cited <= known, cited - known
