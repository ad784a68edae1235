"""Tables computed from saved records."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fedutils.units import format_bits

_COLUMNS = ("round", "aggregated", "times fewer aggregated", "total", "times fewer in all")


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
            reached = run[run["test_accuracy"] >= target]
            if len(reached):
                first = reached.iloc[0]
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
                    row["times fewer aggregated"] = f"{reference[0] / aggregated:.2f}"
                    row["times fewer in all"] = f"{reference[1] / total:.2f}"
            rows.append(row)
    return pd.DataFrame(rows).set_index(["target", "recipe"])
