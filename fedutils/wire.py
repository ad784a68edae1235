"""What crosses between the server and a client beside a codec's payload, as bytes.

    server to client   [parameters, 4 bytes each] [seed, 4] [context]
    client to server   [report, 8] [parameters, 4 bytes each] [weight, 4] [codec's payload]

The context, a string, is there if the codec has vectors among its parameters (what the server
learned of the model's lines, say) that clients do not derive themselves (`backward`); vectors hold
small whole numbers, which are entropy-coded. Vectors make a client's string readable for the
server only, so the string then does not repeat the other parameters either. Otherwise it does, and
whoever gets it can decode it. The report, the squared error and squared norm of the client's
value, is there if a controller asks for it.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedutils.codecs import base
from fedutils.codecs.base import Codec, Params
from fedutils.codecs.entropy.ans import Ans
from fedutils.errors import UsageError


class Received(NamedTuple):
    """What the server makes of a client's string; all zero if it does not count.

    value: float32[n], times the weight if there are weights.
    weight: float32; 1 without weights.
    squared_error, squared_norm: float32, of the value, as reported; 0 without reports.
    ok: bool, whether the client counts.
    """

    value: tf.Tensor
    weight: tf.Tensor
    squared_error: tf.Tensor
    squared_norm: tf.Tensor
    ok: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Wire:
    """Strings of the clients that encode values float32[n].

    codec: of the values.
    n: their length.
    weighted: whether a client's weight travels too, and values are multiplied by it.
    reports: whether a client reports its error.
    derived: whether clients derive the vectors among the codec's parameters, and are not told.
    """

    codec: Codec
    n: int
    weighted: bool
    reports: bool = False
    derived: bool = False

    def __post_init__(self):
        """Raises UsageError on parameters that cannot be told to clients."""
        for name, value in self.codec.default_params().items():
            if name in ("seed", "context", "weight"):
                raise UsageError(f"a codec's parameter cannot be called {name!r}: rename it")
            if np.ndim(value) and np.any(np.round(value) != value):
                raise UsageError(
                    f"the codec's parameter {name!r} is a vector, so clients get whole numbers, "
                    "and not all of it is whole: scale it"
                )

    @property
    def vectors(self) -> dict[str, int]:
        """Lengths of the parameters that are vectors, by name."""
        params = self.codec.default_params().items()
        return {name: np.size(value) for name, value in params if np.ndim(value)}

    @property
    def scalars(self) -> list[str]:
        """Names of the others."""
        return [name for name in self.codec.default_params() if name not in self.vectors]

    @property
    def announces(self) -> bool:
        """Whether clients are told vectors."""
        return bool(self.vectors) and not self.derived

    @property
    def numbers(self) -> list[str]:
        """What the numbers before a client's payload are, in their order; 4 bytes each."""
        report = ["reported squared error", "reported squared norm"] if self.reports else []
        repeated = [f"parameter {name}" for name in self._repeated]
        return report + repeated + ["weight"] * self.weighted

    def announce(self, params: Params, seed: tf.Tensor) -> OrderedDict[str, tf.Tensor]:
        """What the server sends to every client of a round."""
        sent = OrderedDict((name, params[name]) for name in self.scalars)
        sent["seed"] = seed
        if self.announces:
            numbers = tf.concat([params[name] for name in self.vectors], 0)
            symbols = tf.cast(tf.round(numbers), tf.int32)
            sent["context"] = base.to_string(Ans().encode(symbols))
        return sent

    def encode(self, announced, value, weight) -> tf.Tensor:
        """The string of one client; empty if its value or weight has no finite square.

        announced: what `announce` returned, with the vectors that the client derived.
        """
        params, ok = self._params(announced)
        if self.weighted:
            value = value * weight
        # What a client draws differs from client to client, yet is a function of the run's seed.
        fingerprint = tf.fingerprint(tf.reshape(value, [1, -1]))[0, :4]
        seed = tf.stack([announced["seed"], tf.bitcast(fingerprint, tf.int32)])
        sent = [params[name] for name in self._repeated] + [weight] * self.weighted
        numbers = tf.concat([tf.zeros([0]), *[[number] for number in sent]], 0)
        payload = self.codec.encode(value, self._seen(params, numbers), seed)
        ok &= tf.not_equal(payload, "") & base.is_finite(numbers)
        ok &= _summable(value, weight if self.weighted else 1.0)
        if self.reports:
            numbers, payload = self._reporting(value, params, numbers, payload)
            ok &= base.is_finite(numbers)
        whole = tf.strings.join([base.to_string(base.to_bytes(numbers)), payload])
        return tf.where(ok, whole, "")

    def _reporting(self, value, params, numbers, payload) -> tuple[tf.Tensor, tf.Tensor]:
        """Numbers with the report, and the payload with a check that covers them all."""
        decoded, _ = self.codec.decode(payload, self._seen(params, numbers), self.n)
        report = [squared_norm(value - decoded), squared_norm(value)]
        numbers = tf.concat([report, numbers], 0)
        rest = tf.strings.substr(payload, tf.minimum(tf.strings.length(payload), 4), -1)
        return numbers, self.codec.frame(rest, self._seen(params, numbers), self.n)

    def decode(self, string, params: Params | None = None) -> Received:
        """What is in a client's string, whatever it holds.

        It does not count if its check does not fit, if a number is not finite, if the weight or
        the report is negative, or if the value or the weight is beyond 1.8e19, the root of the
        largest float32: clients that lie can move a mean, but not to where there is no way back.

        params: this round's; needed only if there are vectors among them.
        """
        numbers, payload, seen = self._opened(string, params)
        sent = tf.unstack(numbers)
        report = sent[:2] if self.reports else [tf.constant(0.0)] * 2
        value, ok = self.codec.decode(payload, seen, self.n)
        weight = sent[-1] if self.weighted else tf.constant(1.0)
        ok &= base.is_finite(numbers) & _summable(value, weight)
        ok &= tf.reduce_all(tf.stack([weight, *report]) >= 0)
        whole = [value, weight, *report]
        whole = tf.cond(ok, lambda: whole, lambda: [tf.zeros_like(x) for x in whole])
        return Received(*whole, ok)

    def sealed(self, string, params: Params | None = None) -> tf.Tensor:
        """The string with a check that fits, whatever it holds: what a forger would send."""
        numbers, payload, seen = self._opened(string, params)
        rest = tf.strings.substr(payload, tf.minimum(tf.strings.length(payload), 4), -1)
        whole = [base.to_string(base.to_bytes(numbers)), self.codec.frame(rest, seen, self.n)]
        return tf.strings.join(whole)

    def _opened(self, string, params: Params | None) -> tuple[tf.Tensor, tf.Tensor, Params]:
        """The numbers before a payload, the payload, and what the codec gets of both sides."""
        size = 4 * len(self.numbers)
        length = tf.strings.length(string)
        prefix = tf.strings.substr(string, 0, tf.minimum(length, size))
        payload = tf.strings.substr(string, tf.minimum(length, size), length)
        data = tf.io.decode_raw(prefix, tf.uint8)
        data = tf.pad(data, [[0, size - tf.size(data)]])
        numbers = base.from_bytes(tf.ensure_shape(data, [size]), tf.float32)
        if not self.vectors:
            sent = tf.unstack(numbers)[2 * self.reports :]
            params = OrderedDict(zip(self._repeated, sent, strict=False))
        return numbers, payload, self._seen(params, numbers)

    def _seen(self, params: Params, numbers: tf.Tensor) -> Params:
        """What the codec gets: parameters, the client's weight, and what its check covers too."""
        seen = OrderedDict(params, **{"(numbers before the payload)": numbers})
        if self.weighted:
            seen["weight"] = numbers[-1]
        return seen

    @property
    def _repeated(self) -> list[str]:
        """The parameters that a client's string repeats."""
        return [] if self.vectors else self.scalars

    def _params(self, announced) -> tuple[OrderedDict[str, tf.Tensor], tf.Tensor]:
        """The round's parameters, and whether the context was readable."""
        params = OrderedDict((name, announced[name]) for name in self.scalars)
        if not self.announces:
            vectors = [(name, announced[name]) for name in self.vectors]
            return OrderedDict(params, **dict(vectors)), tf.constant(True)
        data = tf.io.decode_raw(announced["context"], tf.uint8)
        symbols, ok = Ans().decode(data, sum(self.vectors.values()))
        pieces = tf.split(tf.cast(symbols, tf.float32), [*self.vectors.values()])
        return OrderedDict(params, **dict(zip(self.vectors, pieces, strict=True))), ok


def squared_norm(x: tf.Tensor) -> tf.Tensor:
    """sum(x^2), in one pass without a temporary vector."""
    return 2 * tf.nn.l2_loss(x)


def _summable(value: tf.Tensor, weight: tf.Tensor | float) -> tf.Tensor:
    """Whether both have a finite square, and so a finite sum over clients."""
    return tf.math.is_finite(squared_norm(value) + weight**2)


def not_inlined(function: Callable) -> Callable:
    """The function as one node of a graph.

    Inlined, a codec's branches and loops become a graph on which TensorFlow's optimizer, run by
    TFF, has been seen to abort.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
