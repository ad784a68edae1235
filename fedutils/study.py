"""What the study published, to hold our figures against.

Source: TensorFlow Federated, "TFF for Federated Learning Research: Model and Update Compression"
(https://www.tensorflow.org/federated/tutorials/tff_for_federated_learning_research_compression),
the output of its two training cells: ten rounds of ten clients, without and with compression.
"""

from __future__ import annotations

import pandas as pd

from fedutils import data, ledger, training
from fedutils.units import format_bits

CLIENTS_PER_ROUND = 10
PARAMETERS = {10: 1_663_370, 62: 1_690_046}

# Cumulative bits after rounds 0 to 9, as printed. Both runs print the same broadcast bits.
_BROADCAST = (
    "507.62Mibit 1015.24Mibit 1.49Gibit 1.98Gibit 2.48Gibit "
    "2.97Gibit 3.47Gibit 3.97Gibit 4.46Gibit 4.96Gibit"
).split()
PUBLISHED = {
    ("none", ledger.Direction.BROADCAST): _BROADCAST,
    ("none", ledger.Direction.AGGREGATED): (
        "507.62Mibit 1015.25Mibit 1.49Gibit 1.98Gibit 2.48Gibit "
        "2.97Gibit 3.47Gibit 3.97Gibit 4.46Gibit 4.96Gibit"
    ).split(),
    ("tff-compression", ledger.Direction.BROADCAST): _BROADCAST,
    ("tff-compression", ledger.Direction.AGGREGATED): (
        "146.47Mibit 292.93Mibit 439.40Mibit 585.86Mibit 732.33Mibit "
        "878.79Mibit 1.00Gibit 1.14Gibit 1.29Gibit 1.43Gibit"
    ).split(),
}


def bill(recipe: str) -> ledger.Ledger:
    """Returns the ledger of one round of the study's training with a recipe."""
    config = training.RunConfig(recipe, data.DataConfig("emnist"))
    return ledger.of(training.build_process(config, classes=10).next)


def comparison(recipe: str) -> pd.DataFrame:
    """Holds the ledger's cumulative bits against those that the study printed.

    Args:
        recipe: `none` or `tff-compression`.

    Returns:
        A row a round (`round`, 0 to 9), and for each direction the columns `… published` and
        `… ours`, text in the study's format.
    """
    of_round = bill(recipe)
    columns = {"round": range(10)}
    for direction in ledger.Direction:
        bits = CLIENTS_PER_ROUND * of_round.bits(direction)
        columns[f"{direction.value} published"] = PUBLISHED[recipe, direction]
        columns[f"{direction.value} ours"] = [format_bits(bits * k, space="") for k in range(1, 11)]
    return pd.DataFrame(columns).set_index("round")
