"""Rounds of FedJAX's federated averaging with the study's CNN: `fedjax_rounds.py DATA.npz`."""

import sys
import time

import fedjax
import haiku as hk
import jax
import numpy as np
import turns


def network(batch):
    """McMahan et al.'s CNN, as `fedutils.models.cnn`."""
    pool = hk.MaxPool(2, 2, "SAME")
    return hk.Sequential(
        [
            hk.Conv2D(32, 5),
            jax.nn.relu,
            pool,
            hk.Conv2D(64, 5),
            jax.nn.relu,
            pool,
            hk.Flatten(),
            hk.Linear(512),
            jax.nn.relu,
            hk.Linear(10),
        ]
    )(batch["x"])


def main():
    saved = np.load(sys.argv[1])
    clients = sorted({name.split(":")[1] for name in saved if name.startswith("x:")})
    model = fedjax.create_model_from_haiku(
        transformed_forward_pass=hk.transform(network),
        sample_batch={"x": np.zeros((1, 28, 28, 1), np.float32), "y": np.zeros(1, np.int32)},
        train_loss=lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(
            batch["y"], logits
        ),
    )
    data = {
        client: fedjax.ClientDataset({"x": saved[f"x:{client}"], "y": saved[f"y:{client}"]})
        for client in clients
    }
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(0.1),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=20, num_epochs=1, seed=0),
    )
    states = [algorithm.init(model.init(jax.random.PRNGKey(1)))]
    keys = iter(jax.random.split(jax.random.PRNGKey(2), 1_000_000 // 100))

    def rounds(clients):
        cohort = [(client, data[client], next(keys)) for client in clients]
        begin = time.perf_counter()
        state, _ = algorithm.apply(states[0], cohort)
        jax.block_until_ready(state.params)
        seconds = time.perf_counter() - begin
        states[0] = state
        return seconds

    def parameters():
        return sum(x.size for x in jax.tree_util.tree_leaves(states[0].params))

    turns.serve({"round": rounds, "parameters": parameters, "clients": lambda: clients})


if __name__ == "__main__":
    main()
