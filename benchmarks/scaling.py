"""Rounds spread over workers: how many a second, what crosses the sockets, what 10^6 clients cost.

    .venv/bin/python benchmarks/scaling.py [--recipes none,default] [--workers 0,1,2,4]
        [--clients 10,100,1000] [--turns 5] [--out benchmarks/scaling.json]

All workers are on this machine and share its cores: what is seen is what spreading costs, not what
more machines would gain. Each client has 20 real digits, a batch, and the `dense` network. The
rounds of the numbers of workers (0: no sockets, this machine alone) are interleaved, so that a
machine whose speed drifts slows all of them; times are medians. A round before them, which
compiles, does not count; from 1,000 clients on there is one round and none before, as neither would
make a difference. The bytes are the kernel's own counters of the workers' connections (`ss`), read
before and after a round. JSON and a figure beside it are written.
"""

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import portpicker

from fedutils import (
    data,
    ledger,
    looks,
    processes,
    provenance,
    race,
    records,
    results,
    runtime,
    training,
    workers,
)

import tensorflow_federated as tff  # isort: skip (fedutils tames TensorFlow's log)

EXAMPLES = 20
CLIENTS = 10**6


@contextlib.contextmanager
def started(host="127.0.0.1", inside=()):
    """A worker, until the block ends; yields its port. `inside`: a command that runs a command."""
    port = portpicker.pick_unused_port()
    command = [*inside, Path(sys.executable).with_name("fedutils"), "worker", "--port", port]
    program, *rest = map(str, [*command, "--host", host])
    command = processes.bound_to_parent([shutil.which(program), *rest])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if not process.stdout.readline().startswith("TFF's worker listens"):
            sys.exit("a worker did not start: its message stands above")
        yield port
    finally:
        process.terminate()
        process.communicate()


