"""From markdown and notebooks to linked web pages that need neither network nor script."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

_STYLE = Path(__file__).with_name("site.css")
_PICTURES = (".png", ".svg", ".jpg")

# Each colour of these styles has a contrast of at least 4.5 to 1 on the boxes of site.css.
_LIGHT_CODE, _DARK_CODE = "xcode", "github-dark"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page before it is part of a site.

    Attributes:
        name: Its file name in the site, without `.html`.
        label: Its name in the navigation; of `00 setup`, narrow screens show the number alone.
        content: A notebook or markdown, with one first heading.
        base: The folder that its relative links start from.
    """

    name: str
    label: str
    content: NotebookNode | str
    base: Path


@dataclasses.dataclass(frozen=True)
class Links:
    """What links to files become in a site.

    Attributes:
        pages: Addresses in the site, by file or folder.
        folders: What the folders are called in the site whose pictures may be copied there.
        pictures: The pictures that were linked so far, by address.
    """

    pages: Mapping[Path, str]
    folders: Mapping[Path, str]
    pictures: dict[str, Path] = dataclasses.field(default_factory=dict)

    def resolve(self, link: str, base: Path) -> str | None:
        """Returns the address that a link has in the site; None if what it means is not there."""
        parts = urlsplit(link)
        if parts.scheme or not parts.path:
            return link
        target = (base / unquote(parts.path)).resolve()
        if target in self.pages:
            return self.pages[target] + (f"#{parts.fragment}" if parts.fragment else "")
        if target.suffix in _PICTURES and target.is_file():
            for folder, name in self.folders.items():
                if target.is_relative_to(folder):
                    address = (Path(name) / target.relative_to(folder)).as_posix()
                    self.pictures[address] = target
                    return quote(address)
        return None


def write(pages: Sequence[Page], links: Links, signature: str, out: Path) -> None:
    """Writes pages, their pictures and their style sheet.

    Args:
        pages: In reading order; the first heading of the first is the title of the site.
        links: What links on the pages become; one to nowhere becomes its text.
        signature: What the foot of each page says.
        out: Folder to write to; it may exist.
    """
    exporter = HTMLExporter(
        template_name="basic",
        exclude_anchor_links=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    bodies = [
        _fit(exporter.from_notebook_node(_notebook(page.content))[0], page.base, links)
        for page in pages
    ]
    titles = [
        body.h1.get_text() if body.h1 else page.label
        for page, body in zip(pages, bodies, strict=True)
    ]
    out.mkdir(parents=True, exist_ok=True)
    for place, (page, body) in enumerate(zip(pages, bodies, strict=True)):
        html = _shell(place, pages, titles, str(body), signature)
        (out / f"{page.name}.html").write_text(html, encoding="utf-8")
    for address, picture in links.pictures.items():
        (out / address).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, out / address)
    (out / _STYLE.name).write_text(_style(), encoding="utf-8")


def slug(heading: str) -> str:
    """Returns the anchor of a heading."""
    return re.sub(r"[^\w-]", "", heading.strip().lower().replace(" ", "-"))


def _notebook(content: NotebookNode | str) -> NotebookNode:
    if isinstance(content, str):
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(content)])
    return content


def _fit(html: str, base: Path, links: Links) -> BeautifulSoup:
    """Makes what a page holds accessible, and its links those of the site."""
    body = BeautifulSoup(html, "html.parser")
    for element in body(["script", "style", "link", "iframe", "object"]):
        element.decompose()
    for element in body(class_="cell"):
        del element["id"]  # drawn at random for markdown
    for element in body("a", href=True):
        if address := links.resolve(element["href"], base):
            element["href"] = address
        else:
            element.unwrap()
    for element in body("img"):
        address = links.resolve(element["src"], base)
        if address and not address.startswith("http"):
            element["src"] = address
        else:
            element.replace_with(element["alt"])
    used: dict[str, int] = {}
    for element in body(re.compile("^h[1-6]$")):
        name = slug(element.get_text())
        used[name] = used.get(name, 0) + 1
        element["id"] = name if used[name] == 1 else f"{name}-{used[name]}"
    for element in body("table"):
        del element["border"]
        box = {"class": "scroll", "tabindex": "0", "role": "group", "aria-label": "Table"}
        element.wrap(body.new_tag("div", attrs=box))
    for element in body("thead"):
        if not element.get_text(strip=True):
            element.decompose()
    for element in body("th"):
        element["scope"] = "col" if element.find_parent("thead") else "row"
        if not element.get_text(strip=True):
            element.name = "td"
            del element["scope"]
    for element in body("pre"):
        element["tabindex"] = "0"
    return body


def _shell(place: int, pages: Sequence[Page], titles: list[str], body: str, signature: str) -> str:
    title = titles[place] if place == 0 else f"{titles[place]} – {titles[0]}"
    navigation = "\n".join(_entry(page, page is pages[place]) for page in pages)
    turns = [
        f'<a rel="{relation}" href="{pages[other].name}.html">{escape(text)}</a>'
        for relation, other, text in (
            ("prev", place - 1, f"← {titles[place - 1]}"),
            ("next", place + 1, f"{titles[(place + 1) % len(titles)]} →"),
        )
        if 0 <= other < len(pages)
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_STYLE.name}">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<nav aria-label="Pages">
<ul>
{navigation}
</ul>
</nav>
</header>
<main id="content">
{body.strip()}
<nav class="turn" aria-label="Previous and next page">
{"".join(turns)}
</nav>
</main>
<footer>
<p>{escape(signature)}</p>
</footer>
</body>
</html>
"""


def _entry(page: Page, current: bool) -> str:
    number, words = re.fullmatch(r"(\d*)(.*)", page.label).groups()
    text = f'{number}<span class="words">{escape(words)}</span>' if number else escape(words)
    mark = ' aria-current="page"' if current else ""
    return f'<li><a href="{page.name}.html"{mark}>{text}</a></li>'


def _style() -> str:
    light, dark = (
        HtmlFormatter(style=style).get_token_style_defs(".highlight")
        for style in (_LIGHT_CODE, _DARK_CODE)
    )
    rules = [*light, "@media screen and (prefers-color-scheme: dark) {", *dark, "}", ""]
    return _STYLE.read_text(encoding="utf-8") + "\n" + "\n".join(rules)
