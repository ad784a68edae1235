"""The web site of the published results: every link, then every page in a real browser."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import nbformat
import pytest
from support import REPOSITORY, fedutils

from fedutils import notebooks, site
from fedutils.errors import UsageError

RESULTS = REPOSITORY / "results" / "quick"
NOTEBOOKS = sorted(path.stem for path in RESULTS.glob("notebooks/*.ipynb"))
PAGES = ["index", *NOTEBOOKS, "race", "trials", "provenance"]
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr", "col"}


class Document(HTMLParser):
    """What a page consists of.

    Attributes:
        elements: Tag and attributes of each element, in order.
        text: By tag, the text of each of its elements.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[tuple[str, int]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            texts = self.text.setdefault(tag, [])
            self._open.append((tag, len(texts)))
            texts.append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for tag, place in self._open:
            self.text[tag][place] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return site.build(RESULTS, tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="module")
def documents(folder) -> dict[str, Document]:
    return {path.name: Document(path) for path in sorted(folder.glob("*.html"))}


def test_there_is_a_page_for_everything(documents):
    assert set(documents) == {f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible(documents, name):
    page = documents[f"{name}.html"]
    assert page.all("html") == [{"lang": "en"}]
    assert "width=device-width" in str(page.all("meta"))
    assert len(page.text["title"]) == len(page.text["h1"]) == 1
    assert page.text["title"][0].startswith(page.text["h1"][0])
    assert all(image["alt"].strip() for image in page.all("img"))
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    assert [link["href"] for link in page.all("a") if "aria-current" in link] == [f"{name}.html"]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    assert len(page.ids()) == len(set(page.ids()))


@pytest.mark.parametrize("name", PAGES)
def test_page_leads_nowhere_that_is_not_there(documents, folder, name):
    page = documents[f"{name}.html"]
    loaded = [*page.all("img"), *page.all("link")]
    for address in [e.get("src") or e["href"] for e in [*loaded, *page.all("a")]]:
        parts = urlsplit(address)
        if parts.scheme:
            continue
        target = folder / unquote(parts.path or f"{name}.html")
        assert target.is_file(), address
        if parts.fragment:
            assert parts.fragment in documents[target.name].ids(), address
    for element in loaded:
        assert urlsplit(element.get("src") or element["href"]).scheme in ("", "data")
    assert not [tag for tag, _ in page.elements if tag in ("script", "iframe", "object", "style")]
    assert "url(" not in (folder / "site.css").read_text()


def test_every_page_is_reached_from_the_first_and_from_its_neighbours(documents):
    files = [f"{name}.html" for name in PAGES]
    for place, name in enumerate(files):
        links = documents[name].all("a")
        assert set(files) <= {link["href"] for link in links}
        turns = {link["rel"]: link["href"] for link in links if "rel" in link}
        assert turns.get("prev") == (files[place - 1] if place else None)
        assert turns.get("next") == (files[place + 1] if place + 1 < len(files) else None)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_page_shows_all_that_its_notebook_holds(documents, name):
    notebook = nbformat.read(RESULTS / "notebooks" / f"{name}.ipynb", as_version=4)
    page = documents[f"{name}.html"]
    text = page.text["main"][0]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.source.strip() in text
    for output in outputs:
        assert output.get("text", "").strip() in text
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(page.all("img")) == len(pictures)
    tables = [
        output for output in outputs if "<table" in output.get("data", {}).get("text/html", "")
    ]
    assert len([table for table in page.all("table") if table.get("class") == "dataframe"]) == len(
        tables
    )


def test_no_page_has_mathematics_that_needs_a_script(documents):
    for page in documents.values():
        for tag in ("p", "li", "td"):
            outside = [re.sub(r"\$FEDUTILS_DATA", "", text) for text in page.text.get(tag, [])]
            assert not [text for text in outside if "$" in text or r"\begin" in text]


def test_first_page_has_the_readme_the_questions_and_all_figures(documents, folder):
    page = documents["index.html"]
    text = " ".join(page.text["main"][0].split())
    for name in notebooks.names():
        assert notebooks.question(name).replace("*", "") in text  # emphasis is shown as such
    assert "Licence: Apache-2.0." in text  # a file that is not in the site: words, no link
    names = {path.name for path in RESULTS.glob("figures/*")}
    shown = {image["src"] for image in page.all("img")} | {link["href"] for link in page.all("a")}
    for name in names:
        assert f"figures/{name}" in shown
        copy = folder / "figures" / name
        assert copy.read_bytes() == (RESULTS / "figures" / name).read_bytes()


def test_provenance_names_every_run(documents):
    cells = documents["provenance.html"].text["td"]
    runs = [*RESULTS.glob("records/*-seed*.csv")]
    assert runs
    for run in runs:
        assert run.stem in cells


def test_same_results_give_the_same_bytes(folder, tmp_path):
    again = site.build(RESULTS, tmp_path / "again").parent
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert (again / path).read_bytes() == (folder / path).read_bytes(), path


def test_results_without_a_race_or_origins_have_a_site_too(tmp_path):
    """Results elsewhere, under a name with a space; output in the colours of a terminal."""
    results = tmp_path / "my results"
    shutil.copytree(RESULTS / "figures", results / "figures")
    (results / "notebooks").mkdir()
    cell = nbformat.v4.new_code_cell(
        "print()",
        outputs=[
            nbformat.v4.new_output("stream", text="one\n"),
            nbformat.v4.new_output("stream", text="two\n"),
            nbformat.v4.new_output("stream", name="stderr", text="\x1b[31mred\x1b[0m <b>"),
            nbformat.v4.new_output("display_data", {"text/html": "<script>alert(1)</script>told"}),
        ],
    )
    words = nbformat.v4.new_markdown_cell(
        "# A title\n\n[to nowhere](nowhere.py) `a $ b` ![badge](https://example.org/b.svg)"
    )
    notebook = nbformat.v4.new_notebook(cells=[words, cell])
    nbformat.write(notebook, results / "notebooks" / "00_setup.ipynb")
    out = site.build(results, tmp_path / "out", tmp_path / "no race").parent
    assert not (out / "race.html").exists()
    page = Document(out / "00_setup.html")
    assert page.text["p"][0] == "to nowhere a $ b badge" and page.text["code"] == ["a $ b"]
    assert "nowhere.py" not in str(page.elements)
    assert page.text["pre"][1].strip() == "one\ntwo"
    assert "red <b>" in page.text["pre"][-1] and "ansi-red-fg" in str(page.elements)
    assert not page.all("script") and "alert" not in page.text["main"][0]
    assert "Nothing is recorded" in page.text["footer"][0]
    for image in Document(out / "index.html").all("img"):
        assert (out / unquote(image["src"])).is_file()


@pytest.mark.parametrize(
    ("folder", "advice"),
    [("full", r"run `make reproduce PROFILE=full` first"), ("fast", "choose a folder of results")],
)
def test_without_executed_notebooks_it_says_what_to_do(tmp_path, folder, advice):
    with pytest.raises(UsageError, match=advice):
        site.build(tmp_path / folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(tmp_path):
    result = fedutils("html", "--profile", "quick", "--out", tmp_path / "site")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'site' / 'index.html'}\n" and result.stderr == ""
    result = fedutils("html", "--profile", "none")
    assert result.returncode != 0 and "choose a folder of results" in result.stderr
    assert "Traceback" not in result.stderr


needs_browser = pytest.mark.skipif(
    not browser.PROGRAM, reason="needs a browser: apt-get install chromium"
)


@needs_browser
@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_every_page_is_well_in_a_browser(folder, tmp_path, no_process_left, size):
    with browser.tab(tmp_path / "profile") as tab:
        for name in PAGES:
            address = (folder / f"{name}.html").as_uri()
            assert browser.faults(tab, address, *size) == [], name
    assert not (tmp_path / "profile").exists()


@needs_browser
def test_browser_sees_what_is_wrong(tmp_path, no_process_left):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'>"
        "<img src=missing.png alt=lost><script>nothing.at_all</script>"
        "<script>console.error('oh')</script><script src='http://127.0.0.1:9/a.js'></script>"
        "<pre style='width: 500px'>wide</pre>"
    )
    with browser.tab(tmp_path / "profile") as tab:
        found = "\n".join(browser.faults(tab, page.as_uri(), 390, 844))
    for words in ("nothing is not defined", "'oh'", "network: http://127.0.0.1:9/a.js", "failed:"):
        assert words in found
    assert "image not seen: lost" in found and "scrolls sideways" in found
