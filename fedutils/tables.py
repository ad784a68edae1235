"""Tables of text as Markdown, which wraps and stands left in notebooks and pages alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from fedutils import looks


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table: its head, and rows of as many cells each."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def recipes(listed: Collection, **columns: Mapping[str, str]) -> str:
    """Returns a table of recipes, this project's in bold, with what each does and its source.

    Args:
        listed: Recipes, of this package or of codecs (`codecs.recipes`).
        **columns: Cells by recipe's name, for a column each between name and sentence.
    """
    rows = [
        (
            f"**{recipe.name}**" if looks.is_own(recipe.name) else recipe.name,
            *(cells[recipe.name] for cells in columns.values()),
            recipe.sentence,
            recipe.paper,
        )
        for recipe in listed
    ]
    return markdown(("recipe", *columns, "what it does", "source"), rows)
