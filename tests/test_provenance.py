import ast
import shutil
import subprocess

import pytest

from fedutils import provenance


def test_code_digest_follows_imports_and_ignores_words(tmp_path, monkeypatch):
    package = tmp_path / "fedutils"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "leaf.py").write_text('"""Doc."""\n\nVALUE = 1  # why\n')
    (package / "other.py").write_text("VALUE = 2\n")
    (package / "root.py").write_text("from fedutils import leaf\nx = leaf.VALUE\n")
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)

    def digest():
        provenance.code_digest.cache_clear()
        return provenance.code_digest("fedutils.root")

    first = digest()
    (package / "leaf.py").write_text('"""Other words."""\n\n\nVALUE = 1\n')
    assert digest() == first
    (package / "other.py").write_text("VALUE = 3\n")  # not imported
    assert digest() == first
    (package / "progress.py").write_text("from fedutils import other\n")  # only shows
    (package / "root.py").write_text("from fedutils import leaf, progress\nx = leaf.VALUE\n")
    showing = digest()
    (package / "progress.py").write_text("from fedutils import other\nshown = other.VALUE\n")
    assert digest() == showing != first
    (package / "root.py").write_text("from fedutils import leaf\nx = leaf.VALUE\n")
    (package / "leaf.py").write_text("VALUE = 2\n")
    assert digest() != first
    provenance.code_digest.cache_clear()


@pytest.mark.parametrize(
    "old", ["Of a module.", "Of a class.", "Of a function.", "Of a coroutine.", "Of an attribute."]
)
def test_no_docstring_counts(old, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    text = '''"""Of a module."""
LIMIT = "A value."
"""Of an attribute."""
class A:
    """Of a class."""
    limit = 1
    """Of an attribute."""
    def function(self):
        """Of a function."""
    async def coroutine(self):
        """Of a coroutine."""
        return LIMIT
'''

    def digest(text):
        provenance.code_digest.cache_clear()
        (tmp_path / "fedutils.py").write_text(text)
        return provenance.code_digest("fedutils")

    assert old in text
    assert digest(text.replace(old, "Other words.")) == digest(text)
    assert digest(text.replace("A value.", "Another.")) != digest(text)
    provenance.code_digest.cache_clear()


def test_what_trains_is_covered_and_what_draws_is_not():
    waiting, seen = ["fedutils.training"], set()
    while waiting:
        name = waiting.pop()
        path = provenance._source(name)
        if path and name not in seen:
            seen.add(name)
            waiting += provenance._imports(ast.parse(path.read_text()), name)
    assert {"fedutils.data", "fedutils.models", "fedutils.seeds", "fedutils.recipes"} <= seen
    assert not {"fedutils.figures", "fedutils.cli", "fedutils.notebooks"} & seen


def test_commit_is_none_outside_git(tmp_path, monkeypatch):
    assert shutil.which("git")
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None


def test_commit_tells_of_changes_but_not_of_what_is_made_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    names = ("README.md", "results/race.json", "benchmarks/peers.json", "benchmarks/peers.py")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"),
    ):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    commit = provenance.commit()
    for name in names[:3]:
        (tmp_path / name).write_text("made anew")
    assert provenance.commit() == commit
    (tmp_path / names[3]).write_text("changed")
    assert provenance.commit() == f"{commit}+changes"
