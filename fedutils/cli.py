"""The command line: `fedutils …`.

Commands import what they need themselves, so that help and completion are there at once.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from fedutils import __version__, completion
from fedutils.errors import UsageError

STORE = Path("results") / "runs"
"""Folder of run folders, where `results` has it."""

_EPILOG = """
\b
Begin with `check`, then `list` and `run`; `fedutils COMMAND --help` tells what a command takes.
Completion of commands, options and names, in bash (for zsh or fish: zsh_source, fish_source):
  eval "$(_FEDUTILS_COMPLETE=bash_source .venv/bin/fedutils)"
"""


def _plain_errors(command: Callable) -> Callable:
    """Shows the errors that users can mend as one line, without a traceback."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__)
def main() -> None:
    """Federated averaging with compressed communication, every bit counted."""
    # End as on Ctrl-C, so that kernels and workers are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _dataset(words: str, names: Sequence[str]) -> Callable:
    return click.option(
        "--dataset",
        default="mnist5k",
        show_default=True,
        help=words,
        shell_complete=completion.one_of(names),
    )


_DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="FEDUTILS_DATA",
    help="Folder of downloaded data.  [default: $FEDUTILS_DATA or ~/.cache/fedutils]",
)
_MODEL = click.option(
    "--model",
    default="cnn",
    show_default=True,
    help="The network: cnn (the study's), dense or logistic.",
    shell_complete=completion.one_of(completion.MODELS),
)
_RECIPE = click.option(
    "--recipe",
    default="none",
    show_default=True,
    help="How communication is compressed: a name that `fedutils list` tells, or with parameters, "
    "top-k@fraction=0.001.",
    shell_complete=completion.one_of(completion.RECIPES),
)

_WORKERS = click.option(
    "--workers",
    default="",
    envvar="FEDUTILS_WORKERS",
    metavar="HOST:PORT,…",
    help="TFF workers to spread rounds over.  [default: $FEDUTILS_WORKERS or this machine]",
)


def _data_options(command: Callable) -> Callable:
    options = (
        _dataset("mnist5k, emnist or synthetic.", completion.DATASETS),
        click.option(
            "--classes",
            default=10,
            show_default=True,
            help="10 digits, or 62 digits and letters (emnist).",
        ),
        click.option(
            "--partition",
            default="dirichlet",
            show_default=True,
            help="How mnist5k is dealt to clients: dirichlet, iid or shards.",
            shell_complete=completion.one_of(completion.PARTITIONS),
        ),
        click.option(
            "--concentration",
            default=1.0,
            show_default=True,
            help="Concentration of the dirichlet partition.",
        ),
        _DATA_DIR,
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_RECIPE
@_MODEL
@_data_options
@click.option("--rounds", default=10, show_default=True, help="Number of rounds.")
@click.option(
    "--clients-per-round",
    "--clients",
    default=10,
    show_default=True,
    help="Clients drawn each round.",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    help="Decides initial weights, cohorts, shuffles and compression.",
)
@click.option("--batch-size", default=20, show_default=True, help="Examples in a client's step.")
@click.option("--epochs", default=1, show_default=True, help="A client's passes over its data.")
@click.option("--client-learning-rate", default=0.02, show_default=True, help="Of clients' SGD.")
@click.option("--server-learning-rate", default=1.0, show_default=True, help="Of the server's SGD.")
@click.option(
    "--eval-every",
    default=5,
    show_default=True,
    help="Rounds between evaluations on test digits.",
)
@click.option(
    "--store",
    "--out",
    "out",
    type=click.Path(path_type=Path),
    default=STORE,
    show_default=True,
    help="Folder of run folders.",
)
@_WORKERS
@_plain_errors
def run(dataset, classes, partition, concentration, data_dir, out, workers, **settings) -> None:
    """Train with one recipe, or resume or find that run.

    Its folder, one for each choice of settings, has records.csv (accuracy, loss and bits, a row a
    round), TensorBoard's events and where it came from.
    """
    from fedutils import data, runtime, training

    runtime.use_workers(workers)
    config = training.RunConfig(
        data=data.DataConfig(dataset, classes, partition, concentration), **settings
    )
    made = training.run(config, out, data_dir)
    click.echo(f"records: {made.records_path}")


@main.command()
@click.option(
    "--recipes",
    "names",
    default="all",
    show_default=True,
    help="Names with commas between them, or own, literature or all.",
    shell_complete=completion.some_of(("own", "literature", "all", *completion.RECIPES)),
)
@_dataset("mnist5k or emnist, or both with a comma between them.", completion.RACED)
@_DATA_DIR
@click.option("--seeds", default="1,2,3", show_default=True, help="With commas between them.")
@click.option("--rounds", default=150, show_default=True, help="Number of rounds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results") / "race",
    show_default=True,
    help="Folder of records and tables.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=STORE,
    show_default=True,
    help="Folder of run folders.",
)
@click.option("--fresh", is_flag=True, help="Train anew even what has records.")
@_WORKERS
@_plain_errors
def race(names, dataset, data_dir, seeds, rounds, out, store, fresh, workers) -> None:
    """Run recipes under one protocol; tabulate accuracy and bits.

    There is a run of each recipe and seed, some ten minutes on two cores. Records that are in the
    folder are not made again, and its tables are made of all of them.
    """
    from fedutils import data, processes, race, runtime

    clients, chosen = race.PROTOCOL.clients_per_round, dataset.split(",")
    for each in chosen:
        data.DataConfig(each)  # told before the first of them is raced
    if "synthetic" in chosen and clients > 2:
        raise UsageError(
            f"the race draws {clients} clients a round, and synthetic has but 2: choose "
            f"{' or '.join(completion.RACED)}"
        )
    processes.end_with_make()
    runtime.use_workers(workers)
    options = dict(rounds=rounds, store=store, data_dir=data_dir, fresh=fresh)
    for each in chosen:
        race.start(names, seeds, each, out, **options)
    click.echo(f"tables: {out / 'race.md'}")


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Port to listen at.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address of this machine to listen at; 0.0.0.0 for all.",
)
@_plain_errors
def worker(port, host) -> None:
    """Compute for `--workers` of another machine, until interrupted."""
    from fedutils import processes, serving

    processes.end_with_make()
    serving.serve(port, host)


