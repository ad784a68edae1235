import pytest
from support import fedutils

from fedutils import cli, notebooks, race, results, study
from fedutils.ledger import Direction


@pytest.mark.parametrize("recipe", ["none", "tff-compression"])
def test_bits_prints_the_published_figures(recipe):
    result = fedutils("bits", "--recipe", recipe, "--clients", "10")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("round")]
    published = zip(
        study.PUBLISHED[recipe, Direction.BROADCAST],
        study.PUBLISHED[recipe, Direction.AGGREGATED],
        strict=True,
    )
    assert lines == [
        f"round {k:>2}, broadcasted_bits={down}, aggregated_bits={up}"
        for k, (down, up) in enumerate(published)
    ]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--dataset", "cifar"], "unknown data set 'cifar'"),
        (["run", "--recipe", "zip"], "unknown recipe 'zip'"),
        (["run", "--clients", "0"], "clients_per_round must be a positive integer"),
        (["run", "--dataset", "synthetic", "--clients", "3"], "has only 2 clients"),
        (["run", "--client-learning-rate", "-1"], "must be a positive number"),
        (["run", "--rounds", "two"], "'two' is not a valid integer"),
        (["run", "--out", "/proc/store"], "cannot be written to"),
        (["bits", "--clients", "0"], "must be positive"),
        (["race", "--dataset", "synthetic"], "synthetic has but 2: choose mnist5k or emnist"),
        (["race", "--dataset", "mnist5k,cifar"], "unknown data set 'cifar'"),
        (["worker", "--port", "0"], "0 is not in the range 1<=x<=65535"),
        (["fuzz", "--payloads", "-5"], "-5 is not in the range x>=1"),
        (["fuzz", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["fuzz", "--codec", "identity", "--case", "-1"], "-1 is not in the range x>=0"),
        (["notebook", "--profile", "smoke", "-p", "RUONDS=2"], "no notebook here has a parameter"),
        (["notebook", "-p", "rounds"], "given as NAME=VALUE"),
        (["inspect", "nowhere.bin"], "nowhere.bin does not exist"),
        (["inspect", "results", "--codec", "top-k"], "--codec is for a payload"),
        (["inspect", "results", "--classes", "62"], "--classes is for a payload"),
        (["inspect", "LICENSE", "--codec", "top-k", "--classes", "0"], "one label or more, not 0"),
        (
            ["inspect", "results/quick/records/coarse-mnist5k-seed1.csv"],
            "was made with 'coarse', a codec that this package does not have",
        ),
        (["inspect", "LICENSE"], "LICENSE does not say which codec made it"),
    ],
)
def test_bad_input_is_one_clear_line_before_training(arguments, words, tmp_path):
    result = fedutils(*arguments)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert "round 0" not in result.stdout


def test_what_a_cell_says_can_be_mended_is_one_clear_line():
    options = "-p dataset=cifar -p results_dir=build/none".split()
    result = fedutils("notebook", "01_baseline_fedavg", *options)
    assert result.returncode == 1
    expected = "Error: 01_baseline_fedavg: unknown data set 'cifar': choose one of "
    assert any(line.startswith(expected) for line in result.stderr.splitlines())
    assert "papermill" not in result.stderr


def test_bits_says_what_is_not_known_before_it_is_sent():
    result = fedutils("bits", "--recipe", "mitchell", "--rounds", "1")
    assert result.stdout.splitlines()[-1] == (
        "round  0, broadcasted_bits=507.62Mibit, aggregated_bits=2.50Kibit and strings"
    )


def test_run_has_the_notebooks_words():
    options = {option for parameter in cli.run.params for option in parameter.opts}
    words = notebooks.parameters("01_baseline_fedavg").keys() - {"results_dir"}
    assert options >= {f"--{word.replace('_', '-')}" for word in words}


def test_list_names_every_recipe():
    result = fedutils("list")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("none ") and "McMahan" in lines[0]
    assert any(line.startswith("tff-compression ") for line in lines)


def test_help_is_quick_and_names_the_commands():
    result = fedutils("--help", timeout=20)
    for command in ("run", "bits", "list", "notebook", "check", "inspect"):
        assert f"\n  {command} " in result.stdout
    assert "_FEDUTILS_COMPLETE=bash_source" in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2]


def test_folder_of_runs_is_that_of_the_library():
    assert cli.STORE == results.DEFAULT_STORE
    raced = {option.name: option.default for option in cli.main.commands["race"].params}
    assert raced["out"] == results.DEFAULT_RACE
    assert raced["rounds"] == race.PROTOCOL.rounds


def test_check_tries_all_that_the_notebooks_need(no_process_left):
    result = fedutils("check")
    assert result.returncode == 0, result.stderr
    assert "kernel: Hello, World!" in result.stdout
    assert "TFF: Hello, World!" in result.stdout
    assert "20 examples, 101.52 Mibit aggregated" in result.stdout
    assert result.stdout.endswith("all is well\n")
