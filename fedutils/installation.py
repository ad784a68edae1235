"""Checks that an installation can do what the notebooks need."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from fedutils import provenance

_SHOWN = ("tensorflow-federated", "tensorflow", "jax", "papermill", "jupyterlab", "matplotlib")


def check(say: Callable[[str], None]) -> None:
    """Checks versions, a Jupyter kernel, TFF's worker and one round of training.

    Args:
        say: Receives a line for each check that passed.

    Raises:
        RuntimeError: If the kernel or TFF answers something else than expected.
        Exception: Whatever a check that failed raised.
    """
    for name, version in provenance.versions(_SHOWN).items():
        say(f"{name} {version}")
    say(f"kernel: {_ask_kernel()}")
    say(f"TFF: {_ask_tff()}")
    say(f"one round on synthetic digits: {_train_one_round()}")
    say("all is well")


def _ask_kernel() -> str:
    from jupyter_client.manager import KernelManager

    with tempfile.TemporaryDirectory() as sockets:
        file = str(Path(sockets) / "kernel.json")
        manager = KernelManager(kernel_name="python3", transport="ipc", connection_file=file)
        manager.start_kernel()
        client = manager.blocking_client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=60)
            answers = []
            client.execute_interactive(
                "print('Hello, World!')",
                timeout=60,
                output_hook=lambda message: answers.append(message["content"].get("text", "")),
            )
            answer = "".join(answers).strip()
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    return _expect(answer, "Hello, World!")


def _ask_tff() -> str:
    import tensorflow_federated as tff

    from fedutils import runtime

    runtime.start()
    answer = tff.federated_computation(lambda: "Hello, World!")()
    return _expect(answer.decode(), "Hello, World!")


def _train_one_round() -> str:
    from fedutils import data, training
    from fedutils.units import format_bits

    with tempfile.TemporaryDirectory() as store:
        config = training.RunConfig(
            data=data.DataConfig("synthetic"), rounds=1, clients_per_round=2, eval_every=1
        )
        last = training.run(config, store).records().iloc[-1]
    bits = format_bits(last["aggregated_bits"])
    return f"{last['num_examples']:.0f} examples, {bits} aggregated"


def _expect(answer: str, expected: str) -> str:
    if answer != expected:
        raise RuntimeError(f"expected {expected!r}, got {answer!r}")
    return answer
