"""The contract: a codec turns a float32 vector into one byte string, and back.

A codec is a chain: any number of stages, then one coder.

    float32[n] ── stage ── stage ── … ── coder ──▶ uint8[?] ──▶ payload (one scalar string)

A stage maps a vector to a vector (a rotation, a scaling, a quantizer, a sparsifier) and may
hand a few float32 numbers to its decoder (*side information*, a fixed count). The coder turns
the last vector into bytes without loss. All of it is pure TensorFlow: no state, nothing from
the clock, no operation outside stock TensorFlow, so that it runs wherever TensorFlow runs.

The payload, whose length in bytes times eight is the client's bill:

    [check, 4 bytes] [seed, 4 bytes, if decoding needs it] [side information, 4 bytes each] [body]

The check is a 32-bit fingerprint of everything behind it, of the codec (its ``repr``), of n
and of the parameters. A damaged payload, another codec's, or one made with other parameters
is told from a good one, except with probability 2^-32 (it is no defence against forgers).
"""

import dataclasses
import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from fedutils.codecs.entropy.nonzeros import NonzeroCoder, Nonzeros, spread
from fedutils.errors import UsageError

Params = Mapping[str, tf.Tensor]
"""What server and clients share in this round: name -> float32 scalar, or vector (a context)."""

Layout = Sequence[tuple[int, ...]]
"""The shapes of a model's variables."""

Length = int | tf.Tensor
"""A vector's length: a Python int where it is known, else a scalar int32 tensor."""


class Encoded(NamedTuple):
    """What a stage makes of its input.

    values: the vector for the next stage, of `Stage.emits` dtype (or its `Nonzeros`).
    side: `Stage.side_size()` float32 scalars (or one float32 vector) for the decoder.
    ok: False if the input cannot be encoded; the client then sends an empty string.
    """

    values: tf.Tensor | Nonzeros
    side: Sequence[tf.Tensor] | tf.Tensor = ()
    ok: tf.Tensor | bool = True


