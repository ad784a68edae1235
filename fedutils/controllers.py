"""Controllers: a codec's parameters for the next round, from what the server saw in this one.

A controller is a pair of pure TensorFlow functions whose state lives in the server's state:

    (state, parameters of this round, what was observed in it) -> (state, parameters of the next)

Observed are the sums over clients that `aggregators.CompressedSumFactory` measures, scalars all,
and `value`, float32[n], the sum of the decoded values (times their weights), `weight`, that of
the weights, and `counted_bits_sum`, `payload_bits_sum` without the rejected clients, whose strings
may be of any length. Every controller sees to its own parameters; `Together` makes one of several.

A codec refuses a step that is not positive, and a step that is not finite decodes to nothing, so
no round may leave such a one: what was not observed, or is not a number, changes nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Protocol

import tensorflow as tf

from fedutils.codecs import shared
from fedutils.codecs.base import Params
from fedutils.codecs.entropy import lines

Observed = Mapping[str, tf.Tensor]

LOSS = "training_loss"
"""Name, in an aggregator's state, of the loss that its controller observes (see `feedback`)."""


class Controller(Protocol):
    """Adapts a codec's parameters from the rounds before; a frozen dataclass.

    Two attributes may ask for more to be observed:

        needs_reports = True: `reported_error_sum` and `reported_norm_sum`, float32, squared
          errors and squared norms of the clients' values, for which each client sends 8 bytes.
        needs_loss = True: `training_loss`, float32, the clients' mean loss one round before; 0 if
          there is none.
    """

    def initialize(self, params: Params):
        """The state before the first round, an OrderedDict of tensors of static shapes."""

    def next(self, state, params: Params, observed: Observed):
        """The new state, and the parameters of the next round."""


class _Stateless:
    def initialize(self, params):
        """No state."""
        return collections.OrderedDict()


@dataclasses.dataclass(frozen=True)
class Constant(_Stateless):
    """Leaves the parameters as they are."""

    def next(self, state, params, observed):
        """The same again."""
        return state, params


