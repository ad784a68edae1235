"""How long training takes on real links: a model of a round, on measured bits.

A round lasts until its slowest client is done: the model comes down the link, the client trains
and encodes, its payload goes up, one after the other. Rounds follow each other. Clients of a round
work at once, each on a link of its own; the server's own work and the waiting for clients are
ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from fedutils import analysis


@dataclasses.dataclass(frozen=True)
class Link:
    """A kind of connection, as one client has it.

    Attributes:
        name: How figures call it.
        down: Bits a second from the server.
        up: Bits a second to the server.
        latency: Seconds of a round trip; a round takes two, one a direction.
        source: Who says so.
    """

    name: str
    down: float
    up: float
    latency: float
    source: str


_WEBPAGETEST = "WebPageTest, www/settings/connectivity.ini.sample (catchpoint/WebPageTest, 6a79fed)"
_KONECNY = "Konečný et al. 2016, arXiv:1610.05492, section 1 (speedtest.net); latency assumed"

LINKS = (
    Link("3G", 1.6e6, 0.768e6, 0.3, _WEBPAGETEST),
    Link("LTE", 12e6, 12e6, 0.07, _WEBPAGETEST),
    Link("Cable", 5e6, 1e6, 0.028, _WEBPAGETEST),
    Link("Home, USA 2016", 55e6, 18.9e6, 0.028, _KONECNY),
)


def seconds(
    run: pd.DataFrame,
    link: Link,
    compute: float,
    clients: int,
    target: float,
    held: int,
) -> dict[str, float] | None:
    """Returns how long a run takes until its test accuracy crosses a target, in parts.

    Args:
        run: Records of one run, by round (`results.Run.records`).
        link: The connection of every client.
        compute: Seconds that one client computes in a round.
        clients: Clients of a round.
        target: An accuracy, as a fraction.
        held: Evaluations that must hold it (`analysis.crossing`).

    Returns:
        Seconds of `download`, `compute` and `upload`, latencies counted to the direction; None
        if the target is not reached.
    """
    crossed = analysis.crossing(run, target, held)
    if crossed is None:
        return None
    rounds = run[(run["round"] > 0) & (run["round"] <= crossed["round"])]
    up = rounds["aggregated_bits"] / clients
    if "payload_bits_max" in rounds:
        # The slowest client has the longest string; what else it sends is alike for all.
        up = up + (rounds["payload_bits_max"] - rounds["payload_bits_sum"] / clients).fillna(0)
    return {
        "download": (rounds["broadcast_bits"] / clients / link.down + link.latency).sum(),
        "compute": compute * len(rounds),
        "upload": (up / link.up + link.latency).sum(),
    }


def table(
    runs: Mapping[str, Sequence[pd.DataFrame]],
    links: Sequence[Link],
    compute: Mapping[str, float],
    clients: int,
    target: float,
    held: int,
) -> pd.DataFrame:
    """Tabulates the time to a target on several links.

    Args:
        runs: By recipe, the records of its seeds.
        links: The connections.
        compute: By recipe, seconds that one client computes in a round; recipes without are left
            out.
        clients: Clients of a round.
        target: An accuracy, as a fraction.
        held: Evaluations that must hold it.

    Returns:
        A row a link and recipe, the quickest over all links first: `link`, `recipe`, the number
        of `seeds` and how many `reached` the target, and the seconds of `download`, `compute` and
        `upload`, means over seeds; NaN where a seed did not reach it.
    """
    rows = []
    for link in links:
        for recipe, seeds in runs.items():
            if recipe not in compute:
                continue
            parts = [seconds(run, link, compute[recipe], clients, target, held) for run in seeds]
            reached = sum(part is not None for part in parts)
            mean = pd.DataFrame(parts).mean() if reached == len(parts) else {}
            head = {"link": link.name, "recipe": recipe, "seeds": len(parts), "reached": reached}
            rows.append({**head, **dict(mean)})
    columns = ["link", "recipe", "seeds", "reached", "download", "compute", "upload"]
    found = pd.DataFrame(rows, columns=columns)
    totals = found.assign(total=found[columns[4:]].sum(axis=1, skipna=False))
    order = totals.groupby("recipe")["total"].mean(numeric_only=True).sort_values().index
    return found.set_index("recipe").loc[order].reset_index()[columns]
