"""What the bytes of one client's string say.

A string (`wire`) does not say which codec made it, nor for which model; given both, everything in
it can be told: what stands before the codec's payload, the payload's header stage by stage, and,
where the coder can tell, how many bits of the body went into what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from fedutils import models, recipes
from fedutils.codecs import base
from fedutils.codecs.base import Layout, Params
from fedutils.controllers import needs_reports
from fedutils.errors import UsageError
from fedutils.wire import Wire

_SHOWN = 4  # Numbers of side information that are written out.


@dataclasses.dataclass(frozen=True)
class Part:
    """Some bits of a string.

    Attributes:
        name: What they are.
        bits: How many.
        says: What they say, if that is short.
    """

    name: str
    bits: int
    says: str = ""


@dataclasses.dataclass(frozen=True)
class Dissection:
    """A string taken apart.

    Attributes:
        bits: Its length.
        parameters: Of the model.
        fits: Whether its check does.
        counts: Whether the server would count the client.
        symbols: What the coder coded: how many, and how many of them are not zero; None if the
            check does not fit.
        nonzeros: Of the decoded update.
        parts: In the order of the string; their bits add up to its length.
    """

    bits: int
    parameters: int
    fits: bool
    counts: bool
    symbols: tuple[int, int] | None
    nonzeros: int
    parts: tuple[Part, ...]


def layout_of(model: str, classes: int) -> list[tuple[int, ...]]:
    """Returns the shapes of a model's variables.

    Args:
        model: Name of the model.
        classes: Number of labels.

    Raises:
        UsageError: If there is no such model.
    """
    return [tuple(v.shape) for v in models.get(model)(classes, 0).trainable_variables]


def wire_of(recipe: str, layout: Layout) -> Wire:
    """Returns what makes and reads the strings of a recipe's clients.

    Raises:
        UsageError: If there is no such recipe, or its clients send no string.
    """
    factory = recipes.get(recipe).aggregator(0)
    compression = getattr(factory, "compression", None)
    if compression is None:
        raise UsageError(
            f"clients of the recipe {recipe!r} send numbers, not a string: choose one with a codec"
        )
    codec, controller = compression.for_layout(list(layout))
    return Wire(codec, base.total(layout), weighted=True, reports=needs_reports(controller))


def encode(update: np.ndarray, wire: Wire, weight: float = 1.0, seed: int = 0) -> bytes:
    """Returns the string that a client would send in the first round.

    Args:
        update: float32[parameters].
        wire: See `wire_of`.
        weight: The client's; its number of examples.
        seed: Of the round's randomness.
    """
    announced = wire.announce(base.tensors(wire.codec.default_params()), tf.constant(seed))
    value, number = tf.constant(update, tf.float32), tf.constant(weight, tf.float32)
    return _graph(wire.encode)(announced, value, number).numpy()


def of(string: bytes, wire: Wire, params: Params | None = None) -> Dissection:
    """Takes a client's string apart.

    Args:
        string: Whatever it holds.
        wire: What reads it; see `wire_of`.
        params: The round's parameters, for codecs with vectors among them, whose strings do not
            repeat them; those of the first round, if not given.

    Returns:
        What it says; not more than its length and what stands where, if its check does not fit.
    """
    params = base.tensors(wire.codec.default_params()) if params is None else params
    whole = tf.constant(string)
    read = _graph(lambda string: (wire.decode(string, params), wire.sealed(string, params)))
    received, sealed = read(whole)
    fits = len(string) > 0 and sealed.numpy() == string
    parts, body, seen = _head(string, wire, params)
    symbols = None
    if fits:
        found, symbols = _body(body, wire, seen)
        parts += found
    elif body:
        parts.append(Part("body", 8 * len(body)))
    nonzeros = int(tf.math.count_nonzero(received.value))
    return Dissection(
        8 * len(string), wire.n, fits, bool(received.ok), symbols, nonzeros, tuple(parts)
    )


def _head(string: bytes, wire: Wire, params: Params) -> tuple[list[Part], bytes, dict]:
    """What stands before the body, the body, and the parameters that the string was made with."""
    codec = wire.codec
    fields = [(name, 1, np.float32) for name in wire.numbers]
    fields += [("check", 1, np.uint32)] + [("seed", 1, np.int32)] * codec.needs_seed
    fields += [
        (f"side information of {type(stage).__name__}", stage.side_size(), np.float32)
        for stage in codec.stages
        if stage.side_size()
    ]
    parts, seen, start = [], dict(params), 0
    for name, size, dtype in fields:
        data = string[start : start + 4 * size]
        start += len(data)
        numbers = np.frombuffer(data[: len(data) // 4 * 4], dtype)
        parts.append(Part(name, 8 * len(data), _written(name, numbers)))
        if name.startswith("parameter ") and numbers.size:
            seen[name.removeprefix("parameter ")] = tf.constant(numbers[0])
    return [part for part in parts if part.bits], string[start:], seen


def _written(name: str, numbers: np.ndarray) -> str:
    if name == "check":
        return " ".join(f"{number:08x}" for number in numbers)
    more = ["…"] if numbers.size > _SHOWN else []
    return " ".join([*(f"{number}" for number in numbers[:_SHOWN]), *more])


def _body(body: bytes, wire: Wire, params: Params) -> tuple[list[Part], tuple[int, int]]:
    """The parts of a good body, and how many symbols there are and are not zero."""
    length = wire.n
    for stage in wire.codec.stages:
        length = stage.length(length)
    coder = wire.codec.coder_for(params)
    data = tf.io.decode_raw(tf.constant(body), tf.uint8)

    def read(data):
        symbols, _ = coder.decode(data, length)
        fields = coder.fields(symbols) if hasattr(coder, "fields") else {}
        return symbols, {name: tf.reduce_sum(lengths) for name, (_, lengths) in fields.items()}

    symbols, sizes = _graph(read)(data)
    parts = [Part(f"body: {name}", int(bits)) for name, bits in sizes.items() if bits]
    rest = 8 * len(body) - sum(part.bits for part in parts)
    if rest:
        parts.append(Part("body: fill of the last byte" if parts else "body", rest))
    return parts, (int(tf.size(symbols)), int(tf.math.count_nonzero(symbols)))


def _graph(function: Callable) -> Callable:
    """The function as a graph: op by op, entropy coders' loops would take minutes."""
    return tf.function(function, autograph=False)


def text(found: Dissection) -> str:
    """Writes what a string says, a line for each part."""
    lines = [
        f"{found.bits // 8:,} bytes, {found.bits:,} bits: "
        f"{found.bits / found.parameters:.3g} bits for each of {found.parameters:,} parameters"
    ]
    if not found.fits:
        lines += [
            "check: does not fit, so the server would not count this client: the string is",
            "  damaged, or another codec's, for another model, or of a round with other parameters",
        ]
    else:
        counted = "counts" if found.counts else "does not count, as what decodes cannot be summed"
        symbols, live = found.symbols
        lines += [
            f"check: fits; the client {counted}",
            f"coded: {symbols:,} numbers, {live:,} of them not zero",
            f"decoded: {found.nonzeros:,} of the update's {found.parameters:,} numbers not zero",
        ]
    lines += ["", f"{'':<40}{'bits':>12}{'share':>8}  says"]
    for part in found.parts:
        share = part.bits / max(found.bits, 1)
        lines.append(f"{part.name:<40}{part.bits:>12,}{share:>8.1%}  {part.says}".rstrip())
    return "\n".join(lines)
