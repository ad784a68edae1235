"""The same updates through every peer: rate and distortion, speed, growth, time of a round.

    .venv/bin/python benchmarks/peers.py [--part rate_distortion|speed|growth|round_time]
        [--turns 9] [--cpu 1] [--largest 100000000]

Measures all parts, or those named with commas between them, and keeps them in
benchmarks/peers.json, each with where it came from; `fedutils.peers` draws table and figures from
that. The updates are those that `benchmarks/codecs.py` keeps. What clashes with this project's
packages runs in environments of its own, made here from the locks in benchmarks/peers. A peer
that cannot be installed or run is recorded with the reason.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import round_time
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import (
    data,
    distortion,
    peers,
    provenance,
    report,
    results,
    runtime,
    training,
    updates,
)
from fedutils.codecs import quantizers, recipes
from fedutils.codecs.base import tensors

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

import coders  # noqa: E402
import serve_ours  # noqa: E402
import speed  # noqa: E402
import turns  # noqa: E402

BUILD = provenance.REPOSITORY / "build" / "peers"
ROUNDS = (1, 10, 40, 100)
# Steps in root mean squares of the update, from about 9 bits per parameter to below 0.02.
STEPS = {
    "nearest": (0.003, 0.015, 0.06, 0.25, 0.8, 2.0, 4.0, 8.0, 14.0),
    "random": (0.003, 0.015, 0.06, 0.25, 1.0, 4.0, 15.0, 40.0, 100.0, 250.0),
}
ROUNDINGS = {"nearest": quantizers.Nearest(), "random": quantizers.Stochastic()}
FEDJAX = {
    "uniform": ("FedJAX uniform + arithmetic", (2, 8, 32, 128, 1024, 8192)),
    "rotated": ("FedJAX rotated", (2, 4, 16, 64, 256)),
    "drive": ("FedJAX DRIVE", (2,)),
    "terngrad": ("FedJAX TernGrad", (3,)),
}
SPEEDS = {
    "ours": (serve_ours.DEFAULT, "sparse", "context", "ANS"),
    "codecs": (
        "constriction ANS",
        "constriction range",
        "zstd",
        "zlib",
        "tfc run-length gamma",
        "tfc range",
    ),
}
DEFAULT_STEP = recipes.default([]).default_params()["step"]
GROWING = (("ours", serve_ours.DEFAULT), ("codecs", "constriction ANS"), ("codecs", "zstd"))


def environment(name):
    """The Python of the environment that benchmarks/peers/NAME.lock describes, made if it is not.

    Raises:
        turns.Failed: If it cannot be installed.
    """
    lock, folder = HERE / "peers" / f"{name}.lock", BUILD / name
    python, ready = folder / "bin" / "python", folder / ".lock-digest"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not ready.exists() or ready.read_text() != digest:
        print(f"Installing the environment of {name}", flush=True)
        uv = str(Path(sys.executable).with_name("uv"))
        install = ["pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
            [uv, *install, "--python", str(python), "-r", str(lock)],
        ):
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                print(made.stderr, file=sys.stderr)
                raise turns.Failed("its locked packages could not be installed")
        ready.write_text(digest)
    return python


def child(stack, name, script, *arguments, cpu=None, threads=None):
    """Starts a script of benchmarks/peers in an environment, until the stack is left."""
    python = sys.executable if name == "ours" else environment(name)
    BUILD.mkdir(parents=True, exist_ok=True)
    known = {"PYTHONPATH": str(provenance.REPOSITORY)} if name == "ours" else {}
    if threads:
        known |= {"BENCH_THREADS": str(threads)}
        known |= {x: str(threads) for x in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    log = BUILD / f"{Path(script).stem}-{os.getpid()}.log"
    made = turns.Child(python, HERE / "peers" / script, log, *arguments, cpu=cpu, environment=known)
    return stack.enter_context(made)


def reason(error):
    """What went wrong, in one line without paths."""
    text = str(error).strip().splitlines()
    return re.sub(r"(/[^\s/:'\"]+){2,}", "…", text[0])[:160] if text else "unknown"


def collected():
    """The updates, one client a round."""
    config = training.RunConfig(client_learning_rate=0.1, seed=7)
    kept = updates.collect(config, ROUNDS, clients=2)
    first = kept.table.groupby("round", sort=False).head(1).index
    return {r: kept.vectors[i] for r, i in zip(ROUNDS, first, strict=True)}, kept.layout


class RateDistortion:
    """Bytes and NMSE of every codec on every update."""

    def __init__(self, vectors, layout):
        self.vectors, self.layout = vectors, layout
        self.rows, self.unavailable = [], []

    def add(self, codec, round_number, size, nmse, *, own=False, measured=True, **more):
        where = {"codec": codec, "own": own, "measured": measured, "round": round_number}
        row = where | {"nmse": nmse, "bytes": size} | more
        self.rows.append(row)
        rate = 8 * size / len(self.vectors[round_number])
        print(f"round {round_number:3} {codec:28} {rate:9.4f} bit NMSE {nmse:.3g}", flush=True)

    def run(self):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.theirs = None
            try:
                self.theirs = child(stack, "codecs", "serve_codecs.py")
            except turns.Failed as error:
                self.unavailable += [{"peer": "all of codecs.lock", "reason": reason(error)}]
            for round_number, vector in self.vectors.items():
                self.own(round_number, vector, folder)
                self.tff_and_floats(round_number, vector)
                if self.theirs:
                    self.others(round_number, vector, folder)
        return self.rows, self.unavailable

    def own(self, round_number, vector, folder):
        """The codec `context` by step, and lossless coders on the symbols it makes."""
        for kind, rounding in ROUNDINGS.items():
            codec = recipes.context(self.layout, rounding=rounding)
            encode, decode = (tf.function(f, autograph=False) for f in (codec.encode, codec.decode))
            for step in STEPS[kind]:
                params = tensors({"step": step})
                payload = encode(tf.constant(vector), params, tf.constant([1, 0]))
                decoded = decode(payload, params, len(vector))
                if not decoded.ok:
                    raise AssertionError(f"step {step}: the codec rejected its own payload")
                values = decoded.values.numpy()
                nmse = distortion.nmse(values, vector)
                more = {"rounding": kind, "step": step}
                name = "context" if kind == "random" else "context, nearest"
                self.add(name, round_number, len(payload.numpy()), nmse, own=True, **more)
                unit = np.sqrt(np.mean(np.square(vector, dtype=np.float64))) * step
                symbols = np.rint(values / unit).astype(np.int32)
                path = folder / "symbols.npy"
                np.save(path, symbols)
                for peer in coders.coders() if self.theirs else ():
                    with self.recorded(peer):
                        size = self.theirs.ask("size", name=peer, symbols=str(path))
                        self.add(peer, round_number, size, nmse, **more)

    def tff_and_floats(self, round_number, vector):
        encode, decode = speed.tffs(self.layout)
        encoded = encode(tf.constant(vector))
        size = sum(part.numpy().nbytes for part in tf.nest.flatten(encoded))
        nmse = distortion.nmse(decode(encoded).numpy(), vector)
        self.add("TFF 8-bit", round_number, size, nmse, rounding="random")
        half = tf.cast(vector, tf.bfloat16)
        nmse = distortion.nmse(tf.cast(half, tf.float32).numpy(), vector)
        self.add("bfloat16", round_number, 2 * len(vector), nmse, rounding="nearest")

    def others(self, round_number, vector, folder):
        update, out = folder / "update.npy", folder / "decoded.npy"
        np.save(update, vector)
        files = {"update": str(update), "out": str(out), "layout": self.layout}
        for name in coders.compressors(True):
            with self.recorded(f"8-bit + {name}"):
                size = self.theirs.ask("eight_bit", name=name, **files)
                nmse = distortion.nmse(np.load(out), vector)
                self.add(f"8-bit + {name}", round_number, size, nmse, rounding="random")
        for method, (name, numbers) in FEDJAX.items():
            for levels in numbers:
                with self.recorded(name):
                    size = self.theirs.ask("fedjax", method=method, levels=levels, **files)
                    nmse = distortion.nmse(np.load(out), vector)
                    more = {"measured": False, "rounding": "random", "levels": levels}
                    self.add(name, round_number, size, nmse, **more)

    @contextlib.contextmanager
    def recorded(self, peer):
        """Records what a peer could not do, once."""
        try:
            yield
        except turns.Failed as error:
            found = {"peer": peer, "reason": reason(error)}
            if found not in self.unavailable:
                self.unavailable.append(found)
                print(f"{peer}: {found['reason']}", flush=True)


def measure_rate_distortion(options, vectors, layout):
    """Bytes and NMSE: every codec, every update."""
    return RateDistortion(vectors, layout).run()


def measure_speed(options, vectors, layout):
    """Median seconds of encoding and decoding the default recipe's symbols, in turn, one core."""
    vector = vectors[10]
    rows, unavailable, seconds = [], [], {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        update = folder / "update.npy"
        np.save(update, vector)
        children = {}
        for name in SPEEDS:
            try:
                script = f"serve_{name}.py"
                children[name] = child(stack, name, script, cpu=options.cpu, threads=1)
            except turns.Failed as error:
                unavailable += [{"peer": peer, "reason": reason(error)} for peer in SPEEDS[name]]
        unit = np.sqrt(np.mean(np.square(vector, dtype=np.float64)))
        for what, step, kind in (
            (peers.DEFAULT_SYMBOLS, DEFAULT_STEP, "random"),
            (peers.DENSE_SYMBOLS, 0.8, "nearest"),
        ):
            scaled = vector / (unit * step)
            if kind == "random":
                rounded = np.floor(scaled + np.random.default_rng(0).random(len(vector)))
            else:
                rounded = np.rint(scaled)
            path = folder / f"{kind}.npy"
            np.save(path, rounded.astype(np.int32))
            for turn in range(options.turns + 1):
                for name, at_work in children.items():
                    for peer in SPEEDS[name]:
                        if peer == serve_ours.DEFAULT and kind != "random":
                            continue
                        request = {"name": peer, "symbols": str(path)}
                        if name == "ours":
                            request |= {"update": str(update), "layout": layout}
                        try:
                            found = at_work.ask("seconds", **request)
                        except turns.Failed as error:
                            entry = {"peer": peer, "reason": reason(error)}
                            unavailable += [entry] if entry not in unavailable else []
                            continue
                        if turn:  # the first one traces
                            seconds.setdefault((what, peer, name == "ours"), []).append(found)
    megabytes = 4 * len(vector) / 1e6
    for (what, peer, own), times in seconds.items():
        encode, decode, size = (statistics.median(column) for column in zip(*times, strict=True))
        both = statistics.median(a + b for a, b, _ in times)
        rows.append(
            {
                "symbols": what,
                "coder": peer,
                "own": own,
                "encode_ms": round(1000 * encode, 2),
                "decode_ms": round(1000 * decode, 2),
                "both_ms": round(1000 * both, 2),
                "encode_mb_s": round(megabytes / encode, 1),
                "decode_mb_s": round(megabytes / decode, 1),
                "bytes": size,
                "turns": len(times),
            }
        )
        print(f"{what:20} {peer:28} {1000 * encode:7.1f} + {1000 * decode:7.1f} ms", flush=True)
    return rows, unavailable


def measure_growth(options, vectors, layout):
    """Seconds and peak memory by the number of elements, each in a process of its own."""
    # Rows of the large dense layer, again and again.
    start = sum(int(np.prod(shape)) for shape in layout[:4])
    part = vectors[10][start : start + int(np.prod(layout[4]))]
    rows, unavailable = [], []
    with tempfile.TemporaryDirectory() as folder:
        update, symbols = Path(folder) / "update.npy", Path(folder) / "symbols.npy"
        np.save(update, part)
        scaled = part / (DEFAULT_STEP * np.sqrt(np.mean(np.square(part, dtype=np.float64))))
        rounded = np.floor(scaled + np.random.default_rng(0).random(len(part)))
        np.save(symbols, rounded.astype(np.int32))
        for name, coder in GROWING:
            peaks, n = [], 10_000
            while n <= options.largest:
                room = psutil.virtual_memory().available / 2**20
                expected = 10 * (peaks[-1] - peaks[0]) + peaks[0] if peaks else 0
                if expected > 0.6 * room:
                    text = f"{n:,} elements would need some {expected / 1024:.0f} GiB of memory"
                    unavailable.append({"peer": coder, "reason": text})
                    break
                repeats = 5 if n <= 10**6 else 3 if n <= 10**7 else 2
                given = update if name == "ours" else symbols
                request = {"elements": n, "repeats": repeats, "name": coder}
                request["update" if name == "ours" else "symbols"] = str(given)
                try:
                    with contextlib.ExitStack() as stack:
                        script = f"serve_{name}.py"
                        at_work = child(stack, name, script, cpu=options.cpu, threads=1)
                        encode, decode, peak = at_work.ask("grow", **request)
                except turns.Failed as error:
                    unavailable.append({"peer": coder, "reason": f"{n:,}: {reason(error)}"})
                    break
                peaks.append(peak)
                row = {"coder": coder, "own": name == "ours", "elements": n}
                row |= {"encode_s": round(encode, 5), "decode_s": round(decode, 5)}
                rows.append(row | {"peak_memory_mib": round(peak)})
                print(f"{coder:28} {n:11,} {encode + decode:9.4f} s {peak:7.0f} MiB", flush=True)
                n *= 10
    return rows, unavailable


def measure_round_time(options, vectors, layout):
    """Median seconds of a round of ten clients, each way in turn on the same clients."""
    federated = data.load(data.DataConfig())
    clients = federated.train.client_ids
    cohorts = training.Cohorts(training.RunConfig(), federated)
    unavailable, seconds = [], {}
    runtime.start()
    inside = {
        peers.PLAIN: tff.aggregators.MeanFactory,
        "TFF, 8-bit compression": tff.learning.compression_aggregator,
        peers.OWN_PLAIN: "none",
        "ours, default": "default",
    }
    inside = {name: round_time.Rounds(what, federated.classes) for name, what in inside.items()}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arrays = {}
        for client in clients:
            arrays[f"x:{client}"], arrays[f"y:{client}"] = federated.train_arrays(client)
        path = folder / "clients.npz"
        np.savez(path, **arrays)
        outside = {}
        for name, where, script, *more in (
            ("plain TensorFlow loop", "ours", "plain_rounds.py", 1),
            ("plain TensorFlow, two clients at once", "ours", "plain_rounds.py", 2),
            ("FedJAX", "codecs", "fedjax_rounds.py"),
            ("Flower simulation", "flower", "flower_rounds.py"),
        ):
            try:
                outside[name] = child(stack, where, script, path, *more)
                # All clients once: each size of a last batch is compiled or traced now.
                outside[name].ask("round", clients=clients)
            except turns.Failed as error:
                outside.pop(name, None)
                unavailable.append({"peer": name, "reason": reason(error)})
                print(f"{name}: {reason(error)}", flush=True)
        for turn in range(options.turns + 1):
            datasets, cohort = cohorts.datasets(turn), cohorts.clients(turn)
            found = {name: rounds(datasets) for name, rounds in inside.items()}
            for name in list(outside):
                try:
                    found[name] = outside[name].ask("round", clients=cohort)
                except turns.Failed as error:
                    del outside[name]
                    unavailable.append({"peer": name, "reason": reason(error)})
            if turn:  # the first round compiles
                for name, value in found.items():
                    seconds.setdefault(name, []).append(value)
                print(" ".join(f"{name}: {value:.2f}" for name, value in found.items()), flush=True)
    first = seconds[peers.PLAIN]
    rows = []
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, first, strict=False)]
        rows.append(
            {
                "system": name,
                "own": name.startswith("ours"),
                "seconds": round(statistics.median(values), 4),
                "ratio_to_plain_tff": round(statistics.median(ratios), 4),
                "least_ratio": round(min(ratios), 4),
                "greatest_ratio": round(max(ratios), 4),
                "turns": len(values),
            }
        )
        print(f"{name:40} {rows[-1]['seconds']:6.2f} s {rows[-1]['ratio_to_plain_tff']:.3f}")
    return rows, unavailable


