"""Tables computed from saved records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from fedutils.units import format_bits, format_factor

_COLUMNS = ("round", "aggregated", "times fewer aggregated", "total", "times fewer in all")


def crossing(run: pd.DataFrame, target: float, held: int = 0) -> pd.Series | None:
    """Finds where a run's test accuracy crosses a target.

    Args:
        run: Records of one run, by round.
        target: An accuracy, as a fraction.
        held: How many evaluations right after the crossing must be at or above the target too.

    Returns:
        The record of the first such evaluation. None if there is none, which includes that
        fewer than `held` evaluations follow.
    """
    evaluated = run.dropna(subset=["test_accuracy"])
    above = (evaluated["test_accuracy"] >= target).astype(int)
    window = above[::-1].rolling(held + 1).sum()[::-1]  # this evaluation and the next `held`
    crossed = evaluated[window == held + 1]
    return crossed.iloc[0] if len(crossed) else None


def bits_to_accuracy(records: pd.DataFrame, targets: Sequence[float]) -> pd.DataFrame:
    """Tabulates the bits sent when test accuracy first reached each target.

    Args:
        records: Tidy records (`results.tidy`) of one run a recipe; the first one, plain FedAvg,
            is what the others are compared with.
        targets: Accuracies, as fractions.

    Returns:
        A row a target and recipe: the `round` of the first evaluation at or above the target,
        `aggregated` and `total` bits until then as text, and how many times fewer they are than
        the first recipe's. Cells are empty where a target was not reached.
    """
    rows = []
    for target in targets:
        reference = None
        for position, (recipe, run) in enumerate(records.groupby("recipe", sort=False)):
            row = dict.fromkeys(_COLUMNS, "") | {"target": f"{target:.0%}", "recipe": recipe}
            first = crossing(run, target)
            if first is not None:
                aggregated = first["cumulative_aggregated_bits"]
                total = aggregated + first["cumulative_broadcast_bits"]
                row |= {
                    "round": str(first["round"]),
                    "aggregated": format_bits(aggregated),
                    "total": format_bits(total),
                }
                if position == 0:
                    reference = aggregated, total
                if reference:
                    row["times fewer aggregated"] = format_factor(reference[0] / aggregated)
                    row["times fewer in all"] = format_factor(reference[1] / total)
            rows.append(row)
    return pd.DataFrame(rows).set_index(["target", "recipe"])


def accuracy_kept(records: pd.DataFrame) -> pd.DataFrame:
    """Tabulates what compression costs in test accuracy, evaluation by evaluation.

    Args:
        records: Tidy records (`results.tidy`) of one run a recipe, evaluated in the same rounds;
            the first one, plain FedAvg, is what the others are compared with.

    Returns:
        A row a recipe, as text: accuracy `at the end`, and its `difference at the end`, `lowest
        difference` and `highest difference`, over all evaluations, to the first recipe's in
        percentage points.
    """
    evaluated = records.dropna(subset=["test_accuracy"])
    accuracy = evaluated.pivot(index="round", columns="recipe", values="test_accuracy")
    accuracy = accuracy[evaluated["recipe"].unique()]
    points = 100 * accuracy.iloc[:, 1:].sub(accuracy.iloc[:, 0], axis=0)
    differences = {
        "difference at the end": points.iloc[-1],
        "lowest difference": points.min(),
        "highest difference": points.max(),
    }
    table = pd.DataFrame({"at the end": accuracy.iloc[-1].map("{:.1%}".format)})
    for name, column in differences.items():
        table[name] = column.map("{:+.1f}".format)
    return table.fillna("").rename_axis("recipe")


def measures(
    run: pd.DataFrame,
    *,
    clients: int,
    parameters: int,
    targets: Sequence[float],
    held: int,
    settled: int,
) -> dict[str, float]:
    """Measures one run.

    Args:
        run: Its records, by round.
        clients: Clients of a round.
        parameters: Parameters of the model.
        targets: Accuracies, as fractions.
        held: Evaluations that must hold a target after its `crossing`.
        settled: The round after which evaluations count for the mean accuracy.

    Returns:
        By name; NaN is what was not reached or not measured. For each target, `97` standing for
        0.97: `round_97`, `uplink_bits_97`, `total_bits_97`, `uplink_payload_bits_97` and
        `informed_bits_97` (the uplink's and the announcements'), the round of the crossing and
        the bits of all clients until then, that round's included.
        `final_accuracy`, and `mean_accuracy_after_50` if 50 is `settled`. Of the whole run, bits
        a parameter, client and round: `bits_per_parameter` (all that clients send),
        `payload_bits_per_parameter` (strings alone) and `downlink_bits_per_parameter`. Of what
        goes down, `announcement_bits`: what the server tells each client of a round of earlier
        ones for its codec, mean over rounds; 0 if its codec needs nothing.
    """
    uplink, downlink = run["cumulative_aggregated_bits"], run["cumulative_broadcast_bits"]
    if "payload_bits_sum" in run:
        payload = run["payload_bits_sum"].fillna(0).cumsum()
    else:
        payload = pd.Series(math.nan, run.index)
    announced = run.get("announcement_bits", pd.Series(0.0, run.index))
    informed = uplink + clients * announced.fillna(0).cumsum()
    found = {}
    for target in targets:
        first, percent = crossing(run, target, held), f"{100 * target:g}"
        for name, column in (
            ("round", run["round"]),
            ("uplink_bits", uplink),
            ("total_bits", uplink + downlink),
            ("uplink_payload_bits", payload),
            ("informed_bits", informed),
        ):
            found[f"{name}_{percent}"] = math.nan if first is None else column[first.name]
    accuracy = run.set_index("round")["test_accuracy"].dropna()
    found["final_accuracy"] = accuracy.iloc[-1]
    found[f"mean_accuracy_after_{settled}"] = accuracy[accuracy.index > settled].mean()
    sent = run["round"].max() * clients * parameters
    found["bits_per_parameter"] = uplink.iloc[-1] / sent
    found["payload_bits_per_parameter"] = payload.iloc[-1] / sent
    found["downlink_bits_per_parameter"] = downlink.iloc[-1] / sent
    found["announcement_bits"] = announced.mean()
    return found


def standings(runs: Mapping[tuple[str, int], Mapping[str, float]], reference: str) -> list[dict]:
    """Compares recipes over their seeds.

    What a seed did not reach has no mean: a mean over the seeds that did would flatter a recipe
    that reaches it by luck. A ratio to the reference is that of the mean bits over the seeds
    which both have, not the mean of ratios: it is what all those runs together save, while a mean
    of ratios is drawn upwards by the one seed in which the reference happened to be late.

    Args:
        runs: For each recipe and seed, its `measures`.
        reference: The recipe that the others are compared with.

    Returns:
        One row per recipe, fewest `uplink_bits` to the highest target first, those that did not
        reach it last. `name`, `seeds`, `seeds_paired` (those the reference has too), and for
        each measure its mean under its own name with `…_std` (of the sample), `…_min`, `…_max`.
        For each target, how many seeds reached it (`seeds_reached_97`), and how many times fewer
        bits than the reference's they took (`uplink_ratio_97`, `total_ratio_97`,
        `informed_ratio_97`), and that of the worst and the best seed (`…_min`, `…_max`); the
        same for all rounds, whatever was reached (`uplink_ratio`, `total_ratio`). For each
        accuracy, the mean difference to the reference's (`…_delta`, a fraction), and that of the
        worst seed to the reference's mean (`…_delta_min`). None stands for what is not known: not
        reached by each seed, no reference, or one seed's spread.
    """
    keys = pd.MultiIndex.from_tuples(runs, names=["name", "seed"])
    table = pd.DataFrame(runs.values(), keys, dtype=float)
    names = table.index.get_level_values("name")
    references = table[names == reference].droplevel("name")
    rows = []
    for name in names.unique():
        seeds = table.loc[name].sort_index()
        paired = seeds.index.intersection(references.index)
        own = seeds.loc[paired].mean(skipna=False)
        base = references.loc[paired].mean(skipna=False)
        row = {"name": name, "seeds": seeds.index.tolist(), "seeds_paired": paired.tolist()}
        for measure, values in seeds.items():
            kind, _, suffix = measure.rpartition("_")
            row[measure] = values.mean(skipna=False)
            row[f"{measure}_std"] = values.std(skipna=False)
            row[f"{measure}_min"] = values.min(skipna=False)
            row[f"{measure}_max"] = values.max(skipna=False)
            if kind == "round":
                row[f"seeds_reached_{suffix}"] = int(values.count())
            if kind in ("uplink_bits", "total_bits", "informed_bits"):
                ratio = f"{kind.removesuffix('bits')}ratio_{suffix}"
                of_seeds = references.loc[paired, measure] / seeds.loc[paired, measure]
                row[ratio] = base[measure] / own[measure]
                row[f"{ratio}_min"] = of_seeds.min(skipna=False)
                row[f"{ratio}_max"] = of_seeds.max(skipna=False)
            if "accuracy" in measure:
                row[f"{measure}_delta"] = own[measure] - base[measure]
                row[f"{measure}_delta_min"] = values.min(skipna=False) - base[measure]
        row["uplink_ratio"] = base["bits_per_parameter"] / own["bits_per_parameter"]
        row["total_ratio"] = _both_ways(base) / _both_ways(own)
        rows.append({key: known(value) for key, value in row.items()})
    last = [measure for measure in table if measure.startswith("uplink_bits_")][-1]
    return sorted(rows, key=lambda row: (row[last] is None, row[last] or 0, row["name"]))


def _both_ways(means: pd.Series) -> float:
    return means["bits_per_parameter"] + means["downlink_bits_per_parameter"]


def known(value: object) -> object:
    """Returns a number with the digits that matter; None for NaN; anything else as it is."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.10g}")
