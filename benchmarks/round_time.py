"""How long a round of federated averaging takes with each recipe, measured in turn.

    .venv/bin/python benchmarks/round_time.py [--recipes none,tff-compression,default] [--turns 9]
        [--clients 10] [--dataset mnist5k|emnist] [--data-dir DIR] [--out FILE.json]

The rounds of the recipes are interleaved, so that a machine whose speed drifts slows all of them;
what is printed are medians and, turn by turn, the ratios to the first recipe. With `--clients 1`
and TF_NUM_INTRAOP_THREADS=1, a round is what one client computes on one core, and little else:
`--out results/race/client_seconds.json` keeps that for the race's times on real links.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from fedutils import data, provenance, race, results, runtime, training


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
    processes, states, seconds = {}, {}, {name: [] for name in names}
    for name in names:
        config = training.RunConfig(name, client_learning_rate=0.1)
        processes[name] = training.build_process(config, federated.classes)
        states[name] = processes[name].initialize()
    cohorts = training.Cohorts(training.RunConfig(clients_per_round=arguments.clients), federated)
    for turn in range(arguments.turns + 1):
        datasets = cohorts.datasets(turn)
        for name in names:
            begin = time.perf_counter()
            states[name] = processes[name].next(states[name], datasets).state
            if turn:  # the first round compiles
                seconds[name].append(time.perf_counter() - begin)
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
            "intra_op_threads": os.environ.get("TF_NUM_INTRAOP_THREADS", "default"),
            "origin": provenance.describe(),
            "seconds": {name: round(statistics.median(seconds[name]), 4) for name in names},
        }
        results.write_json(arguments.out, kept)


if __name__ == "__main__":
    main()