@dataclasses.dataclass(frozen=True, init=False)
class Together:
    """Several controllers, each of its own parameters."""

    parts: tuple[Controller, ...]

    def __init__(self, *parts: Controller) -> None:
        object.__setattr__(self, "parts", parts)

    needs_reports = property(lambda self: any(map(needs_reports, self.parts)))
    needs_loss = property(lambda self: any(map(needs_loss, self.parts)))

    def initialize(self, params):
        """The states of all."""
        states = [part.initialize(params) for part in self.parts]
        return collections.OrderedDict((f"part_{i}", state) for i, state in enumerate(states))

    def next(self, state, params, observed):
        """One after the other."""
        new = collections.OrderedDict()
        for name, part in zip(state, self.parts, strict=True):
            new[name], params = part.next(state[name], params, observed)
        return new, params


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A fixed plan: the parameter moves from its first value to `last` in equal ratios.

    last: the value from round `rounds` + 1 on.
    rounds: how many rounds that takes.
    """

    last: float
    rounds: int
    name: str = "step"

    def initialize(self, params):
        """The first value, and the round."""
        return collections.OrderedDict(first=params[self.name], round=tf.constant(0))

    def next(self, state, params, observed):
        """The next value of the plan."""
        turn = state["round"] + 1
        share = tf.minimum(tf.cast(turn, tf.float32) / self.rounds, 1.0)
        value = state["first"] ** (1 - share) * self.last**share
        new = collections.OrderedDict(first=state["first"], round=turn)
        return new, _with(params, self.name, value)


@dataclasses.dataclass(frozen=True)
class TargetRate:
    """Spends a number of bits per client and round: the step grows if more were spent.

    bits: to spend in the first round, of a client's whole string.
    doubling: rounds in which they double; math.inf keeps them. While a model learns fast, the
      mean forgives noise; what it still learns later is finer.
    gain: share of the deviation, on a log scale, that is made up for in the next round. Cohorts
      differ in what they have to say, so less than 1.
    """

    bits: float
    doubling: float = math.inf
    gain: float = 0.3
    name: str = "step"

    def initialize(self, params):
        """The round."""
        return collections.OrderedDict(round=tf.constant(0))

    def next(self, state, params, observed):
        """A step for which the target is met if bits are inversely proportional to it."""
        growth = 2.0 ** (tf.cast(state["round"], tf.float32) / self.doubling)
        spent = tf.cast(observed["counted_bits_sum"], tf.float32)
        ratio = tf.math.divide_no_nan(spent, _counted(observed)) / (self.bits * growth)
        params = _scaled(params, self.name, ratio, self.gain)
        return collections.OrderedDict(round=state["round"] + 1), params


@dataclasses.dataclass(frozen=True)
class TargetDistortion(_Stateless):
    """Holds the clients' normalized mean squared error: the step shrinks if they err more.

    nmse: sum of the squared errors of the clients' updates over that of their squared norms. An
      update of which nothing is left has an error of 1, so beyond that the step may grow for ever.
    gain: as in `TargetRate`. The error of stochastic rounding grows in proportion to the step
      if that is coarse, and to its square if it is fine.
    """

    nmse: float
    gain: float = 0.5
    name: str = "step"
    needs_reports: ClassVar[bool] = True

    def next(self, state, params, observed):
        """A step for which the target is met if the error is in proportion to it."""
        error = observed["reported_error_sum"] / tf.maximum(observed["reported_norm_sum"], 1e-30)
        ratio = self.nmse / tf.maximum(error, 1e-30)
        ratio = tf.where(observed["reported_norm_sum"] > 0, ratio, 0.0)
        return state, _scaled(params, self.name, ratio, self.gain)


@dataclasses.dataclass(frozen=True)
class ClientVariance(_Stateless):
    """Holds the mean's quantization error at a share of what the choice of clients varies.

    The mean over K clients forgives differences between them by 1/K, and errors that are
    independent likewise. So an error below the clients' own differences is hardly noticed.

    share: sum of the clients' squared errors over that of their squared distances from their
      mean. Both come from the clients' reports and from the sum of the decoded values. As in
      `TargetDistortion`, more than 1 may have no end.
    gain, name: as in `TargetRate`.
    """

    share: float
    gain: float = 0.5
    name: str = "step"
    needs_reports: ClassVar[bool] = True

    def next(self, state, params, observed):
        """A step for which the share is met if the error is in proportion to the step."""
        error = observed["reported_error_sum"]
        # The decoded sum is that of the values and of errors that are independent.
        of_sum = tf.maximum(observed["sum_squared_norm"] - error, 0.0)
        of_mean = tf.math.divide_no_nan(of_sum, _counted(observed))
        variance = tf.maximum(observed["reported_norm_sum"] - of_mean, 0.0)
        ratio = tf.math.divide_no_nan(self.share * variance, error)
        return state, _scaled(params, self.name, ratio, self.gain)


@dataclasses.dataclass(frozen=True)
class AdaQuantFL:
    """The step shrinks with the root of the training loss: coarse first, fine at the end.

    With s levels to the norm, s = s_0 sqrt(f_0 / f_t) makes the error bound fall fastest for the
    bits spent. Source: Jhunjhunwala et al. 2021 (AdaQuantFL), section 3, equation for s_k*.

    exponent: of the loss; the paper's is 1/2.
    memory: share of the running mean of the loss that is kept from one round to the next; the
      paper has the exact loss.
    """

    exponent: float = 0.5
    memory: float = 0.0
    name: str = "step"
    needs_loss: ClassVar[bool] = True

    def initialize(self, params):
        """The first step; the first and the running mean loss, 0 until there is one."""
        zero = tf.constant(0.0)
        return collections.OrderedDict(first=params[self.name], first_loss=zero, mean_loss=zero)

    def next(self, state, params, observed):
        """The first step times the root of the ratio of the losses."""
        loss = observed[LOSS]
        known, begun = _known(loss), state["mean_loss"] > 0
        mean = tf.where(begun, self.memory * state["mean_loss"] + (1 - self.memory) * loss, loss)
        mean = tf.where(known, mean, state["mean_loss"])
        first_loss = tf.where(state["first_loss"] > 0, state["first_loss"], mean)
        ratio = tf.where(first_loss > 0, mean / tf.maximum(first_loss, 1e-30), 1.0)
        new = collections.OrderedDict(first=state["first"], first_loss=first_loss, mean_loss=mean)
        return new, _with(params, self.name, state["first"] * ratio**self.exponent)


@dataclasses.dataclass(frozen=True)
class DAdaQuant:
    """Halves the step whenever the running mean of the training loss has stopped falling.

    Source: Hönig et al. 2022 (DAdaQuant), section 3.4, time-adaptive quantization; its
    client-adaptive part is the stage `codecs.transforms.ClientStep`.

    patience: the loss is compared with that so many rounds before, the paper's phi.
    memory: share of the running mean that is kept, the paper's psi.
    least: no step is smaller.
    """

    patience: int = 10
    memory: float = 0.9
    least: float = 1e-4
    name: str = "step"
    needs_loss: ClassVar[bool] = True

    def initialize(self, params):
        """The running means of the last rounds, oldest first; 0 where there were none."""
        return collections.OrderedDict(means=tf.zeros([self.patience]))

    def next(self, state, params, observed):
        """Half the step, or the same."""
        means, loss = state["means"], observed[LOSS]
        latest = tf.where(means[-1] > 0, self.memory * means[-1] + (1 - self.memory) * loss, loss)
        stalled = _known(loss) & (means[0] > 0) & (latest >= means[0])
        step = params[self.name]
        step = tf.where(stalled & (step > self.least), tf.maximum(step / 2, self.least), step)
        # The new step gets as many rounds of its own before it is judged.
        older = tf.where(stalled, tf.zeros_like(means), means)[1:]
        means = tf.where(_known(loss), tf.concat([older, [latest]], 0), means)
        return collections.OrderedDict(means=means), _with(params, self.name, step)


@dataclasses.dataclass(frozen=True)
class MeanWeight(_Stateless):
    """Sets the parameter `weight_unit` to the mean weight of the clients."""

    def next(self, state, params, observed):
        """The mean of this round, if there was a client."""
        mean = tf.math.divide_no_nan(observed["weight"], _counted(observed))
        unit = tf.where(_known(mean), mean, params["weight_unit"])
        return state, _with(params, "weight_unit", unit)


@dataclasses.dataclass(frozen=True)
class LineActivity:
    """Tells clients how busy the model's rows and columns have been (`codecs.shared`).

    shapes: of the model's variables, all of them: of what is aggregated.
    memory: share of the running sum of activity that is kept from one round to the next.
    prior: see `shared.levels`.
    """

    shapes: shared.Shapes
    memory: float = 0.9
    prior: float = 0.1

    def initialize(self, params):
        """No activity yet; ValueError if the codec's lines are those of other variables."""
        own, codecs = len(lines.layout_of(self.shapes).line_list), params["lines"].shape[0]
        if own != codecs:
            raise ValueError(
                f"The controller's variables have {own} rows and columns, the codec's {codecs}: "
                "make both for the same shapes, and let the codec have all variables "
                "(min_elements=0)."
            )
        return collections.OrderedDict(activity=tf.zeros_like(params["lines"]))

    def next(self, state, params, observed):
        """Levels from the running sum of the magnitudes of the clients' sum."""
        new = shared.activity(self.shapes, observed["value"])
        new = tf.where(tf.math.is_finite(tf.reduce_sum(new)), new, 0.0)
        seen = self.memory * state["activity"] + new
        levels = shared.levels(self.shapes, seen, self.prior)
        levels = tf.where(tf.reduce_sum(seen) > 0, levels, params["lines"])
        return collections.OrderedDict(activity=seen), _with(params, "lines", levels)