class Decoded(NamedTuple):
    """A decoded vector, and whether it is to be trusted."""

    values: tf.Tensor
    ok: tf.Tensor | bool = True


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a chain; subclasses are frozen dataclasses that override what differs.

    takes, emits: dtypes of the vectors before and after.
    unbiased: over the seeds, the decoded vector's expectation is the input.
    lossless: the decoded vector is the input, bit for bit.
    needs_seed: the decoder must know the seed, so the payload carries it.
    limits: the least and the greatest value that a field may have, by name.
    elementwise: `decode` makes an element of an element, wherever it is, so that equal ones need
      be decoded once.

    One that makes most elements 0 may have a method `encode_nonzeros` beside `encode`, whose
    `Encoded` has `Nonzeros` for values.
    """

    takes: ClassVar[tf.DType] = tf.float32
    emits: ClassVar[tf.DType] = tf.float32
    unbiased: ClassVar[bool] = True
    lossless: ClassVar[bool] = False
    needs_seed: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}

    def __post_init__(self):
        """Raises UsageError if a field is beyond its `limits`."""
        for name, (least, greatest) in self.limits.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise UsageError(
                    f"{name} of {type(self).__name__} must be from {least:g} to {greatest:g}, "
                    f"not {value!r}"
                )

    def side_size(self) -> int:
        """How many float32 numbers `encode` hands to `decode`."""
        return 0

    def default_params(self) -> dict[str, float | np.ndarray]:
        """The round parameters this stage reads, with the values to start from."""
        return {}

    def length(self, n: Length) -> Length:
        """The length of the vector made from one of length n; an int if n is an int."""
        return n

    def encode(self, x: tf.Tensor, params: Params, seed: tf.Tensor) -> Encoded:
        """x: `takes`[n], all finite if float; seed: int32[2], this stage's own."""
        raise NotImplementedError(f"{type(self).__name__} does not define encode.")

    def decode(
        self, y: tf.Tensor, side: tf.Tensor, params: Params, seed: tf.Tensor, n: Length
    ) -> Decoded:
        """y: `emits`[length(n)], side: float32[side_size()]; gives `takes`[n].

        Whatever y and side hold, it must neither raise nor allocate more than order n. The
        seed is that of `encode` if `needs_seed`, and meaningless otherwise.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define decode.")


class Coder(Protocol):
    """The lossless end of a chain; a frozen dataclass with these three methods.

    It takes int32 symbols, unless it has an attribute `takes = tf.float32`. One whose model the
    server and the clients share has a method `for_round(params)`, which gives the coder to use,
    and `default_params`, like a stage. One that sees but the nonzeros is a `NonzeroCoder`: between
    it and stages that go along, no vector is made.
    """

    def encode(self, values: tf.Tensor) -> tf.Tensor:
        """values: int32[m]; gives uint8[?]."""

    def decode(self, data: tf.Tensor, m: Length) -> tuple[tf.Tensor, tf.Tensor | bool]:
        """data: uint8[?]; gives int32[m] and whether data was what `encode` can make.

        Whatever data holds, it must neither raise nor loop or allocate more than order m.
        """

    def bound_bits(self, m: int) -> float:
        """No m values whatever take more bits than this (math.inf if there is no bound)."""


@dataclasses.dataclass(frozen=True)
class Codec:
    """A chain of stages and its coder; build it with `chain`.

    Its ``repr`` is its identity: two codecs that print alike read each other's payloads.
    """

    stages: tuple[Stage, ...]
    coder: Coder

    def __post_init__(self):
        dtype = tf.float32
        for part in (*self.stages, self.coder):
            takes = getattr(part, "takes", tf.int32)
            if takes != dtype:
                raise TypeError(f"{part} takes {takes.name} but would be given {dtype.name}.")
            dtype = getattr(part, "emits", None)
        if " at 0x" in repr(self):
            raise ValueError(f"{self!r} has no lasting identity: use dataclasses, not functions.")
        for part in (*self.stages, self.coder):
            if arrays := [name for name, it in vars(part).items() if isinstance(it, np.ndarray)]:
                raise ValueError(
                    f"{type(part).__name__} has arrays ({', '.join(arrays)}), which do not print "
                    "in full and so have no lasting identity: use tuples."
                )
        names = [name for stage in self.stages for name in stage.default_params()]
        if len(names) != len(set(names)):
            raise ValueError(f"Two stages share a parameter's name: {names}.")

    @property
    def unbiased(self) -> bool:
        """Whether every stage is, so that a mean over clients forgives their errors."""
        return all(stage.unbiased for stage in self.stages)

    @property
    def lossless(self) -> bool:
        """Whether every stage is: decoding gives the input bit for bit."""
        return all(stage.lossless for stage in self.stages)

    @property
    def needs_seed(self) -> bool:
        """Whether the payload carries the seed (4 bytes)."""
        return any(stage.needs_seed for stage in self.stages)

    @property
    def header_bytes(self) -> int:
        """Bytes before the body: check, seed if needed, side information."""
        return 4 + 4 * self.needs_seed + 4 * sum(stage.side_size() for stage in self.stages)

    def default_params(self) -> OrderedDict[str, float | np.ndarray]:
        """The round parameters with the values to start from, by name."""
        found = {k: v for stage in self.stages for k, v in stage.default_params().items()}
        if hasattr(self.coder, "default_params"):
            found.update(self.coder.default_params())
        return OrderedDict(sorted(found.items()))

    def coder_for(self, params: Params) -> Coder:
        """The coder of a round with these parameters."""
        return self.coder.for_round(params) if hasattr(self.coder, "for_round") else self.coder

    def bound_bits(self, n: int) -> float:
        """No vector of length n takes more bits than this."""
        return 8 * self.header_bytes + self.coder.bound_bits(self._lengths(n)[-1])

    def encode(self, x: tf.Tensor, params: Params, seed: tf.Tensor) -> tf.Tensor:
        """The payload of x.

        Args:
          x: float32[n].
          params: name -> float32 scalar or vector, at least those of `default_params`.
          seed: int32[2]; equal seeds give equal payloads.

        Returns:
          A scalar string; empty (which every decoder rejects) if x is not finite or if a
          stage cannot represent it.
        """
        x = tf.ensure_shape(tf.convert_to_tensor(x, tf.float32), [None])
        word = tf.random.stateless_uniform([], seed, None, None, tf.int32, alg="philox")

        def encode_finite():
            y, side, ok = x, [], tf.constant(True)
            coder = self.coder_for(params)
            for i, stage in enumerate(self.stages):
                encode = stage.encode
                if stage is self.stages[-1] and isinstance(coder, NonzeroCoder):
                    encode = getattr(stage, "encode_nonzeros", encode)
                encoded = encode(y, params, tf.stack([word, i]))
                y = encoded.values
                side.append(tf.reshape(tf.cast(encoded.side, tf.float32), [stage.side_size()]))
                ok = ok & encoded.ok & tf.reduce_all(tf.math.is_finite(side[-1]))
            if isinstance(y, Nonzeros):
                m = tf.cast(self._lengths(length_of(x))[-1], tf.int64)
                body = coder.encode_nonzeros(y, m)
            else:
                body = coder.encode(y)
            fields = [to_bytes(word)] * self.needs_seed + [to_bytes(s) for s in side]
            rest = to_string(tf.concat([*fields, body], axis=0))
            return tf.where(ok, self.frame(rest, params, tf.size(x)), "")

        return tf.cond(is_finite(x), encode_finite, lambda: tf.constant(""))

    def decode(self, payload: tf.Tensor, params: Params, n: Length) -> Decoded:
        """The vector in a payload.

        Args:
          payload: a scalar string, whatever it holds.
          params: those the payload was made with.
          n: the vector's length.

        Returns:
          `Decoded`: float32[n] and a bool scalar. Where ok is False, the values are zeros.
        """
        n = as_length(n)
        length = tf.strings.length(payload)
        rest = tf.strings.substr(payload, tf.minimum(length, 4), length)
        genuine = (length >= self.header_bytes) & tf.equal(payload, self.frame(rest, params, n))

        def zeros():
            return tf.zeros(tf.reshape(n, [1]))

        def decode_genuine():
            values, ok = self._decode_rest(tf.io.decode_raw(rest, tf.uint8), params, n)
            return tf.cond(ok, lambda: values, zeros), ok

        values, ok = tf.cond(genuine, decode_genuine, lambda: (zeros(), tf.constant(False)))
        return Decoded(tf.ensure_shape(values, [None if tf.is_tensor(n) else n]), ok)

    def _decode_rest(self, data: tf.Tensor, params: Params, n: Length) -> Decoded:
        """Undoes the coder, then the stages from last to first; ok only if all of it is finite."""
        word = tf.constant(0)
        if self.needs_seed:
            word, data = from_bytes(data[:4], tf.int32)[0], data[4:]
        sides = []
        for stage in self.stages:
            size = 4 * stage.side_size()
            sides.append(from_bytes(data[:size], tf.float32))
            data = data[size:]
        lengths = self._lengths(n)
        coder, where = self.coder_for(params), None
        if isinstance(coder, NonzeroCoder):
            where, y, ok = coder.decode_nonzeros(data, lengths[-1])
        else:
            y, ok = coder.decode(data, lengths[-1])
        for i, stage in reversed(list(enumerate(self.stages))):
            if where is not None and not stage.elementwise:
                y, where = spread(where, y, lengths[i + 1]), None
            y, stage_ok = stage.decode(y, sides[i], params, tf.stack([word, i]), lengths[i])
            ok = ok & stage_ok
        ok = ok & is_finite(y)
        return Decoded(y if where is None else spread(where, y, n), ok)

    def _lengths(self, n: Length) -> list[Length]:
        """The vector's length before each stage, and before the coder."""
        return list(itertools.accumulate(self.stages, lambda m, stage: stage.length(m), initial=n))

    def frame(self, rest: tf.Tensor, params: Params, n: Length) -> tf.Tensor:
        """The payload with this rest: four bytes of check, then the rest (a scalar string)."""
        shared = [tf.cast(params[name], tf.float32) for name in sorted(params)]
        context = tf.concat([to_bytes(n), *map(to_bytes, shared)], axis=0)
        everything = tf.strings.join([repr(self), to_string(context), rest])
        check = tf.fingerprint(tf.reshape(everything, [1]))[0, :4]
        return tf.strings.join([to_string(check), rest])


