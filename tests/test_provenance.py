import ast
import shutil

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
    (package / "leaf.py").write_text("VALUE = 2\n")
    assert digest() != first
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
