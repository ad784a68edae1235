import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, environment

from fedutils import completion, data, models, notebooks, partitions, recipes


def completed(*words: str) -> list[str]:
    """What a shell would offer for the last word."""
    result = subprocess.run(
        [Path(sys.executable).with_name("fedutils")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment(
            _FEDUTILS_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(["fedutils", *words]),
            COMP_CWORD=str(len(words)),
        ),
    )
    assert result.returncode == 0, result.stderr
    return [line.removeprefix("plain,") for line in result.stdout.split()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ins"], ["inspect"]),
        (["run", "--recipe", "adaptive-fixed"], ["adaptive-fixed", "adaptive-fixed-fine"]),
        (["race", "--recipes", "none,two"], ["none,two-way"]),
        (["bits", "--model", "d"], ["dense"]),
        (["run", "--dataset", "e"], ["emnist"]),
        (["run", "--dataset", "s"], ["synthetic"]),
        (["race", "--dataset", ""], ["mnist5k", "emnist"]),
        (["notebook", "01_baseline_fedavg", "0"], [n for n in notebooks.names() if n[1] != "1"]),
    ],
)
def test_names_complete(words, offered):
    assert completed(*words) == offered


def test_the_names_are_those_that_there_are():
    assert sorted(completion.RECIPES) == sorted(recipes.RECIPES)
    assert sorted(completion.CODECS) == sorted(recipes.codecs([(30, 20), (20,)]))
    assert tuple(data.LOADERS) == completion.DATASETS
    assert (*completion.RACED, "synthetic") == completion.DATASETS
    assert tuple(partitions.PARTITIONS) == completion.PARTITIONS
    assert tuple(models.MODELS) == completion.MODELS
    assert tuple(notebooks.PROFILES) == completion.PROFILES


def test_help_and_completion_import_nothing_large():
    heavy = ("tensorflow", "tensorflow_federated", "numpy", "pandas", "matplotlib")
    script = f"import sys, fedutils.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
