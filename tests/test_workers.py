"""Rounds spread over workers: real processes on loopback, the numbers of one machine."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import portpicker
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from click.testing import CliRunner
from support import REPOSITORY, environment, outcome

from fedutils import cli, data, remotes, results, runtime, serving, training, workers
from fedutils.errors import UsageError

CONFIG = {
    "data": data.DataConfig("mnist5k"),
    "model": "logistic",
    "rounds": 2,
    "clients_per_round": 5,
    "client_learning_rate": 0.1,
}


@contextlib.contextmanager
def serving_worker(port: int | None = None):
    """The process of `fedutils worker`, when it listens, and its address."""
    port = port or portpicker.pick_unused_port()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("fedutils"), "worker", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout.readline().startswith("TFF's worker listens at ")
        yield process, f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def two(tff_worker):
    """A context over two workers, and their addresses."""
    with serving_worker() as (_, one), serving_worker() as (_, other):
        yield runtime._context(f"{one}, {other}"), [one, other]


@pytest.fixture
def spread(monkeypatch):
    """Lets runs of this test use workers."""
    monkeypatch.setattr(runtime, "_chosen", "")
    yield lambda addresses: runtime.use_workers(",".join(addresses))
    monkeypatch.undo()
    runtime.start()


@pytest.fixture
def answered(monkeypatch):
    """What each worker answered, in the order of answers: (address, what clients sent)."""
    kept = []
    invoke = remotes.Remote.invoke

    def keep(self, compiled, arg):
        answer = invoke(self, compiled, arg)
        kept.append((self.address, answer))
        return answer

    monkeypatch.setattr(remotes.Remote, "invoke", keep)
    return kept


RECIPES = ("none", "tff-compression", "default", "adaptive", "backward", "two-way")


@pytest.mark.parametrize("recipe", RECIPES)
def test_same_records_and_weights_as_on_one_machine(
    recipe, two, spread, answered, monkeypatch, tmp_path
):
    """Five clients on two workers, whose answers come in any order; payload strings cross."""
    monkeypatch.setattr(workers, "_CLIENTS_AT_ONCE", 2)
    config = training.RunConfig(recipe, **CONFIG)
    alone = training.run(config, tmp_path / "alone")
    assert not answered
    _, addresses = two
    spread(addresses)
    together = training.run(config, tmp_path / "together")
    assert outcome(together) == outcome(alone)
    assert together.folder.name == alone.folder.name  # where it ran does not decide what it is
    groups = [answer for _, answer in answered if isinstance(answer, list)]
    assert sorted(map(len, groups)) == [1, 1, 2, 2, 2, 2]
    assert {address for address, _ in answered} == set(addresses)
    if recipe in ("default", "adaptive", "backward", "two-way"):
        strings = [value for value in leaves(groups) if isinstance(value, bytes)]
        assert len(strings) == 10
        assert 8 * sum(map(len, strings)) == together.records()["payload_bits_sum"].sum()


def leaves(value: object) -> list[object]:
    """What is in lists, tuples and mappings of them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return [value]
    return [leaf for member in value for leaf in leaves(member)]


@pytest.fixture
def killing(monkeypatch):
    """Kills a worker with clients to train, once that many answers of groups are asked for."""

    def at(number: int, victim: subprocess.Popen) -> None:
        asked = []
        invoke = remotes.Remote.invoke

        def watched(self, compiled, arg):
            asked.append(self.address)
            if len(asked) == number:
                # Stopped first, so that however quick it is, it is asked and has not answered.
                for process in psutil.Process(victim.pid).children():
                    process.suspend()
                threading.Timer(0.5, victim.kill).start()
            return invoke(self, compiled, arg)

        monkeypatch.setattr(remotes.Remote, "invoke", watched)

    return at


NONE = training.RunConfig("none", **CONFIG)


@pytest.fixture(scope="module")
def expected(tff_worker, tmp_path_factory):
    """The outcome of plain averaging on this machine."""
    return outcome(training.run(NONE, tmp_path_factory.mktemp("alone")))


def test_worker_that_is_killed_in_mid_round_costs_nothing(
    expected, spread, killing, tmp_path, capfd, no_process_left
):
    with serving_worker() as (_, one), serving_worker() as (victim, other):
        spread([one, other])
        runtime.start()
        killing(1, victim)
        assert outcome(training.run(NONE, tmp_path)) == expected
    assert f"the worker {other} cannot be reached any more: the oth" in capfd.readouterr().out