def chain(*parts: Any) -> Codec:
    """A codec of stages and, as the last part, a coder or a codec (whose stages follow).

    Raises:
      TypeError: if a part takes another dtype than the part before it emits.
      ValueError: if two stages share the name of a parameter.
    """
    *stages, last = parts
    if isinstance(last, Codec):
        return Codec((*stages, *last.stages), last.coder)
    return Codec(tuple(stages), last)


def tensors(params: Mapping[str, float | np.ndarray]) -> OrderedDict[str, tf.Tensor]:
    """Parameters as the float32 tensors that `Codec.encode` and `decode` take."""
    return OrderedDict((k, tf.constant(v, tf.float32)) for k, v in sorted(params.items()))


def as_length(n: Length) -> Length:
    """n as a Python int if it is known while tracing, else as an int32 scalar."""
    known = tf.get_static_value(n) if tf.is_tensor(n) else n
    return tf.cast(n, tf.int32) if known is None else int(known)


def length_of(x: tf.Tensor) -> Length:
    """The length of a vector, as an int if it is known while tracing."""
    known = x.shape.num_elements()
    return tf.size(x) if known is None else known


def is_finite(x: tf.Tensor) -> tf.Tensor:
    """Whether no element of x, float32[n], is infinite or NaN."""
    # The sum of squares is one pass without a temporary vector, and rarely overflows.
    quick = tf.math.is_finite(tf.nn.l2_loss(x))
    return tf.cond(quick, lambda: tf.constant(True), lambda: tf.reduce_all(tf.math.is_finite(x)))


def to_bytes(x: Any) -> tf.Tensor:
    """int32 or float32 [...] -> uint8[4 * size], little endian."""
    return tf.reshape(tf.bitcast(x, tf.uint8), [-1])


def from_bytes(data: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """uint8[4 * m] -> dtype[m] for a dtype of 32 bits; the inverse of `to_bytes`."""
    return tf.bitcast(tf.reshape(data, [-1, 4]), dtype)


def to_string(data: tf.Tensor) -> tf.Tensor:
    """uint8[m] -> scalar string of m bytes; `tf.io.decode_raw` is its inverse.

    A serialized uint8 tensor ends with its content, which is far quicker to cut off than
    joining a million one-byte strings.
    """
    serialized = tf.io.serialize_tensor(data)
    size = tf.size(data)
    return tf.strings.substr(serialized, tf.strings.length(serialized) - size, size)


def total(shapes: Sequence[Sequence[int]]) -> int:
    """How many numbers variables of these shapes hold together."""
    return sum(map(math.prod, shapes))
