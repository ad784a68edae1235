"""Rounds of Flower's simulation (Ray) with the study's CNN: `flower_rounds.py DATA.npz`.

The clients compute what `plain.Client` does, one core each. A round lasts from the server's choice
of its clients to the new model. It is asked for in the strategy, which waits for requests.
"""

import os
import sys
import time

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_worker_niceness": "0"}  # as everything that it is compared with

import flwr
import numpy as np
import ray
import turns


class Client(flwr.client.NumPyClient):
    def __init__(self, path, name):
        self._path, self._name = path, name

    def fit(self, parameters, config):
        import plain

        with np.load(self._path) as saved:
            images, labels = saved[f"x:{self._name}"], saved[f"y:{self._name}"]
        return plain.client_of_process().train(parameters, images, labels), len(labels), {}


class Waiting(flwr.server.strategy.FedAvg):
    """Federated averaging that begins a round when it is asked to."""

    def __init__(self, names, **options):
        super().__init__(**options)
        self._names = names
        self._requests = turns.requests()
        self._answer = None

    def configure_fit(self, server_round, parameters, client_manager):
        if self._answer:
            self._answer({"value": time.perf_counter() - self._begin})
        request, self._answer = next(self._requests, ({}, None))
        if not request:
            ray.shutdown()
            os._exit(0)
        self._begin = time.perf_counter()
        everyone = client_manager.all()
        if len(everyone) < len(self._names):
            client_manager.wait_for(len(self._names))
            everyone = client_manager.all()
        by_partition = [everyone[key] for key in sorted(everyone, key=int)]
        chosen = [by_partition[self._names.index(name)] for name in request["clients"]]
        return [(proxy, flwr.common.FitIns(parameters, {})) for proxy in chosen]


def main():
    path = os.path.abspath(sys.argv[1])  # noqa: PTH100 (actors run elsewhere)
    with np.load(path) as saved:
        names = sorted(name.split(":")[1] for name in saved if name[0] == "x")
    import plain

    initial = [v.numpy() for v in plain.network().trainable_variables]
    strategy = Waiting(
        names,
        fraction_evaluate=0.0,
        min_fit_clients=1,
        min_available_clients=len(names),
        initial_parameters=flwr.common.ndarrays_to_parameters(initial),
    )

    def client(context):
        name = names[int(context.node_config["partition-id"])]
        return Client(path, name).to_client()

    def server(context):
        return flwr.server.ServerAppComponents(
            strategy=strategy, config=flwr.server.ServerConfig(num_rounds=1_000_000)
        )

    flwr.simulation.run_simulation(
        server_app=flwr.server.ServerApp(server_fn=server),
        client_app=flwr.client.ClientApp(client_fn=client),
        num_supernodes=len(names),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"object_store_memory": 500_000_000, "num_cpus": os.cpu_count()},
        },
    )


if __name__ == "__main__":
    main()
