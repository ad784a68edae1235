"""The ledger: bits that cross a placement in a TFF computation.

Whatever travels between server and clients is an argument of an intrinsic such as
`federated_broadcast` or `federated_sum`, and the intermediate representation of a computation
names the type of each. Values of fixed size are counted from their types, before anything runs.
Payload strings have no static size: their measured lengths are added by who measured them.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import math

import numpy as np
import tensorflow_federated as tff


class Direction(enum.Enum):
    """Which way a value crosses; the study's words for it."""

    BROADCAST = "broadcast"  # server to clients
    AGGREGATED = "aggregated"  # clients to server


class Content(enum.Enum):
    """What a value carries."""

    MODEL = "model"  # weights, updates, or their coded form
    METRICS = "metrics"  # the training metrics that clients report
    OTHER = "other"  # scalars that algorithms need: example weights, learning rates, norms


# For each intrinsic that moves values between placements, the direction and which elements of
# its argument travel (None: the argument itself).
_CROSSINGS = {
    "federated_broadcast": (Direction.BROADCAST, None),
    "federated_aggregate": (Direction.AGGREGATED, (0,)),
    "federated_collect": (Direction.AGGREGATED, None),
    "federated_max": (Direction.AGGREGATED, None),
    "federated_mean": (Direction.AGGREGATED, None),
    "federated_min": (Direction.AGGREGATED, None),
    "federated_secure_modular_sum": (Direction.AGGREGATED, (0,)),
    "federated_secure_sum": (Direction.AGGREGATED, (0,)),
    "federated_secure_sum_bitwidth": (Direction.AGGREGATED, (0,)),
    "federated_sum": (Direction.AGGREGATED, None),
    "federated_weighted_mean": (Direction.AGGREGATED, (0, 1)),
}
# Intrinsics that stay where they are. Any other one is refused rather than overlooked; for
# `federated_select`, for example, no type tells what clients will ask for.
_LOCAL = (
    "federated_apply",
    "federated_eval_at_clients",
    "federated_eval_at_server",
    "federated_map",
    "federated_map_all_equal",
    "federated_value_at_clients",
    "federated_value_at_server",
    "federated_zip_at_clients",
    "federated_zip_at_server",
)


@dataclasses.dataclass(frozen=True)
class Crossing:
    """One value that crosses a placement, once per client and round.

    Attributes:
        direction: Which way.
        content: What it carries.
        intrinsic: Name of the TFF intrinsic that moves it.
        type: Its TFF type, without placement.
        bits: Its size in bits for one client, payload strings not counted.
        strings: How many payload strings of varying length it holds.
    """

    direction: Direction
    content: Content
    intrinsic: str
    type: tff.types.Type
    bits: int
    strings: int


@dataclasses.dataclass(frozen=True)
class Ledger:
    """All crossings of one call of a computation."""

    crossings: tuple[Crossing, ...]

    def bits(self, direction: Direction, content: Content | None = None) -> int:
        """Returns the static bits one client sends or gets, in all or of one content."""
        return sum(
            c.bits
            for c in self.crossings
            if c.direction is direction and content in (None, c.content)
        )

    def measured_strings(self, direction: Direction) -> int:
        """Returns how many strings a client sends or gets whose lengths must be measured."""
        return sum(c.strings for c in self.crossings if c.direction is direction)


def of(computation: tff.Computation) -> Ledger:
    """Returns the ledger of a computation, from its intermediate representation.

    Args:
        computation: Any federated computation, for example `learning_process.next`.

    Returns:
        Its crossings in the order of evaluation.

    Raises:
        NotImplementedError: If types do not tell what it communicates: it selects values by
            key (`federated_select`), or moves values of unknown shape other than strings.
    """
    metric_names = _metric_names(computation)
    crossings = []

    def visit(block):
        called = getattr(block, "function", None)  # only calls have one
        uri = getattr(called, "uri", None)  # only intrinsics have one
        if uri in _CROSSINGS:
            direction, elements = _CROSSINGS[uri]
            argument = block.argument.type_signature
            for moved in [argument] if elements is None else [argument[i] for i in elements]:
                member = moved.member if isinstance(moved, tff.FederatedType) else moved
                content = _content(member, direction, metric_names)
                bits, strings = _size(member)
                crossings.append(Crossing(direction, content, uri, member, bits, strings))
        elif (uri or "").startswith("federated_") and uri not in _LOCAL:
            raise NotImplementedError(f"what {uri} communicates cannot be told from its types")
        return block, False

    tff.framework.transform_postorder(computation.to_building_block(), visit)
    return Ledger(tuple(crossings))


def _metric_names(computation: tff.Computation) -> list[str]:
    """Names of the training metrics in the result of a learning process's `next`, if it is one."""
    result = computation.type_signature.result
    try:
        return tff.structure.name_list(result.metrics.member["client_work"]["train"])
    except (AttributeError, KeyError, TypeError):
        return []


def _names(member: tff.types.Type) -> list[str]:
    return tff.structure.name_list(member) if isinstance(member, tff.StructType) else []


def _content(member: tff.types.Type, direction: Direction, metric_names: list[str]) -> Content:
    if direction is Direction.AGGREGATED and metric_names and _names(member) == metric_names:
        return Content.METRICS
    if any(_is_string(leaf) or leaf.shape for leaf in _leaves(member)):
        return Content.MODEL
    return Content.OTHER


def _leaves(member: tff.types.Type) -> list[tff.TensorType]:
    leaves = tff.structure.flatten(member) if isinstance(member, tff.StructType) else [member]
    for leaf in leaves:
        if not isinstance(leaf, tff.TensorType) or not tff.types.is_shape_fully_defined(leaf.shape):
            raise NotImplementedError(f"a value of the type {leaf} has no static size in bits")
    return leaves


def _is_string(leaf: tff.TensorType) -> bool:
    return leaf.dtype is np.str_ or np.dtype(leaf.dtype).kind in "SU"


def _size(member: tff.types.Type) -> tuple[int, int]:
    bits = strings = 0
    for leaf in _leaves(member):
        count = math.prod(leaf.shape)
        if _is_string(leaf):
            strings += count
        else:
            bits += count * 8 * np.dtype(leaf.dtype).itemsize
    return bits, strings


def summary(ledger: Ledger) -> collections.OrderedDict[str, int]:
    """Returns the ledger's static bits of one client by `direction/content`, nonzero ones only."""
    rows = collections.OrderedDict()
    for direction in Direction:
        for content in Content:
            if bits := ledger.bits(direction, content):
                rows[f"{direction.value}/{content.value}"] = bits
    return rows
