"""How long a round takes when a client sits behind a slow uplink: measured, beside the model of it.

    sudo .venv/bin/python benchmarks/slow_link.py [--recipes none,tff-compression,default,adaptive]
        [--uplink 5] [--down 55] [--rounds 3] [--out benchmarks/slow_link.json]

A worker is put into a network namespace of its own, whose link the kernel limits (`tc`, token
bucket; megabits per second each way). It is one client of a round of the study's network: what it
is sent and what it sends goes through that link. Beside each time stands what the model of
`fedutils/links.py` makes of it, as in the race's hours on real links: what the same client takes
without a link, and the ledger's bits over the link's rates. Needs Linux, root and iproute2.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import time
from pathlib import Path

from scaling import billed_bytes, sent_bytes, started

from fedutils import data, ledger, provenance, race, results, runtime, training, workers

import tensorflow_federated as tff  # isort: skip (fedutils tames TensorFlow's log)

NAMESPACE = "fedutils-slow"
HERE, THERE = "10.211.0.1", "10.211.0.2"
INSIDE = ("ip", "netns", "exec", NAMESPACE)


def run(*command):
    """Runs a command that must succeed."""
    subprocess.run(list(map(str, command)), check=True)


@contextlib.contextmanager
def slow_link(up, down):
    """A namespace at the end of a link with these rates, in Mbit/s, until the block ends."""
    limit = ("root", "tbf", "burst", "32kbit", "latency", "400ms", "rate")
    run("ip", "netns", "add", NAMESPACE)
    try:
        run("ip", "link", "add", "slow0", "type", "veth", "peer", "slow1", "netns", NAMESPACE)
        run("ip", "addr", "add", f"{HERE}/30", "dev", "slow0")
        run("ip", "link", "set", "slow0", "up")
        run(*INSIDE, "ip", "addr", "add", f"{THERE}/30", "dev", "slow1")
        run(*INSIDE, "ip", "link", "set", "slow1", "up")
        run(*INSIDE, "ip", "link", "set", "lo", "up")
        run(*INSIDE, "tc", "qdisc", "add", "dev", "slow1", *limit, f"{up}mbit")
        run("tc", "qdisc", "add", "dev", "slow0", *limit, f"{down}mbit")
        yield
    finally:
        run("ip", "netns", "delete", NAMESPACE)


def rounds(process, state, datasets, turns):
    """Median seconds of a round that is repeated, one before them left out, and its output."""
    process.next(state, datasets)
    seconds = []
    for _ in range(turns):
        begin = time.perf_counter()
        output = process.next(state, datasets)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), output


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="none,tff-compression,default,adaptive")
    parser.add_argument("--uplink", type=float, default=5.0)
    parser.add_argument("--down", type=float, default=55.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    runtime.start()
    local = tff.framework.get_context_stack().current
    federated = data.load(data.DataConfig("mnist5k"))
    rows = []
    with slow_link(arguments.uplink, arguments.down), started(THERE, INSIDE) as port:
        far = workers.SpreadingContext(local, [f"{THERE}:{port}"])
        for recipe in race.select(arguments.recipes):
            config = training.RunConfig(recipe, clients_per_round=1, client_learning_rate=0.1)
            process = training.build_process(config, federated.classes)
            datasets = training.Cohorts(config, federated).datasets(1)
            tff.framework.set_default_context(local)
            # The second round, as nothing is announced in the first; again and again, as no model
            # learns for long from the coarse updates of one client.
            state = process.next(process.initialize(), datasets).state
            near, _ = rounds(process, state, datasets, arguments.rounds)
            tff.framework.set_default_context(far)
            before = sent_bytes([port], INSIDE)
            measured, output = rounds(process, state, datasets, arguments.rounds)
            down, up = ((sent_bytes([port], INSIDE) - before) / (arguments.rounds + 1)).tolist()
            of_ledger = billed_bytes(ledger.of(process.next), output.metrics, 1)
            over_link = [8 * n / 1e6 for n in of_ledger]
            row = {
                "recipe": recipe,
                "seconds": round(measured, 3),
                "seconds_without_link": round(near, 3),
                "seconds_modelled": round(
                    near + over_link[0] / arguments.down + over_link[1] / arguments.uplink, 3
                ),
                "socket_bytes_down": round(down),
                "socket_bytes_up": round(up),
                "ledger_bytes_down": of_ledger[0],
                "ledger_bytes_up": of_ledger[1],
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    results.write_json(
        arguments.out,
        {
            "origin": provenance.describe(),
            "uplink_mbit": arguments.uplink,
            "downlink_mbit": arguments.down,
            "turns": arguments.rounds,
            "rounds": rows,
        },
    )


if __name__ == "__main__":
    main()
