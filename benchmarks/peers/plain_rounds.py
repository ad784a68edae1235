"""Rounds in plain TensorFlow: `plain_rounds.py DATA.npz THREADS`.

With one thread, clients train one after the other, and TensorFlow uses all cores within an
operation; with more, as many clients train at the same time, each operation on one core.
"""

import concurrent.futures
import queue
import sys
import time

import numpy as np
import plain
import tensorflow as tf
import turns


def main():
    saved, threads = np.load(sys.argv[1]), int(sys.argv[2])
    if threads > 1:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    data = {
        n.split(":")[1]: (saved[n], saved[n.replace("x", "y", 1)]) for n in saved if n[0] == "x"
    }
    idle = queue.SimpleQueue()
    workers = [plain.Client() for _ in range(threads)]
    for worker in workers:
        idle.put(worker)
    state = [[variable.numpy() for variable in workers[0].model.trainable_variables]]
    pool = concurrent.futures.ThreadPoolExecutor(threads)

    def train(client):
        worker = idle.get()
        try:
            return worker.train(state[0], *data[client])
        finally:
            idle.put(worker)

    def rounds(clients):
        begin = time.perf_counter()
        results = list(pool.map(train, clients))
        state[0] = plain.mean(results, [len(data[client][1]) for client in clients])
        return time.perf_counter() - begin

    def accuracy(clients):
        for variable, value in zip(workers[0].model.trainable_variables, state[0], strict=True):
            variable.assign(value)
        right = [np.argmax(workers[0].model(data[c][0]), 1) == data[c][1] for c in clients]
        return float(np.mean(np.concatenate(right)))

    turns.serve({"round": rounds, "accuracy": accuracy})


if __name__ == "__main__":
    main()