def versions_of_peers():
    """Versions that the locks of the peers' environments name."""
    wanted = {"fedjax", "jax", "tensorflow-compression", "constriction", "zstandard", "flwr", "ray"}
    found = {}
    for lock in sorted((HERE / "peers").glob("*.lock")):
        for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE):
            if name in wanted:
                found[name] = version
    return dict(sorted(found.items()))


PARTS = {
    "rate_distortion": measure_rate_distortion,
    "speed": measure_speed,
    "growth": measure_growth,
    "round_time": measure_round_time,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--largest", type=int, default=100_000_000)
    options = parser.parse_args()
    chosen = options.part.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {sorted(unknown)[0]!r}: choose from {', '.join(PARTS)}")
    path = HERE / "peers.json"
    vectors, layout = collected()
    for part in chosen:
        before, begin = psutil.cpu_percent(3), time.monotonic()
        rows, unavailable = PARTS[part](options, vectors, layout)
        kept = json.loads(path.read_text()) if path.exists() else {"about": {}}
        kept["about"][part] = {
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - begin),
            # Times that were taken while the machine had other work are preliminary; bytes are not.
            "busy": before > 5 and part in peers.TIMED,
            "cpu_percent_before": before,
            "turns": options.turns,
            "peers": versions_of_peers(),
            **provenance.describe(),
            "unavailable": unavailable,
        }
        kept["parameters"] = next(iter(vectors.values())).size
        kept[part] = rows
        results.write_json(path, kept)
    missing = [part for part in peers.PARTS if part not in kept]
    if missing:
        print(f"No table or figure yet: {', '.join(missing)} not measured")
    else:
        report.write_peers()


if __name__ == "__main__":
    main()