def test_when_no_worker_is_left_the_run_resumes_elsewhere(expected, spread, killing, tmp_path):
    with serving_worker() as (victim, address):
        spread([address])
        runtime.start()
        killing(2, victim)  # in the second round
        with pytest.raises(UsageError, match=f"no worker is left of {address}.*command resumes"):
            training.run(NONE, tmp_path)
    assert results.Run(next(tmp_path.iterdir())).recorded() == 1
    spread([])
    assert outcome(training.run(NONE, tmp_path)) == expected


def test_worker_that_stops_is_helped(expected, two, spread, monkeypatch, tmp_path, capfd):
    """One that is stopped answers nothing, but its connection stays."""
    monkeypatch.setattr(workers, "_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(workers, "_PATIENCE", 0)
    with serving_worker() as (process, slow):
        spread([two[1][0], slow])
        runtime.start()
        (binary,) = psutil.Process(process.pid).children()
        binary.suspend()
        assert outcome(training.run(NONE, tmp_path)) == expected
    assert f"the worker {slow} is slow: an idle one helps" in capfd.readouterr().out


def test_worker_that_is_started_again_takes_part_again(tff_worker, capfd):
    with serving_worker() as (_, address):
        context = runtime._context(address)
    (remote,) = context._remotes
    known = tff.backends.native.desugar_and_transform_to_native(remotes.known_answer())
    with pytest.raises(ConnectionError, match=f"{address} does not answer"):
        remote.invoke(known, [1, 2])
    remote.lost = True
    with pytest.raises(UsageError, match="no worker is left"):
        context._at_hand()
    with serving_worker(int(address.split(":")[1])):
        assert context._at_hand() == [remote]
    assert f"the worker {address} answers again" in capfd.readouterr().out


@pytest.mark.parametrize(
    "addresses",
    [
        "localhost",
        "localhost:",
        ":1",
        "localhost:0",
        "localhost:65536",
        "a:1,",
        "http://a:1",
        "a b:1",
    ],
)
def test_malformed_addresses_are_told(addresses):
    with pytest.raises(UsageError, match="no address of a worker: expected host:port,host:port"):
        runtime.use_workers(addresses)


def test_addresses():
    assert remotes.parse(" a.b-c:1, [::1]:65535 ") == ["a.b-c:1", "[::1]:65535"]
    with pytest.raises(UsageError, match="a:1 is named twice"):
        remotes.parse("a:1,b:2,a:1")


def test_worker_that_refuses_is_told_before_anything_is_trained(tff_worker, spread, tmp_path):
    address = f"127.0.0.1:{portpicker.pick_unused_port()}"
    spread([])
    command = ["run", "--dataset", "synthetic", "--clients", "2", "--workers", address]
    refused = CliRunner().invoke(cli.main, [*command, "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert f"Error: no worker answers at {address}: start it there with " in refused.output
    assert not list(tmp_path.rglob("records.csv"))


def test_something_else_that_listens_is_no_worker(tff_worker, monkeypatch):
    monkeypatch.setattr(remotes, "_ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no worker answers at {address}"):
            runtime._context(address)


def test_worker_that_computes_something_else_is_told(two, monkeypatch, capfd):
    """As one of another version would: what it is asked is not what it answers."""
    context, addresses = two
    local, remote = context._local, context._remotes[0]
    answer = local.invoke(remotes.known_answer(), [1, 2])
    monkeypatch.setattr(remote, "invoke", lambda *_: answer * 2)
    with pytest.raises(UsageError, match=f"{addresses[0]} cannot compute what this machine can"):
        remotes.examine(remote, local)
    monkeypatch.setattr(remote, "invoke", lambda *_: answer * (1 + 1e-6))
    remotes.examine(remote, local)
    assert f"the worker {addresses[0]} rounds differently" in capfd.readouterr().out


def test_a_defect_of_the_computation_is_no_loss_of_a_worker(two):
    state_type, data_type = (
        tff.FederatedType(np.float32, tff.SERVER),
        tff.FederatedType(np.float32, tff.CLIENTS),
    )

    @tff.tensorflow.computation(np.float32, np.float32)
    def fails(x, state):
        with tf.control_dependencies([tf.debugging.assert_less(x, state)]):
            return tf.identity(x)

    @tff.federated_computation(state_type, data_type)
    def a_round(state, clients):
        checked = tff.federated_map(fails, (clients, tff.federated_broadcast(state)))
        return state, tff.federated_sum(checked)

    context, _ = two
    tff.framework.set_default_context(context)
    try:
        assert a_round(3.0, [1.0, 2.0]) == (3.0, 3.0)
        with pytest.raises(Exception, match="assert") as caught:
            a_round(3.0, [1.0, 4.0])
        assert not isinstance(caught.value, UsageError)
        assert not any(remote.lost for remote in context._remotes)
    finally:
        runtime.start()


class Stub:
    """Looks like a worker; `answer` gets the task."""

    busy = lost = False
    since = 0.0

    def __init__(self, address, answer):
        self.address, self._answer = address, answer

    def invoke(self, work, task):
        return self._answer(task)


@pytest.mark.parametrize("error", [ValueError, ConnectionError])
def test_what_comes_too_late_ends_nothing(monkeypatch, error):
    monkeypatch.setattr(workers, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(workers, "_PATIENCE", 0)
    others_did_it, over, asked = threading.Event(), threading.Event(), []

    def late(task):
        others_did_it.wait(10)
        raise error("too late")

    def quick(task):
        asked.append(task)
        if task == 2:  # by now it has done what the late one was asked
            others_did_it.set()
            time.sleep(1)
        return task

    def stuck(task):
        over.wait(10)

    stubs = [Stub("late", late), Stub("quick", quick), Stub("stuck", stuck)]
    assert dict(workers._answers(stubs, None, [0, 1, 2])) == {0: 0, 1: 1, 2: 2}
    over.set()
    assert asked == [1, 0, 2]


@pytest.mark.parametrize("dies", [True, False])
def test_worker_stuck_in_an_earlier_round_is_given_up(monkeypatch, capfd, dies):
    """Its task was done by another one; if that dies, nobody is left."""
    monkeypatch.setattr(workers, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(workers, "_PATIENCE", 0)
    over, rounds = threading.Event(), []

    def quick(task):
        rounds.append(task)
        if len(rounds) > 2:
            if dies:
                raise ConnectionError("gone")
            time.sleep(2)
        return task

    stubs = [Stub("stuck", lambda task: over.wait(30)), Stub("quick", quick)]
    assert dict(workers._answers(stubs, None, [0, 1])) == {0: 0, 1: 1}
    assert stubs[0].busy and not stubs[0].lost
    stubs[0].since -= workers._GIVE_UP_SECONDS
    try:
        if dies:
            with pytest.raises(UsageError, match="no worker is left of stuck, quick"):
                dict(workers._answers(stubs, None, [0]))
        else:
            assert dict(workers._answers(stubs, None, [0])) == {0: 0}
        assert stubs[0].lost and "the worker stuck did not answer" in capfd.readouterr().out
    finally:
        over.set()


def test_worker_is_reached_at_loopback_alone(two):
    """And TFF's process, which would listen everywhere, is in a network of its own."""
    port = int(two[1][0].split(":")[1])
    seen = [c.laddr for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port]
    assert {address.ip for address in seen} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name
)
def test_worker_ends_with_its_command(number, no_process_left):
    with serving_worker() as (process, address):
        (binary,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        assert process.wait(30) != 0
        assert psutil.wait_procs([binary], timeout=10)[1] == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address.split(":")[1])))


def test_command_ends_with_its_worker():
    with serving_worker() as (process, _):
        (binary,) = psutil.Process(process.pid).children()
        binary.kill()
        assert process.wait(30) == 1


def test_port_that_is_taken_and_address_that_is_not_here():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=r"Address already in use.*a free port"):
            serving.serve(port)
    with pytest.raises(UsageError, match="choose an address of this machine"):
        serving.serve(1, "192.0.2.1")
    for port in (-1, 0, 65536):
        with pytest.raises(UsageError, match="from 1 to 65535"):
            serving.serve(port)


def test_kernel_that_grants_no_network_of_its_own(monkeypatch):
    class Refusing:
        def __init__(self, *_, **__):
            pass

        def unshare(self, _):
            return -1

    monkeypatch.setattr(serving.ctypes, "CDLL", Refusing)
    with pytest.raises(UsageError, match=r"allow user namespaces, or say --host 0\.0\.0\.0"):
        serving.serve(portpicker.pick_unused_port())
