"""Where the bits of a run went.

A run's records tell how many bits crossed in each round, and how many of them were strings; the
ledger of its configuration tells the rest apart by what it carries.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from fedutils import data, ledger, models, recipes, records, results, training
from fedutils.errors import UsageError
from fedutils.ledger import Direction


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one kind of value cost.

    Attributes:
        direction: Which way it went.
        what: What it is.
        bits: Of all rounds and clients.
    """

    direction: Direction
    what: str
    bits: int


@dataclasses.dataclass(frozen=True)
class Spending:
    """What a run cost.

    Attributes:
        config: The run's configuration.
        rounds: How many rounds its records have.
        parameters: Of the model.
        entries: What is not zero, broadcast first.
    """

    config: training.RunConfig
    rounds: int
    parameters: int
    entries: tuple[Entry, ...]

    def total(self, direction: Direction) -> int:
        """Returns all bits of a direction."""
        return sum(entry.bits for entry in self.entries if entry.direction is direction)

    def a_client_and_round(self, bits: int) -> float:
        """Returns the share of one client in one round."""
        return bits / (self.rounds * self.config.clients_per_round)


def of(path: Path) -> Spending:
    """Takes apart what a run cost.

    Args:
        path: A run's folder, or the published records of one (`results/…/records/NAME.csv`).

    Raises:
        UsageError: If there is no run, if its files are damaged or of another version, if it has
            trained no round yet, or if its records do not add up with this version's ledger.
    """
    try:
        wanted, rows = _found(path)
        if str(wanted["recipe"]).partition("@")[0] not in recipes.RECIPES:
            raise UsageError(
                f"{path} was made with {wanted['recipe']!r}, a codec that this package does not "
                "have: only the notebook or program that has it can take its bits apart"
            )
        config = training.RunConfig(**{**wanted, "data": data.DataConfig(**wanted["data"])})
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the configuration of {path} is damaged ({error}): expected JSON; the command that "
            "made the run, given again, writes it anew"
        ) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"the configuration of {path} does not have this version's settings ({error}): another "
            "version made it; inspect it with that one"
        ) from error
    try:
        trained = [row for row in results.read_rows(rows) if int(row["round"]) > 0]
        entries = _entries(config, trained)
        recorded = {d: sum(int(row[f"{d.value}_bits"]) for row in trained) for d in Direction}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{rows} is damaged: expected the records of a run, one row per round"
        ) from error
    if not trained:
        raise UsageError(f"{rows} has no trained round yet: inspect the run when it has")
    parameters = models.get(config.model)(config.data.classes, 0).count_params()
    spending = Spending(config, len(trained), parameters, entries)
    for direction, bits in recorded.items():
        if bits != spending.total(direction):
            raise UsageError(
                f"{rows} tells of {bits:,} {direction.value} bits, but the parts that this "
                f"version knows of add up to {spending.total(direction):,}: another version made "
                "it; inspect it with that one"
            )
    return spending


def _found(path: Path) -> tuple[dict, Path]:
    """The configuration of a run, and its records."""
    if path.is_dir():
        run = results.Run(path)
        if not (run.records_path.exists() and (path / "config.json").exists()):
            raise UsageError(
                f"{path} is not the folder of a run, which holds config.json and records.csv: "
                f"choose one in {results.DEFAULT_STORE}"
            )
        return run.config, run.records_path
    for folder in path.absolute().parents:
        if path.absolute().is_relative_to(folder / "records"):
            name = path.absolute().relative_to(folder / "records").with_suffix("").as_posix()
            origin = results.origins_of(folder).get(name)
            if origin:
                return origin["config"], path
    raise UsageError(
        f"{path} is not the published records of a run: expected FOLDER/records/NAME.csv, with "
        "the run's configuration under NAME in FOLDER/provenance.json"
    )


def _entries(config: training.RunConfig, trained: list[dict[str, str]]) -> tuple[Entry, ...]:
    bill = ledger.of(training.build_process(config, config.data.classes).next)
    clients = config.clients_per_round
    found = [
        Entry(direction, content.value, len(trained) * clients * bill.bits(direction, content))
        for direction in Direction
        for content in ledger.Content
    ]
    for column, (direction, what) in records.STRINGS.items():
        lengths = sum(int(row.get(column) or 0) for row in trained)
        copies = clients if direction is Direction.BROADCAST else 1
        found.append(Entry(direction, f"{what} (strings)", copies * lengths))
    ways = list(Direction)
    found.sort(key=lambda entry: (ways.index(entry.direction), -entry.bits))
    return tuple(entry for entry in found if entry.bits)


def text(spending: Spending) -> str:
    """Writes a table: a line for each kind of value, and totals."""
    config = spending.config
    lines = [
        f"{config.recipe} on {config.task}, seed {config.seed}: {spending.rounds} rounds of "
        f"{config.clients_per_round} clients, {spending.parameters:,} parameters",
        "",
        f"{'':<36}{'bits':>17}{'share':>8}{'a client':>15}{'a parameter':>13}",
    ]
    for direction in Direction:
        total = spending.total(direction)
        of_direction = [entry for entry in spending.entries if entry.direction is direction]
        for entry in [*of_direction, Entry(direction, "in all", total)]:
            each = spending.a_client_and_round(entry.bits)
            lines.append(
                f"{direction.value + ' ' + entry.what:<36}{entry.bits:>17,}"
                f"{entry.bits / max(total, 1):>8.1%}{each:>15,.0f}"
                f"{each / spending.parameters:>13.3g}"
            )
        lines.append("")
    lines.append("a client, a parameter: bits of one client in one round, and these by parameter;")
    lines.append("strings as measured, all else from its type")
    return "\n".join(lines)
