"""The race: every recipe under one protocol, to see what accuracy costs each of them in bits.

Finished runs are published in one folder, which may grow by parts, in any order and by several
processes at once; its tables (`standings`, `race_page`) are made of all the records in it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedutils import data, provenance, race_page, recipes, results, standings, training
from fedutils.errors import UsageError

DEFAULT_FOLDER = results.DEFAULT_RACE

# What all runs have in common, but for recipe, data and seed.
PROTOCOL = training.RunConfig(rounds=150, client_learning_rate=0.1)


def select(text: str) -> list[str]:
    """Returns the recipes that are meant by a list of names.

    Args:
        text: Names of recipes, `own` (this project's), `literature` (all others) or `all`, with
            commas between them.

    Raises:
        UsageError: If there is no such recipe or group.
    """
    own = [name for name in recipes.RECIPES if standings.is_own(name)]
    others = [name for name in recipes.RECIPES if name not in own]
    groups = {"own": own, "literature": others, "all": list(recipes.RECIPES)}
    chosen = []
    for name in filter(None, map(str.strip, text.split(","))):
        chosen += groups[name] if name in groups else [recipes.get(name).name]
    if not chosen:
        raise UsageError(f"no recipe is named: choose {', '.join(groups)} or names of recipes")
    return list(dict.fromkeys(chosen))


def start(
    names: str,
    seeds: str,
    dataset: str,
    folder: str | Path = DEFAULT_FOLDER,
    *,
    rounds: int = PROTOCOL.rounds,
    **options,
) -> None:
    """Runs a part of the race that is told in words, as a command line or a parameter has them.

    Args:
        names: Recipes; see `select`.
        seeds: Whole numbers with commas between them.
        dataset: Name of a data set.
        folder: Where records and tables are published.
        rounds: Number of rounds.
        **options: Of `run`.

    Raises:
        UsageError: As `select` and `run`, or if a seed is not a whole number.
    """
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UsageError(f"seeds are whole numbers with commas between, not {seeds!r}") from None
    base = dataclasses.replace(PROTOCOL, data=data.DataConfig(dataset), rounds=rounds)
    run(select(names), numbers, base, folder, **options)


def run(
    names: Sequence[str],
    seeds: Sequence[int],
    base: training.RunConfig = PROTOCOL,
    folder: str | Path = DEFAULT_FOLDER,
    *,
    store: str | Path = results.DEFAULT_STORE,
    data_dir: str | Path | None = None,
    fresh: bool = False,
) -> None:
    """Runs a part of the race, or all of it; writes tables after every run, figures at the end.

    A run whose records are in the folder is not made again, whichever code made them; if it was
    another code than today's, that is said. One that was interrupted resumes.

    Args:
        names: Recipes.
        seeds: Seeds.
        base: The protocol and the data.
        folder: Where records and tables are published.
        store: Folder of run folders.
        data_dir: Folder of downloaded data; see `data.data_folder`.
        fresh: Whether to train anew, from the first round, what has records already.

    Raises:
        UsageError: If there is no such recipe or data, a folder cannot be written, or it holds
            records of another protocol or of other data.
    """
    folder = Path(folder)
    # Seed by seed, so that recipes can be compared as soon as the first seed is done.
    configs = [dataclasses.replace(base, recipe=n, seed=seed) for seed in seeds for n in names]
    _make(folder)
    fingerprint = data.load(base.data, data_dir).fingerprint
    for position, config in enumerate(configs, start=1):
        name = _name(dataclasses.asdict(config))
        published = results.published_in(folder)  # read anew: other processes publish here too
        _require_same(published, config, fingerprint, folder)
        shown = f"[{position}/{len(configs)}] {name}"
        if name in published and not fresh:
            print(f"{shown}: found{_code_remark(published[name])}", flush=True)
            continue
        print(f"{shown}: training", flush=True)
        if fresh:
            with tempfile.TemporaryDirectory() as nothing_found_here:
                _publish(training.run(config, nothing_found_here, data_dir), folder)
        else:
            _publish(training.run(config, store, data_dir), folder)
    rows = race_page.write(folder)["recipes"]
    if unpaired := [row["name"] for row in rows if not row["seeds_paired"]]:
        print(
            f"no ratios for {', '.join(dict.fromkeys(unpaired))}: {standings.REFERENCE!r} has no "
            "run with their seeds here",
            flush=True,
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with results.locked(folder):
            pass
    except OSError as error:
        raise UsageError(
            f"the folder of the race {folder} cannot be written to ({error.strerror}): choose "
            "another one (--out) or make it writable"
        ) from error


def _name(config: dict) -> str:
    return f"{config['data']['name']}/{config['recipe']}-seed{config['seed']}"


def _publish(made: results.Run, folder: Path) -> None:
    results.publish([made], folder, name_of=lambda run: _name(run.config))
    with results.locked(folder):
        race_page.write_tables(folder, standings.compute(folder))  # figures wait for the last run


def _require_same(
    origins: dict[str, dict], config: training.RunConfig, fingerprint: str, folder: Path
) -> None:
    """Raises UsageError if records of another protocol or of other data are in the folder."""
    asked = {"config": dataclasses.asdict(config), "data_fingerprint": fingerprint}
    for name, origin in origins.items():
        if found := standings.mismatch(origin, asked):
            raise UsageError(
                f"{folder} holds {name} made with {found[0]} {found[1]}, not {found[2]}: choose "
                "another folder (--out, or OUT= of make)"
            )


def _code_remark(origin: dict) -> str:
    if origin["code"] == provenance.code_digest():
        return ""
    return (
        f", made by other code than today's (digest {standings.code_of(origin)}, commit "
        f"{origin['commit']}); --fresh trains it anew"
    )
