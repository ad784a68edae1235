"""How long a round of federated averaging takes with each recipe, measured in turn.

    .venv/bin/python benchmarks/round_time.py [--recipes none,tff-compression,default] [--turns 9]

The rounds of the recipes are interleaved, so that a machine whose speed drifts slows all of them;
what is printed are medians and, turn by turn, the ratios to the first recipe.
"""

import argparse
import statistics
import time

from fedutils import data, runtime, training


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="none,tff-compression,default")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    runtime.start()
    federated = data.load(data.DataConfig("mnist5k"))
    names = arguments.recipes.split(",")
    processes, states, seconds = {}, {}, {name: [] for name in names}
    for name in names:
        config = training.RunConfig(name, client_learning_rate=0.1)
        processes[name] = training.build_process(config, federated.classes)
        states[name] = processes[name].initialize()
    cohorts = training.Cohorts(training.RunConfig(), federated)
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


if __name__ == "__main__":
    main()
