"""A TFF worker on another machine: its address, the connection, whether it computes as we do.

TFF's wire has no version and no greeting. So a worker is asked for something that is known, before
anything is trained on it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils.errors import UsageError

_MAX_MESSAGE_BYTES = 2_000_000_000
_ANSWER_SECONDS = 10.0  # at the start
_ALIVE_SECONDS = 2.0  # later


def parse(addresses: str) -> list[str]:
    """Returns the addresses of a text.

    Args:
        addresses: `host:port`, with commas between them.

    Raises:
        UsageError: If one is malformed, or there twice.
    """
    found = [address.strip() for address in addresses.split(",")]
    for address in found:
        matched = re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", address, re.ASCII)
        if not matched or not 1 <= int(matched[2]) <= 65535:
            raise UsageError(
                f"{address!r} is no address of a worker: expected host:port,host:port with ports "
                "from 1 to 65535"
            )
        if found.count(address) > 1:
            raise UsageError(f"the worker {address} is named twice: name each once")
    return found


def stub(
    address: str, seconds: float, alive: Callable[[], bool] = lambda: True
) -> tff.framework.RemoteExecutorGrpcStub | None:
    """Returns a stub of the worker at an address; None if it does not answer in time.

    Args:
        address: `host:port`.
        seconds: How long to try.
        alive: Tells whether it is worth going on.
    """
    channel = grpc.insecure_channel(
        address,
        options=[
            ("grpc.max_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),  # no other channel's wait before it tries again
        ],
    )
    found = tff.framework.RemoteExecutorGrpcStub(channel)
    deadline = time.monotonic() + seconds
    while alive() and time.monotonic() < deadline:
        if found.is_ready:
            return found
        time.sleep(0.05)
    channel.close()
    return None


class Remote:
    """A worker on another machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost = False
        self.busy = False
        self.since = 0.0  # when it became busy, of `time.monotonic`
        self._stub = None
        self._context = tff.framework.SyncExecutionContext(
            executor_fn=tff.framework.ResourceManagingExecutorFactory(self._executor),
            transform_args=tff.tensorflow.transform_args,
            transform_result=tff.tensorflow.transform_result,
        )

    def connect(self, seconds: float) -> bool:
        """Tells whether it answers."""
        if self._stub is None or not self._stub.is_ready:
            self._stub = stub(self.address, seconds)
        return self._stub is not None

    def _executor(self, cardinalities):
        # Called before each first use, and again after the connection broke.
        if not self.connect(_ALIVE_SECONDS):
            raise ConnectionError(f"{self.address} does not answer")
        executor = tff.framework.RemoteExecutor(self._stub)
        executor.set_cardinalities(cardinalities)
        return executor

    def invoke(self, compiled, arg):
        """Computes there.

        Raises:
            ConnectionError: If it cannot be reached, any more.
            Exception: Whatever the computation raised.
        """
        try:
            return self._context.invoke(compiled, arg)
        except (grpc.RpcError, tff.framework.RetryableError) as error:
            self._stub = None  # whether it is there, only a new connection tells for certain
            if self.connect(_ALIVE_SECONDS):
                raise
            raise ConnectionError(f"{self.address} does not answer") from error


def known_answer() -> tff.Computation:
    """Arithmetic as in training, on numbers from a seed; the answer tells machines apart."""

    @tff.tensorflow.computation(np.int32)
    def arithmetic(seed):
        images = tf.random.stateless_normal([4, 12, 12, 3], [seed, 0])
        kernel = tf.random.stateless_normal([5, 5, 3, 8], [seed, 1])
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            flat = tf.reshape(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "VALID")), [4, -1])
            loss = tf.reduce_sum(tf.nn.log_softmax(flat))
        return tape.gradient(loss, kernel)

    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def known(seeds):
        return tff.federated_sum(tff.federated_map(arithmetic, seeds))

    return known


def examine(remote: Remote, local: tff.framework.SyncContext) -> None:
    """Asks a worker for something that is known; tells if it rounds differently.

    Args:
        remote: The worker.
        local: Computes what the answer must be.

    Raises:
        UsageError: If it does not answer, or cannot compute what this machine can.
    """
    if not remote.connect(_ANSWER_SECONDS):
        raise UsageError(
            f"no worker answers at {remote.address}: start it there with `fedutils worker --port "
            f"{remote.address.rpartition(':')[2]}`, or mend the address"
        )
    known = known_answer()
    arg = [1, 2]
    expected = local.invoke(known, arg)
    try:
        found = remote.invoke(tff.backends.native.desugar_and_transform_to_native(known), arg)
        same_kind = np.shape(found) == np.shape(expected) and np.allclose(found, expected, 1e-3)
    except Exception as error:
        raise _another_version(remote) from error
    if not same_kind:
        raise _another_version(remote)
    if not np.array_equal(found, expected):
        print(
            f"the worker {remote.address} rounds differently, as another kind of processor or "
            "version of TensorFlow does: the run will not repeat bit for bit elsewhere",
            flush=True,
        )


def _another_version(remote: Remote) -> UsageError:
    return UsageError(
        f"the worker {remote.address} cannot compute what this machine can: have the same version "
        "of this package, and so of TensorFlow Federated, on all machines"
    )
