"""A round of federated learning spread over TFF workers on other machines.

TFF's map-reduce form takes a round apart: what the server prepares, what a client makes of that and
of its data, how the server adds that up, what it concludes. The clients' part goes to the workers,
some clients at a time; the server's stays here.

    here     state ─ prepare ─▶ broadcast ─┐              ┌─▶ fold ─ update ─▶ state, metrics
    sockets                                ▼              │ payload strings, metrics
    workers                  clients' data ─ work, each client alone

So what crosses the sockets is what crosses between server and clients in the computation, and the
server adds up what single clients sent, in the order of the clients, as one machine does: a run has
the same numbers bit for bit, whatever the number of workers and whichever of them fail. (TFF's own
`MergeableCompExecutionContext` sends the server's state to the workers too, and adds up parts in
the order in which they come, which changes the rounding of sums from run to run.)
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Iterator, Sequence

import tensorflow as tf
import tensorflow_federated as tff

from fedutils.errors import UsageError
from fedutils.remotes import Remote, examine

_CLIENTS_AT_ONCE = 32  # of a worker; what they send must fit into one message
_PATIENCE_SECONDS = 60.0  # at least, and this many times the slowest of the round so far:
_PATIENCE = 4
_GIVE_UP_SECONDS = 1800.0


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A round, taken apart.

    Attributes:
        prepare: state@SERVER -> broadcast@SERVER.
        work: (data@CLIENTS, broadcast@SERVER) -> what clients send, @CLIENTS; compiled.
        zero: () -> the total of no clients.
        fold: (total, what clients send @CLIENTS) -> total@SERVER.
        conclude: (state@SERVER, total@SERVER) -> what the round returns.
    """

    prepare: tff.Computation
    work: object
    zero: tff.Computation
    fold: tff.Computation
    conclude: tff.Computation


@functools.cache
def _taken_apart(comp: tff.Computation) -> _Parts:
    as_it_is = tf.compat.v1.ConfigProto()
    as_it_is.graph_options.rewrite_options.disable_meta_optimizer = True
    form = tff.backends.mapreduce.get_map_reduce_form_for_computation(comp, as_it_is)
    state_type, data_type = comp.type_signature.parameter
    names = [name for name, _ in tff.structure.iter_elements(comp.type_signature.result)]
    total_type = form.zero.type_signature.result
    broadcast_type = form.prepare.type_signature.result
    # The form has places for three kinds of secure sums, which nothing here uses.
    sent_type, *secure = form.work.type_signature.result
    if any(len(each) for each in secure):
        raise NotImplementedError("secure sums cannot be spread over workers")

    @tff.federated_computation(state_type)
    def prepare(state):
        return tff.federated_map(form.prepare, state)

    @tff.tensorflow.computation(*form.work.type_signature.parameter)
    def send(data, broadcast):
        return form.work(data, broadcast)[0]

    @tff.federated_computation(data_type, tff.FederatedType(broadcast_type, tff.SERVER))
    def work(data, broadcast):
        return tff.federated_map(send, (data, tff.federated_broadcast(broadcast)))

    @tff.federated_computation(total_type, tff.FederatedType(sent_type, tff.CLIENTS))
    def fold(total, sent):
        same = tff.tensorflow.computation(lambda it: it, total_type)
        return tff.federated_aggregate(sent, total, form.accumulate, form.merge, same)

    @tff.tensorflow.computation(state_type.member, total_type)
    def update(state, total):
        return form.update(state, [form.report(total), *([()] * len(secure))])

    @tff.federated_computation(state_type, tff.FederatedType(total_type, tff.SERVER))
    def conclude(state, total):
        made = tff.federated_map(update, (state, total))
        return tff.structure.Struct((name, made[i]) for i, name in enumerate(names))

    # What a computation returns has lost its Python classes on the way: here they are again.
    returned = tff.FunctionType(conclude.type_signature.parameter, comp.type_signature.result)
    return _Parts(
        prepare,
        tff.backends.native.desugar_and_transform_to_native(work),
        form.zero,
        fold,
        tff.framework.ConcreteComputation.with_type(conclude, returned),
    )


def _is_round(comp: tff.Computation) -> bool:
    """Tells whether it is of type (state@SERVER, data@CLIENTS) -> (state@SERVER, …@SERVER)."""
    parameter, result = comp.type_signature.parameter, comp.type_signature.result
    if not all(isinstance(x, tff.StructType) and len(x) == 2 for x in (parameter, result)):
        return False
    placed = [*parameter, *result]
    if not all(isinstance(x, tff.FederatedType) for x in placed):
        return False
    placements = [x.placement for x in placed]
    return (
        placements == [tff.SERVER, tff.CLIENTS, tff.SERVER, tff.SERVER]
        and not parameter[1].all_equal
        and parameter[0].is_assignable_from(result[0])
    )


