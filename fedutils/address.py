"""Where this repository can be fetched: said in pyproject.toml, copied to wherever Colab needs it.

Colab opens a notebook from a badge in the README and fetches the repository from the notebook's
first code cell. Both must name the same address, and the same tag or branch.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from fedutils import provenance, results
from fedutils.errors import UsageError

SOURCE = "pyproject.toml"


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository on GitHub, the only host whose notebooks Colab opens.

    Attributes:
        repository: `https://github.com/OWNER/NAME`.
        ref: Tag or branch that is fetched.

    Raises:
        UsageError: If either has another form.
    """

    repository: str
    ref: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", self.repository, re.ASCII):
            raise UsageError(
                f"the repository's address must be https://github.com/OWNER/NAME, from where Colab "
                f"can open notebooks, not {self.repository!r}"
            )
        if not re.fullmatch(r"\w[\w./-]*", self.ref, re.ASCII):
            raise UsageError(f"the ref must be the name of a tag or branch, not {self.ref!r}")


def read(root: str | Path = provenance.REPOSITORY) -> Address:
    """Returns the address that pyproject.toml names."""
    project = tomllib.loads((Path(root) / SOURCE).read_text(encoding="utf-8"))
    return Address(project["project"]["urls"]["Repository"], project["tool"]["fedutils"]["ref"])


def write(address: Address, root: str | Path = provenance.REPOSITORY) -> list[Path]:
    """Writes an address to pyproject.toml and to all places that repeat it.

    Returns:
        The files that it changed.

    Raises:
        UsageError: If a file has no such place any more; nothing is written then.
    """
    written = {path: _with(path, address) for path in _places(Path(root))}
    changed = [path for path, text in written.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        results.write_text(path, written[path])
    return changed


def problems(root: str | Path = provenance.REPOSITORY) -> Iterator[str]:
    """Finds files that name another address than pyproject.toml: a sentence each."""
    address = read(root)
    for path in _places(Path(root)):
        if _with(path, address) != path.read_text(encoding="utf-8"):
            yield f"{path.name} names another address than {SOURCE}; `make address` writes it"


def _places(root: Path) -> list[Path]:
    texts = [root / SOURCE, root / "README.md", root / "docs" / "README.template.md"]
    return [*texts, *sorted((root / "notebooks").glob("*.ipynb"))]


def _with(path: Path, address: Address) -> str:
    """Returns the text of a file with another address in it."""
    repository, ref = address.repository, address.ref
    opened = repository.replace("https://github.com/", "https://colab.research.google.com/github/")
    patterns = {
        ".toml": {
            r'^Repository = ".*"$': f'Repository = "{repository}"',
            r'^ref = ".*"': f'ref = "{ref}"',
        },
        ".md": {
            r"https://colab\.research\.google\.com/github/\S+?/blob/\S+?/(?=notebooks/)": (
                f"{opened}/blob/{ref}/"
            ),
        },
        # In a notebook, a line of code is a JSON string.
        ".ipynb": {
            r'^ *" +repository, ref = .*\\n",$': (
                rf'    "    repository, ref = \"{repository}\", \"{ref}\"\n",'
            ),
        },
    }[path.suffix]
    text = path.read_text(encoding="utf-8")
    for pattern, replacement in patterns.items():
        text, count = re.subn(pattern, lambda _, r=replacement: r, text, flags=re.MULTILINE)
        if not count:
            raise UsageError(f"{path.name} names no address of the repository any more")
    return text