def sent_bytes(ports, inside=()):
    """Bytes that workers at these ports have received and sent so far, as the kernel counts."""
    found = np.zeros(2, np.int64)
    for port in ports:
        command = [*inside, "ss", "-tinHO", "state", "established", "sport", f"= :{port}"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for way, name in enumerate(("bytes_received", "bytes_sent")):
            found[way] += sum(map(int, re.findall(rf"\b{name}:(\d+)", shown)))
    return found


def billed_bytes(bill, metrics, clients):
    """What the ledger says of a round: bytes broadcast and bytes aggregated, of all clients."""
    measured = records.measurements(metrics)
    totals = {way: clients * bill.bits(way) for way in ledger.Direction}
    for name, (way, _) in records.STRINGS.items():
        copies = clients if way is ledger.Direction.BROADCAST else 1
        totals[way] += copies * int(measured.get(name, 0))
    return [bits // 8 for bits in totals.values()]


def cohort(federated, clients):
    """That many clients with 20 digits each; those of the data set again and again."""
    ids = federated.train.client_ids
    arrays = [federated.train_arrays(client) for client in ids[: min(clients, len(ids))]]
    return [
        data.train_dataset(
            *(part[:EXAMPLES] for part in arrays[i % len(arrays)]),
            batch_size=EXAMPLES,
            epochs=1,
            seed=i,
        )
        for i in range(clients)
    ]


def measure(recipe, federated, contexts, counts, turns):
    """Rows of seconds and bytes, one for each number of workers and of clients."""
    config = training.RunConfig(recipe, model="dense", client_learning_rate=0.1)
    process = training.build_process(config, federated.classes)
    bill = ledger.of(process.next)
    for clients in counts:
        datasets = cohort(federated, clients)
        state = process.initialize()
        seconds = {number: [] for number in contexts}
        crossed = {}
        for turn in range(turns + 1) if clients < 1000 else [1]:
            for number, (context, ports) in contexts.items():
                tff.framework.set_default_context(context)
                before, begin = sent_bytes(ports), time.perf_counter()
                output = process.next(state, datasets)
                if turn:
                    seconds[number].append(time.perf_counter() - begin)
                crossed[number] = (sent_bytes(ports) - before).tolist()
            state = output.state
        for number in contexts:
            row = {
                "recipe": recipe,
                "workers": number,
                "clients": clients,
                "seconds": round(statistics.median(seconds[number]), 3),
                "of_this_machine_alone": round(
                    statistics.median(
                        a / b for a, b in zip(seconds[number], seconds[0], strict=True)
                    ),
                    3,
                ),
                "socket_bytes_down": crossed[number][0],
                "socket_bytes_up": crossed[number][1],
                "ledger_bytes_down": billed_bytes(bill, output.metrics, clients)[0],
                "ledger_bytes_up": billed_bytes(bill, output.metrics, clients)[1],
            }
            print(json.dumps(row), flush=True)
            yield row


def at_a_million(rows):
    """What a round of 10^6 clients would cost: straight lines through what was measured.

    Assumed: the time of a round is a + b x clients, as measured with the most workers here, so on
    cores as busy as these; bytes are those of the largest round for each client; the server's own
    part (adding up, one client after the other) does not become quicker with more workers. What is
    not in it: clients that wait or fail, links, and that real clients bring their own processor.
    """
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        of_recipe = [row for row in rows if row["recipe"] == recipe]
        most = max(row["workers"] for row in of_recipe)
        line = [row for row in of_recipe if row["workers"] == most]
        largest = max(line, key=lambda row: row["clients"])
        slope = 0.0
        if len(line) > 1:
            slope, _ = np.polyfit([r["clients"] for r in line], [r["seconds"] for r in line], 1)
        per_client = {
            name: largest[name] / largest["clients"]
            for name in ("socket_bytes_down", "socket_bytes_up", "ledger_bytes_up")
        }
        yield {
            "recipe": recipe,
            "workers": most,
            "milliseconds_a_client": round(1000 * slope, 2),
            "hours": round(slope * CLIENTS / 3600, 2),
            "gigabytes_up_on_sockets": round(per_client["socket_bytes_up"] * CLIENTS / 1e9, 2),
            "gigabytes_up_in_the_ledger": round(per_client["ledger_bytes_up"] * CLIENTS / 1e9, 2),
            "gigabytes_down_on_sockets": round(per_client["socket_bytes_down"] * CLIENTS / 1e9, 2),
        }


def draw(rows, path):
    """Two panels: rounds a second; bytes up on the sockets against the ledger's."""
    looks.style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    spread = sorted({row["workers"] for row in rows})
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    for recipe, dashes in zip(recipes, ("-", "--", ":", "-."), strict=False):
        for number, colour in zip(spread, looks.COLOURS, strict=False):
            line = [r for r in rows if (r["recipe"], r["workers"]) == (recipe, number)]
            left.plot(
                [r["clients"] for r in line],
                [1 / r["seconds"] for r in line],
                dashes,
                marker="o",
                markersize=4,
                color=colour,
                label=f"{recipe}, {number or 'no'} worker{'s' * (number != 1)}",
            )
    left.set(xscale="log", yscale="log", xlabel="clients a round", ylabel="rounds a second")
    left.set_title("All on one machine's cores")
    left.legend(fontsize="x-small")
    most = max(spread)
    style = looks.of(recipes)
    for recipe in recipes:
        line = [r for r in rows if (r["recipe"], r["workers"]) == (recipe, most)]
        right.plot(
            [r["ledger_bytes_up"] for r in line],
            [r["socket_bytes_up"] for r in line],
            linestyle="none",
            label=recipe,
            **style[recipe],
        )
    ends = [f(r["ledger_bytes_up"] for r in rows) for f in (min, max)]
    right.plot(ends, ends, color="0.5", linewidth=1, label="equal")
    right.set(xscale="log", yscale="log", xlabel="bytes aggregated, by the ledger")
    right.set(ylabel="bytes on the sockets")
    right.set_title(f"A round's bytes from {most} workers")
    right.legend(fontsize="small")
    looks.save(figure, path.parent, path.stem)


def main():
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="none,default")
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2, 4])
    parser.add_argument("--clients", type=numbers, default=[10, 100, 1000])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    federated = data.load(data.DataConfig("mnist5k"))
    runtime.start()
    local = tff.framework.get_context_stack().current
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(started()) for _ in range(max(arguments.workers))]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        contexts = {0: (local, [])}
        for number in filter(None, arguments.workers):
            context = workers.SpreadingContext(local, addresses[:number])
            contexts[number] = (context, ports[:number])
        rows = [
            row
            for recipe in race.select(arguments.recipes)
            for row in measure(recipe, federated, contexts, arguments.clients, arguments.turns)
        ]
    model = list(at_a_million(rows))
    for row in model:
        print(json.dumps(row))
    results.write_json(
        arguments.out,
        {
            "origin": provenance.describe(),
            "turns": arguments.turns,
            "rounds": rows,
            "a_million_clients": {
                "assumptions": " ".join(at_a_million.__doc__.split()),
                "rounds": model,
            },
        },
    )
    draw(rows, arguments.out)


if __name__ == "__main__":
    main()