class SpreadingContext(tff.framework.SyncContext):
    """Spreads rounds of federated learning over workers; computes all else here."""

    def __init__(self, local: tff.framework.SyncContext, addresses: Sequence[str]) -> None:
        """Connects to the workers and asks each for something that is known.

        Args:
            local: Computes what is the server's.
            addresses: `host:port` of each worker.

        Raises:
            UsageError: If one does not answer, or cannot compute what this machine can.
        """
        self._local = local
        self._remotes = [Remote(address) for address in addresses]
        for remote in self._remotes:
            examine(remote, local)

    def invoke(self, comp, arg):
        """Raises UsageError if a round finds that no worker is left."""
        if not _is_round(comp):
            return self._local.invoke(comp, arg)
        parts = _taken_apart(comp)
        state, data = arg
        broadcast = self._local.invoke(parts.prepare, state)
        total = self._local.invoke(parts.zero, None)
        remotes = self._at_hand()
        size = max(1, min(_CLIENTS_AT_ONCE, -(-len(data) // len(remotes))))
        groups = [data[i : i + size] for i in range(0, len(data), size)]
        tasks = [tff.structure.Struct.unnamed(group, broadcast) for group in groups]
        for sent in _in_order(_answers(remotes, parts.work, tasks)):
            total = self._local.invoke(parts.fold, tff.structure.Struct.unnamed(total, sent))
        return self._local.invoke(parts.conclude, tff.structure.Struct.unnamed(state, total))

    def _at_hand(self) -> list[Remote]:
        """Returns the workers that are not lost; those that are back are welcome."""
        for remote in self._remotes:
            if remote.lost and not remote.busy and remote.connect(0.2):
                remote.lost = False
                print(f"the worker {remote.address} answers again", flush=True)
        return [r for r in self._remotes if not r.lost] or _stop(self._remotes)


def _stop(remotes: Sequence[Remote]) -> list[Remote]:
    names = ", ".join(remote.address for remote in remotes)
    raise UsageError(
        f"no worker is left of {names}. Start them again (`fedutils worker`), or leave them out to "
        "compute on this machine alone. What was computed before is kept; the same command resumes."
    )


def _answers(remotes: Sequence[Remote], work, tasks: Sequence) -> Iterator[tuple[int, object]]:
    """Yields (position, answer) of each task as they come, each once.

    A worker that is lost leaves its task to the others. The task of one that is slow is given to
    one that is idle too; all answers are the same, so the first of them counts.
    """
    answers = queue.SimpleQueue()
    waiting = collections.deque(range(len(tasks)))
    begun: dict[Remote, tuple[int, float]] = {}
    done, repeated, longest = set(), set(), 0.0

    def compute(remote: Remote, position: int) -> None:
        try:
            answer = remote.invoke(work, tasks[position])
        except Exception as error:
            answer = error
        remote.busy = False
        answers.put((remote, answer))

    def lose(remote: Remote, why: str) -> None:
        remote.lost = True
        position, _ = begun.get(remote, (None, now))
        if position is not None and position not in done:
            waiting.append(position)
        print(f"the worker {remote.address} {why}: the others take its clients", flush=True)
        if all(each.lost for each in remotes):
            _stop(remotes)

    while len(done) < len(tasks):
        now = time.monotonic()
        patience = max(_PATIENCE_SECONDS, _PATIENCE * longest)
        idle = [r for r in remotes if r not in begun and not r.busy and not r.lost]
        for remote in remotes:
            position, since = begun.get(remote, (None, now))
            if remote.lost or not remote.busy:
                continue
            # Also one that is still busy with what another did for it, in an earlier round even.
            if now - remote.since > _GIVE_UP_SECONDS:
                lose(remote, f"did not answer in {now - remote.since:.0f} s")
            elif position is None or position in done or position in repeated:
                continue
            elif now - since > patience and idle and not waiting:
                repeated.add(position)
                waiting.append(position)
                print(f"the worker {remote.address} is slow: an idle one helps", flush=True)
        while waiting and idle:
            remote, position = idle.pop(0), waiting.popleft()
            remote.busy, remote.since, begun[remote] = True, now, (position, now)
            # A daemon, as one that never answers must not keep the process from ending.
            threading.Thread(target=compute, args=(remote, position), daemon=True).start()
        try:
            remote, answer = answers.get(timeout=1.0)
        except queue.Empty:
            continue
        if isinstance(answer, ConnectionError) and not remote.lost:
            lose(remote, "cannot be reached any more")
        position, since = begun.pop(remote)
        if isinstance(answer, ConnectionError) or position in done:
            continue  # another one was faster
        elif isinstance(answer, Exception):
            raise answer
        else:
            done.add(position)
            longest = max(longest, time.monotonic() - since)
            yield position, answer


def _in_order(answers: Iterator[tuple[int, object]]) -> Iterator[object]:
    """Yields the answers of (position, answer) by position, each as soon as it can be."""
    early = {}
    following = 0
    for position, answer in answers:
        early[position] = answer
        while following in early:
            yield early.pop(following)
            following += 1
