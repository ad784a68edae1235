"""Codecs and controllers put together: aggregators that learn from the rounds before.

The project's own uplink. A client rounds its weighted update at random to multiples of a step
that is far above any of its elements, so that a few hundred of its 1.7 million elements become
1 or -1 and all others 0, and sends where those are.

    step      one for all clients, in units of the model: each spends bits where they help the mean
              most. A controller sets it: within a budget that grows (`lean`), or after the
              training loss (`following_loss`).
    lines     rows and columns that were busy get finer steps, as errors there do more harm.
    rounding  systematic: the errors of a unit's inputs cancel.
    where     told among a pool of weights that client and server draw alike (`pooled`), or, for
              more nonzeros than a pool would suit, among all, in classes of busy and quiet
              (`codec`).

It is unbiased throughout: the mean over clients and rounds forgives variance, but no bias.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_federated as tff

from fedutils import aggregators, controllers
from fedutils.codecs.base import Codec, Layout, Params, chain
from fedutils.codecs.entropy.ans import Ans
from fedutils.codecs.entropy.sparse import Sparse
from fedutils.codecs.quantizers import Stochastic, Systematic
from fedutils.codecs.shared import LineSteps, Pool, SharedContext, levels_of_change
from fedutils.codecs.transforms import ClientStep, Norm, Step, WeightUnit

_EXPONENT = 0.5  # Of the lines' activity in their steps.


def pooled(layout: Layout, step: float, size: int = 4096) -> Codec:
    """The codec for the fewest bits.

    Args:
      layout: shapes of the model's variables.
      step: of the first round, in units of the model's weights, for a client of mean weight and
        a line of mean activity.
      size: of the pool of weights that client and server draw alike.
    """
    shapes = tuple(map(tuple, layout))
    return chain(Pool(shapes, size, _EXPONENT), WeightUnit(), Step(step), Systematic(), Sparse())


def codec(layout: Layout, step: float) -> Codec:
    """The codec that may send any weight, for updates finer than a pool pays for.

    Args:
      layout: shapes of the model's variables.
      step: of the first round; see `pooled`.
    """
    shapes = tuple(map(tuple, layout))
    steps = [WeightUnit(), Step(step), LineSteps(shapes, _EXPONENT)]
    return chain(*steps, Systematic(shapes), SharedContext(shapes, _EXPONENT))


def lean(
    seed: int,
    steps: controllers.Controller = controllers.Constant(),
    step: float = 0.7,
    size: int = 4096,
    prior: float = 0.5,
    learns_lines: bool = True,
    backward: bool = False,
) -> tff.aggregators.WeightedAggregationFactory:
    """The weighted mean of updates coded with `pooled`, few bits for each.

    Args:
      seed: of the randomness.
      steps: sets the step from one round to the next.
      step: of the first round; see `pooled`.
      size: of the pool.
      prior: see `shared.levels`; a pool that trusts a line's silence too much has outliers.
      learns_lines: whether the pool prefers lines that were busy in earlier rounds; if not, all
        weights are alike in all rounds.
      backward: whether clients see in the model which lines these are, and the server need not
        tell them; see `fedutils.backward`.
    """

    def controller(layout: Layout) -> controllers.Controller:
        lines = [_lines(layout, prior)] if learns_lines and not backward else []
        return controllers.Together(steps, controllers.MeanWeight(), *lines)

    def derive(layout: Layout, change: tf.Tensor) -> Params:
        return {"lines": levels_of_change(tuple(map(tuple, layout)), change, prior)}

    return _mean(
        lambda layout: pooled(layout, step, size),
        seed,
        controller,
        derive if learns_lines and backward else None,
    )


def within_budget(
    seed: int,
    budget: float = 1500.0,
    doubling: float = 60.0,
    step: float = 0.7,
    size: int = 4096,
    prior: float = 0.5,
    learns_lines: bool = True,
    backward: bool = False,
) -> tff.aggregators.WeightedAggregationFactory:
    """`lean` with steps that spend a budget of bits, which grows.

    Args:
      seed: of the randomness.
      budget: of a client's whole string in the first round, in bits.
      doubling: rounds in which the budget doubles.
      step: of the first round; see `pooled`.
      size: of the pool.
      prior: see `lean`.
      learns_lines: see `lean`.
      backward: see `lean`.
    """
    steps = controllers.TargetRate(budget, doubling=doubling)
    return lean(seed, steps, step, size, prior, learns_lines, backward)


def following_loss(seed: int, step: float) -> tff.aggregators.WeightedAggregationFactory:
    """The weighted mean of updates coded with `codec`, the step after the training loss.

    Args:
      seed: of the rounding's randomness.
      step: of the first round; see `codec`.
    """

    def controller(layout: Layout) -> controllers.Controller:
        loss = controllers.AdaQuantFL(memory=0.8)
        return controllers.Together(loss, controllers.MeanWeight(), _lines(layout, 0.1))

    return _mean(lambda layout: codec(layout, step), seed, controller)


def _lines(layout: Layout, prior: float) -> controllers.Controller:
    return controllers.LineActivity(tuple(map(tuple, layout)), prior=prior)


def adaquantfl(seed: int, levels: float = 2.0) -> tff.aggregators.WeightedAggregationFactory:
    """QSGD with a number of levels that follows the training loss (AdaQuantFL).

    The number of levels is real, the loss that of the cohort while it trains, and the coder near
    the symbols' entropy; the paper has whole levels, the loss of all clients, and fixed widths.

    levels: of the first round, from 0 to the norm of the client's update.
    """
    qsgd = chain(Norm(), Step(1 / levels), Stochastic(), Ans())
    return _mean(qsgd, seed, controllers.AdaQuantFL())


def dadaquant(
    seed: int, levels: float = 1.0, patience: int = 15
) -> tff.aggregators.WeightedAggregationFactory:
    """QSGD with levels that double as the loss stalls, more for heavier clients (DAdaQuant).

    The loss is that of the cohort while it trains, clients are weighed against the cohort before,
    and the coder is near the symbols' entropy; the paper evaluates the loss before training,
    knows the cohort's weights beforehand, and has Elias codes of zero runs and levels.

    levels: of the first round, from 0 to the norm of the client's update.
    patience: in rounds; the paper's phi, a tenth of all.
    """
    controller = controllers.Together(controllers.DAdaQuant(patience), controllers.MeanWeight())
    return _mean(client_adaptive_qsgd(1 / levels), seed, controller)


def client_adaptive_qsgd(step: float) -> Codec:
    """QSGD with more levels for heavier clients: the codec of `dadaquant`.

    step: of the first round, for a client of mean weight, in norms of the client's update.
    """
    return chain(Norm(), ClientStep(step), Stochastic(), Ans())


def _mean(
    codec, seed: int, controller, derive: aggregators.Derive | None = None
) -> tff.aggregators.WeightedAggregationFactory:
    compression = aggregators.Compression(codec, seed, controller, derive)
    return aggregators.compressed_aggregator(compression, zeroing=False, clipping=False)
