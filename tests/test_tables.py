import mistune
from bs4 import BeautifulSoup

from fedutils import recipes, tables


def read(markdown):
    """What a Markdown reader makes of a table."""
    page = BeautifulSoup(mistune.create_markdown(plugins=["table"])(markdown), "html.parser")
    return [[cell.decode_contents() for cell in row.find_all(["th", "td"])] for row in page("tr")]


def test_a_table_is_read_as_it_was_written():
    assert read(tables.markdown(["a", "b"], [(1, "two | words"), ("", 3)])) == [
        ["a", "b"],
        ["1", "two | words"],
        ["", "3"],
    ]


def test_all_recipes_have_a_row_and_this_projects_are_bold():
    head, *rows = read(tables.recipes(recipes.RECIPES.values()))
    assert head == ["recipe", "what it does", "source"]
    assert len(rows) == len(recipes.RECIPES)
    names = [name.replace("<strong>", "").replace("</strong>", "") for name, *_ in rows]
    assert names == list(recipes.RECIPES)
    for name, sentence, source in rows:
        assert sentence and source
        assert ("<strong>" in name) == (source == "this project")


def test_more_columns_stand_between_name_and_sentence():
    qsgd = recipes.get("qsgd")
    head, row = read(tables.recipes([qsgd], unbiased={"qsgd": "yes"}))
    assert head == ["recipe", "unbiased", "what it does", "source"]
    assert row[:2] == ["qsgd", "yes"]