def needs_reports(controller: Controller) -> bool:
    """Whether clients must report their errors."""
    return getattr(controller, "needs_reports", False)


def needs_loss(controller: Controller) -> bool:
    """Whether it must be fed the training loss."""
    return getattr(controller, "needs_loss", False)


def _known(number: tf.Tensor) -> tf.Tensor:
    """Whether what is positive by nature was observed."""
    return (number > 0) & tf.math.is_finite(number)


def _counted(observed: Observed) -> tf.Tensor:
    """How many clients were not rejected, float32."""
    return tf.cast(observed["clients"] - observed["rejected_clients"], tf.float32)


def _scaled(params: Params, name: str, ratio: tf.Tensor, gain: float) -> Params:
    """The parameter times a power of the ratio, or the same if that is unknown.

    It may move by a factor of 4 ** gain a round, and stays where its square is a float32.
    """
    factor = tf.where(_known(ratio), tf.clip_by_value(ratio, 0.25, 4.0), 1.0) ** gain
    return _with(params, name, tf.clip_by_value(params[name] * factor, 1e-18, 1e18))


def _with(params: Params, name: str, value: tf.Tensor) -> Params:
    changed = collections.OrderedDict(params)
    changed[name] = tf.ensure_shape(value, params[name].shape)
    return changed