@main.command()
@_RECIPE
@_MODEL
@click.option(
    "--clients-per-round",
    "--clients",
    "clients",
    default=10,
    show_default=True,
    help="Clients in a round.",
)
@click.option("--rounds", default=10, show_default=True, help="Rounds to add up.")
@click.option("--classes", default=10, show_default=True, help="Labels of the model: 10 or 62.")
@_plain_errors
def bits(recipe, model, clients, rounds, classes) -> None:
    """Print what a model costs to communicate, without training.

    Bits of all clients: what a round's consist of, then those of all rounds so far as the study's
    log has them, from round 0. Broadcast bits go to the clients, aggregated ones to the server.
    """
    if clients < 1 or rounds < 1:
        raise UsageError(f"clients and rounds must be positive, not {clients} and {rounds}")
    from fedutils import data, ledger, training
    from fedutils.units import format_bits

    config = training.RunConfig(recipe, data.DataConfig("emnist", classes), model=model)
    bill = ledger.of(training.build_process(config, classes).next)
    for name, of_client in ledger.summary(bill).items():
        click.echo(f"{name:<20} {clients * of_client:>15,} bit per round")
    strings = {}
    for direction in ledger.Direction:
        strings[direction] = " and strings" if bill.measured_strings(direction) else ""
        if strings[direction]:
            click.echo(f"{direction.value:<20} and payload strings, measured when they are sent")
    for done in range(1, rounds + 1):
        totals = ", ".join(
            f"{name}_bits={format_bits(done * clients * bill.bits(direction), space='')}"
            f"{strings[direction]}"
            for name, direction in (
                ("broadcasted", ledger.Direction.BROADCAST),
                ("aggregated", ledger.Direction.AGGREGATED),
            )
        )
        click.echo(f"round {done - 1:>2}, {totals}")


_A_STRING = """
\b
A PAYLOAD is made in Python (UPDATE: float32, as long as the model):
  from fedutils import dissection
  wire = dissection.wire_of("mitchell", dissection.layout_of("cnn", 10))
  open("update.bin", "wb").write(dissection.encode(UPDATE, wire, weight=100))
and read by: fedutils inspect update.bin --codec mitchell
"""


