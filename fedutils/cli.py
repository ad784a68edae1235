"""The command line: `fedutils …`. TensorFlow is imported by the commands that need it."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click

from fedutils import __version__, results
from fedutils.errors import UsageError


def _plain_errors(command: Callable) -> Callable:
    """Shows the errors that users can mend as one line, without a traceback."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Federated averaging with compressed communication, every bit counted."""
    # End as on Ctrl-C, so that kernels and workers are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _data_options(command: Callable) -> Callable:
    options = (
        click.option(
            "--dataset", default="mnist5k", show_default=True, help="mnist5k, emnist or synthetic."
        ),
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
        ),
        click.option(
            "--concentration",
            default=1.0,
            show_default=True,
            help="Concentration of the dirichlet partition.",
        ),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path),
            envvar="FEDUTILS_DATA",
            help="Folder of downloaded data.  [default: $FEDUTILS_DATA or ~/.cache/fedutils]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.option("--recipe", default="none", show_default=True, help="See `fedutils list`.")
@_data_options
@click.option("--rounds", default=10, show_default=True, help="Number of rounds.")
@click.option(
    "--clients",
    "clients_per_round",
    default=10,
    show_default=True,
    help="Clients drawn each round.",
)
@click.option("--seed", default=1, show_default=True, help="Decides everything random.")
@click.option("--batch-size", default=20, show_default=True, help="Examples a client's step.")
@click.option("--epochs", default=1, show_default=True, help="A client's passes over its data.")
@click.option("--client-learning-rate", default=0.02, show_default=True, help="Clients' SGD.")
@click.option("--server-learning-rate", default=1.0, show_default=True, help="Server's SGD.")
@click.option("--eval-every", default=5, show_default=True, help="Rounds between evaluations.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=results.DEFAULT_STORE,
    show_default=True,
    help="Folder of run folders.",
)
@_plain_errors
def run(dataset, classes, partition, concentration, data_dir, out, **settings) -> None:
    """Make, resume or find one run; its records are a CSV file."""
    from fedutils import data, training

    config = training.RunConfig(
        data=data.DataConfig(dataset, classes, partition, concentration), **settings
    )
    made = training.run(config, out, data_dir)
    click.echo(f"records: {made.records_path}")


@main.command()
@click.option("--recipe", default="none", show_default=True, help="See `fedutils list`.")
@click.option("--clients", default=10, show_default=True, help="Clients in the round.")
@click.option("--rounds", default=10, show_default=True, help="Rounds to add up.")
@click.option("--classes", default=10, show_default=True, help="10 or 62.")
@_plain_errors
def bits(recipe, clients, rounds, classes) -> None:
    """Print what the study's model costs to communicate, without training."""
    if clients < 1 or rounds < 1:
        raise UsageError(f"clients and rounds must be positive, not {clients} and {rounds}")
    from fedutils import data, ledger, training
    from fedutils.units import format_bits

    config = training.RunConfig(recipe, data.DataConfig("emnist", classes))
    bill = ledger.of(training.build_process(config, classes).next)
    for name, of_client in ledger.summary(bill).items():
        click.echo(f"{name:<20} {clients * of_client:>15,} bit a round")
    for direction in ledger.Direction:
        if bill.measured_strings(direction):
            click.echo(f"{direction.value:<20} and payload strings, measured when they are sent")
    for done in range(1, rounds + 1):
        totals = ", ".join(
            f"{name}_bits={format_bits(done * clients * bill.bits(direction))}"
            for name, direction in (
                ("broadcasted", ledger.Direction.BROADCAST),
                ("aggregated", ledger.Direction.AGGREGATED),
            )
        )
        click.echo(f"round {done - 1:>2}, {totals}")


@main.command("list")
def list_recipes() -> None:
    """Print the recipes: name, paper, what each does."""
    from fedutils import recipes

    width = max(map(len, recipes.RECIPES))
    for recipe in recipes.RECIPES.values():
        click.echo(f"{recipe.name:<{width}}  {recipe.paper}. {recipe.sentence}")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--profile", default="quick", show_default=True, help="smoke, quick or full.")
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
    """Execute notebooks headless (all of them, if none is named)."""
    from fedutils import notebooks, processes

    processes.end_with_make()
    overrides = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"a parameter is given as NAME=VALUE, not {text!r}")
        overrides[key] = value
    chosen = list(names) or notebooks.names()
    for name, values in notebooks.resolve(chosen, profile, overrides).items():
        output = Path(str(values.get("results_dir", f"results/{profile}"))) / "notebooks"
        notebooks.execute(name, values, output, force=force)


@main.command()
@_plain_errors
def check() -> None:
    """Check this installation: versions, a kernel, TFF, one round."""
    from fedutils import installation

    installation.check(click.echo)
