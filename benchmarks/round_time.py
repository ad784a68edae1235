"""How long a round of federated averaging takes with each recipe, measured in turn.

    .venv/bin/python benchmarks/round_time.py [--recipes none,tff-compression,default] [--turns 9]
        [--clients 10] [--dataset mnist5k|emnist] [--data-dir DIR] [--out FILE.json]

The rounds of the recipes are interleaved, so that a machine whose speed drifts slows all of them;
what is printed are medians and, turn by turn, the ratios to the first recipe. With `--clients 1`
a round is what one client computes on one core, and little else:
`--out results/race/client_seconds.json` keeps that for the race's times on real links.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import tensorflow_federated as tff

from fedutils import data, models, provenance, race, results, runtime, serving, training


class Rounds:
    """Federated averaging of the study's CNN, a round a call.

    Args:
        aggregation: Name of a recipe, or a function that makes a TFF aggregation factory, which
            is then used as TFF does, without anything of this project.
        classes: Number of labels.
    """

    def __init__(self, aggregation, classes):
        if callable(aggregation):
            sgd = tff.learning.optimizers.build_sgdm
            self._process = tff.learning.algorithms.build_weighted_fed_avg(
                lambda: models.tff_model("cnn", classes, 1),
                client_optimizer_fn=sgd(0.1),
                server_optimizer_fn=sgd(1.0),
                model_aggregator=aggregation(),
            )
        else:
            config = training.RunConfig(aggregation, client_learning_rate=0.1)
            self._process = training.build_process(config, classes)
        self._state = self._process.initialize()

    def __call__(self, datasets):
        """Makes a round of these clients; returns its seconds."""
        begin = time.perf_counter()
        self._state = self._process.next(self._state, datasets).state
        return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="none,tff-compression,default")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runtime.start()
    federated = data.load(data.DataConfig(arguments.dataset), arguments.data_dir)
    names = race.select(arguments.recipes)
    rounds = {name: Rounds(name, federated.classes) for name in names}
    seconds = {name: [] for name in names}
    cohorts = training.Cohorts(training.RunConfig(clients_per_round=arguments.clients), federated)
    for turn in range(arguments.turns + 1):
        datasets = cohorts.datasets(turn)
        for name in names:
            spent = rounds[name](datasets)
            if turn:  # the first round compiles
                seconds[name].append(spent)
    first = seconds[names[0]]
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], first, strict=True)]
        print(
            f"{name:16} {statistics.median(seconds[name]):.2f} s a round, "
            f"{statistics.median(ratios):.3f} of {names[0]} "
            f"(from {min(ratios):.3f} to {max(ratios):.3f})"
        )
    if arguments.out:
        kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        kept[arguments.dataset] = {
            "clients": arguments.clients,
            "turns": arguments.turns,
            "intra_op_threads": serving.ENVIRONMENT["TF_NUM_INTRAOP_THREADS"],
            "origin": provenance.describe(),
            "seconds": {name: round(statistics.median(seconds[name]), 4) for name in names},
        }
        results.write_json(arguments.out, kept)


if __name__ == "__main__":
    main()