@main.command(epilog=_A_STRING)
@click.argument("path", metavar="PAYLOAD|RUN", type=click.Path(path_type=Path))
@click.option(
    "--codec",
    help="PAYLOAD: the recipe whose codec made it, as `fedutils list` names it.",
    shell_complete=completion.one_of(completion.COMPRESSING),
)
@_MODEL
@click.option("--classes", default=10, show_default=True, help="PAYLOAD: labels of its model.")
@_plain_errors
@click.pass_context
def inspect(context, path, codec, model, classes) -> None:
    """Tell where the bits of a run, or of one client's string, went.

    RUN is a run's folder (results/runs/…) or the published records of one
    (results/quick/records/….csv). PAYLOAD is a file of the bytes that one client sent; which codec
    made it, and for which model, must be said.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: expected a run's folder or records, or a payload")
    if path.is_dir() or path.suffix == ".csv":
        given = click.core.ParameterSource.COMMANDLINE
        for option in ("codec", "model", "classes"):
            if context.get_parameter_source(option) is given:
                raise UsageError(f"--{option} is for a payload, but {path} is a run: leave it out")
        from fedutils import spending

        click.echo(spending.text(spending.of(path)))
        return
    if not codec:
        raise UsageError(
            f"{path} does not say which codec made it: name it with --codec "
            f"({', '.join(completion.COMPRESSING)})"
        )
    if classes < 1:
        raise UsageError(f"a model has one label or more, not {classes}")
    from fedutils import dissection

    wire = dissection.wire_of(codec, dissection.layout_of(model, classes))
    click.echo(dissection.text(dissection.of(path.read_bytes(), wire)))


@main.command("list")
def list_recipes() -> None:
    """Print the recipes: what each does, what its name may set."""
    from fedutils import recipes

    width = max(map(len, recipes.RECIPES))
    for recipe in recipes.RECIPES.values():
        paper = "" if recipe.paper == "-" else f"{recipe.paper}. "
        settings = recipes.written(recipe.parameters)
        tunable = f" [@{settings}]" if settings else ""
        click.echo(f"{recipe.name:<{width}}  {paper}{recipe.sentence}{tunable}")


@main.command()
@click.argument("names", nargs=-1, shell_complete=completion.notebook)
@click.option(
    "--profile",
    default="quick",
    show_default=True,
    help="smoke, quick or full.",
    shell_complete=completion.one_of(completion.PROFILES),
)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A notebook parameter; may be given again.",
)
@click.option("--force", is_flag=True, help="Execute even what is up to date.")
@_plain_errors
def notebook(names, profile, parameters, force) -> None:
    """Execute notebooks headless (all of them, if none is named).

    Executed copies, figures and records go to results/PROFILE. smoke takes seconds a notebook and
    trains nothing worth reading, quick is what is published, full takes a day.
    """
    from fedutils import notebooks, processes, provenance

    processes.end_with_make()
    overrides = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"a parameter is given as NAME=VALUE, not {text!r}")
        overrides[key] = value
    chosen = list(names) or notebooks.names()
    for name, values in notebooks.resolve(chosen, profile, overrides).items():
        # Relative to the repository, where kernels run, wherever the command was given.
        output = provenance.REPOSITORY / str(values.get("results_dir", f"results/{profile}"))
        notebooks.execute(name, values, output / "notebooks", force=force)


@main.command()
@_plain_errors
def check() -> None:
    """Check this installation: versions, a kernel, TFF, one round."""
    from fedutils import installation

    installation.check(click.echo)


@main.command()
@click.option(
    "--profile",
    default="quick",
    show_default=True,
    help="Whose results to show.",
    shell_complete=completion.one_of(completion.PROFILES),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the site.  [default: build/html/PROFILE]",
)
@_plain_errors
def html(profile, out) -> None:
    """Make a web site of executed notebooks, README and race."""
    from fedutils import site

    click.echo(site.build(Path("results") / profile, out or Path("build") / "html" / profile))


@main.command()
@click.argument("ids", nargs=-1)
@_plain_errors
def claims(ids) -> None:
    """Compute published numbers anew (all of them, if none is named)."""
    from fedutils import claims

    every = {claim.id: claim for claim in claims.read()}
    if unknown := [name for name in ids if name not in every]:
        raise UsageError(f"unknown claim {unknown[0]!r}: choose from {', '.join(every)}")
    for name in ids or every:
        claim = every[name]
        click.echo(
            f"{name:<20} {claims.compute(claim):>12,.6g}  recorded {claim.ours:,.6g}, "
            f"published {claim.stated}  {claim.says} ({claim.source})"
        )


@main.command()
@_plain_errors
def report() -> None:
    """Write tables, figures and README.md from published records."""
    from fedutils import report

    report.write()


@main.command()
@_plain_errors
def verify() -> None:
    """Check that README, figures, records and claims agree.

    Tables are checked too; whatever does not agree is told, and the command fails.
    """
    from fedutils import verify

    found = 0
    for problem in verify.problems():
        click.echo(problem)
        found += 1
    if found:
        raise click.ClickException(f"{found} problems")
    click.echo("README, tables, figures, records and claims agree")


@main.command()
@click.option("--repository", help="https://github.com/OWNER/NAME.  [default: as it is]")
@click.option("--ref", help="Tag or branch that is fetched.  [default: as it is]")
@_plain_errors
def address(repository, ref) -> None:
    """Name the repository that Colab fetches, wherever it is named."""
    from fedutils import address

    now = address.read()
    chosen = address.Address((repository or now.repository).rstrip("/"), ref or now.ref)
    for path in address.write(chosen):
        click.echo(f"{path.name}: {chosen.repository} at {chosen.ref}")


@main.command()
@click.option(
    "--payloads",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    help="How many, over all codecs.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the damage."
)
@click.option("--codec", "name", help="One codec instead of all.")
@click.option("--case", type=click.IntRange(min=0), help="One payload, by its number, of --codec.")
@_plain_errors
def fuzz(payloads, seed, name, case) -> None:
    """Send decoders damaged and forged payloads; fail on harm."""
    from fedutils import fuzz

    if case is not None and not name:
        raise UsageError("--case is the number of a payload of one codec: name it with --codec")
    names = [name] if name else list(fuzz.codecs(fuzz.LAYOUT))
    total = fuzz.Report()
    for target in fuzz.targets(names):
        # Said before, so that it is known which decoder was at work should it end the process.
        click.echo(f"{target.name:<14} ", nl=False)
        sys.stdout.flush()
        report = fuzz.run(target, -(-payloads // len(names)) if case is None else [case], seed)
        click.echo(report)
        total += report
    click.echo(f"{'all':<14} {total}")
    for failure in total.failures[:20]:
        click.echo(failure)
    if total.failures:
        raise click.ClickException(f"{len(total.failures)} payloads did harm")
