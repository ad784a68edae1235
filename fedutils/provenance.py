"""What decides a run's numbers, and where they came from."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import psutil

PACKAGE = Path(__file__).parent
REPOSITORY = PACKAGE.parent
_KINDS = ("csv", "json", "md", "png", "svg")
_MADE = ("results", "README.md", *(f"benchmarks/*.{kind}" for kind in _KINDS))

# Packages whose version can change a run's numbers.
DECIDING_PACKAGES = (
    *("tensorflow-federated", "tensorflow", "tensorflow-model-optimization", "keras"),
    *("numpy", "scipy", "mlxtend"),
)

_SHOWING = ("fedutils.progress",)


def digest(*parts: object) -> str:
    """Returns the SHA-256, in hexadecimal, of JSON-serialisable parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def versions(packages: tuple[str, ...] = DECIDING_PACKAGES) -> dict[str, str]:
    """Returns the installed versions of packages."""
    return {name: importlib.metadata.version(name) for name in packages}


@functools.cache
def code_digest(root: str = "fedutils.training") -> str:
    """Returns a digest of a module of this package and of all modules of it that it imports.

    Comments, docstrings and layout do not count, nor does what shows a run's progress: only what
    can change a number does.
    """
    digests, waiting = {}, [root]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in digests or name in _SHOWING or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += _imports(tree, name)
        digests[name] = hashlib.sha256(
            ast.dump(_WithoutDocstrings().visit(tree)).encode()
        ).hexdigest()
    return digest(digests)


def _source(module: str) -> Path | None:
    path = REPOSITORY.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((c for c in candidates if module.startswith("fedutils") and c.exists()), None)


def _imports(tree: ast.Module, module: str) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.level:
                raise ValueError(f"{module} uses a relative import; write fedutils.… instead")
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops strings that are statements: of modules, classes, functions and attributes."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        match node.value:
            case ast.Constant(value=str()):
                return None
        return node


def describe() -> dict[str, object]:
    """Returns what a result should say of its origin: versions, commit, machine.

    No path, user or host name is in it.
    """
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "code": code_digest(),
        "commit": commit(),
        "machine": machine(),
    }


def machine() -> dict[str, object]:
    """Returns what matters of this machine: processor, cores, memory, system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str | None:
    """Returns the checked-out commit; None outside git.

    `+changes` follows if files differ from it, other than published results, which change while
    they are made.
    """
    paths = [".", *(f":(exclude){path}" for path in _MADE)]
    try:
        name = _git("describe", "--always", "--abbrev=12")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
