"""The repository as a whole: lock, Makefile, what is committed."""

import json
import re
import subprocess

import nbformat
import pytest
import yaml
from support import REPOSITORY, environment

from fedutils import notebooks

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
    import importlib.metadata

    for name, version in locked.items():
        assert importlib.metadata.version(name) == version


def test_make_alone_lists_every_target():
    text = make().stdout
    for target in ("setup", "check", "reproduce", "test", "lint", "html", "lab", "clean", "lock"):
        assert re.search(rf"^  {target} +\w", text, re.MULTILINE), target
    for name in notebooks.names():
        assert name in text


def test_make_refuses_a_mistyped_parameter():
    result = make("reproduce", "PROFILE=smoke", "RUONDS=3")
    assert result.returncode != 0
    assert "no notebook here has a parameter 'RUONDS'" in result.stderr


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


def test_conda_environment_leads_to_the_same_lock():
    environment_file = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    assert environment_file["dependencies"] == ["python=3.11", "pip", "make", "git"]
    assert "--require-hashes -r requirements.lock" in (REPOSITORY / "postBuild").read_text()


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
        text = executed.read_text()
        assert not [folder for folder in ("home", "root", "tmp") if f"/{folder}/" in text]
