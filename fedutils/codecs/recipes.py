"""Each paper's method as a short composition of the parts in this package.

A recipe is a function from the shapes of a model's variables to a codec. Papers with error
feedback are without it here: clients of a federated round hold no state.
What a paper does to each layer, bucket or column is done to the whole update, unless said.
"""

import dataclasses
import math
from collections.abc import Callable

from fedutils.codecs.base import Codec, Layout, Stage, chain
from fedutils.codecs.entropy.ans import Ans
from fedutils.codecs.entropy.context import Context
from fedutils.codecs.entropy.elias import EliasGamma
from fedutils.codecs.entropy.huffman import Huffman
from fedutils.codecs.entropy.packing import FixedWidth
from fedutils.codecs.entropy.sparse import Sparse
from fedutils.codecs.floats import Raw, SparseFloats
from fedutils.codecs.nonuniform import ExponentialLevels, FittedLevels, GaussianLevels, PowersOfTwo
from fedutils.codecs.quantizers import MinMax, Nearest, Stochastic, TwoMeans
from fedutils.codecs.sparsifiers import RandomK, Threshold, TopK
from fedutils.codecs.ternary import Ternary
from fedutils.codecs.transforms import Clip, Hadamard, Max, Norm, RelativeStep, Rms, SetAside, Step
from fedutils.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named method: `build(layout)` gives its codec; keywords, if any, change its knobs."""

    name: str
    paper: str
    sentence: str
    build: Callable[..., Codec]


RECIPES: dict[str, Recipe] = {}


def _recipe(name: str, paper: str):
    """Registers a function whose docstring's first line is the recipe's sentence."""

    def register(build):
        RECIPES[name] = Recipe(name, paper, build.__doc__.splitlines()[0], build)
        return build

    return register


def small_whole(build: Callable[[Layout], Codec], min_elements: int) -> Callable[[Layout], Codec]:
    """A recipe that gives another one only the variables of at least `min_elements` elements.

    The others are sent whole, at 32 bits per number, inside the same payload.
    """

    def build_around(layout: Layout) -> Codec:
        sizes = tuple(map(math.prod, layout))
        large = [shape for shape in layout if math.prod(shape) >= min_elements]
        if not large:
            return identity(layout)
        return chain(SetAside(sizes, min_elements), build(large))

    return build_around


@_recipe("default", "this project")
def default(layout: Layout, step: float = 150.0) -> Codec:
    """QSGD's rounding with some nine levels for the whole model, Rice codes of the few nonzeros.

    step: in standard deviations of the client's update; a round parameter. QSGD (Alistarh et al.
      2017) has its number of levels instead, √n / step.
    """
    return chain(RelativeStep(step), Stochastic(), Sparse())


@_recipe("context", "this project")
def context(layout: Layout, step: float = 40.0, rounding: Stage = Stochastic()) -> Codec:
    """Stochastic rounding with one step for the model, entropy-coded in the weights' context.

    step: in standard deviations of the client's update; a round parameter.
    rounding: from floats to whole numbers; `Nearest()` errs less and is biased.
    """
    return chain(RelativeStep(step), rounding, Context(tuple(map(tuple, layout))))


@_recipe("identity", "-")
def identity(layout: Layout) -> Codec:
    """Every number as its 32 bits."""
    return chain(Raw())


@_recipe("study", "Suresh et al. 2017, section 2.2, as in TFF's compression_aggregator")
def study(layout: Layout, bits: int = 8, threshold: int = 20_000) -> Codec:
    """8-bit stochastic levels from each large variable's least to its largest number.

    TFF's own packs seven such numbers into 64 bits, which is 9.14 bits per number.

    threshold: variables with no more elements than this are sent whole.
    """

    def quantized(large: Layout) -> Codec:
        return chain(MinMax(bits, tuple(map(math.prod, large))), FixedWidth())

    return small_whole(quantized, threshold + 1)(layout)


@_recipe("study-huffman", "the study's open question; Huffman 1952")
def study_huffman(layout: Layout, bits: int = 8) -> Codec:
    """The study's levels, all variables in one range, Huffman-coded with the table inside."""
    return chain(MinMax(bits), Huffman())


@_recipe("qsgd", "Alistarh et al. 2017 (QSGD), section 3.1, gamma codes")
def qsgd(layout: Layout, levels: float | None = None) -> Codec:
    """Stochastic rounding in units of the norm over `levels`, Elias gamma codes.

    levels: the paper's s; the square root of the number of parameters if not given, which is
      the paper's dense regime.
    """
    levels = math.sqrt(sum(map(math.prod, layout))) if levels is None else levels
    return chain(Norm(1 / levels), Stochastic(), EliasGamma())


@_recipe("qsgd-coarse", "Alistarh et al. 2017 (QSGD), section 3.1, few levels")
def qsgd_coarse(layout: Layout, levels: float = 3.0) -> Codec:
    """QSGD with 3 levels, the fewest that held 97 % in trials; Rice codes of the nonzeros.

    levels: the paper's sparse regime has 1, its dense one the square root of the number of
      parameters. For the gaps between nonzeros the paper has Elias' codes, which are longer.
    """
    return chain(Norm(1 / levels), Stochastic(), Sparse())


@_recipe("terngrad", "Wen et al. 2017 (TernGrad), section 3, one maximum for all layers")
def terngrad(layout: Layout, clip: float = 2.5) -> Codec:
    """Clips to 2.5 standard deviations, rounds at random to 0 or ± the maximum, 1.6 bits."""
    return chain(Clip(clip), Max(), Stochastic(), Ternary(zero_runs=False))


@_recipe("1-bit-sgd", "Seide et al. 2014, without error feedback")
def one_bit_sgd(layout: Layout) -> Codec:
    """The sign of each number, decoded as the mean of those of equal sign."""
    return chain(TwoMeans(), FixedWidth())


@_recipe("3lc", "Lim et al. 2019 (3LC), sections 3.1 to 3.3, without error feedback")
def three_lc(layout: Layout, sparsity: float = 1.0) -> Codec:
    """Rounds to 0 or ± the maximum; five to a byte, and runs of zeros shortened.

    sparsity: the paper's s, at least 1 and below 2; more makes more zeros.
    """
    if not 1 <= sparsity < 2:
        raise UsageError(f"sparsity of 3lc must be at least 1 and below 2, not {sparsity}")
    return chain(Max(sparsity), Nearest(), Ternary())


@_recipe("rotated", "Suresh et al. 2017, section 3")
def rotated(layout: Layout, bits: int = 4) -> Codec:
    """Random rotation, then stochastic levels from the least to the largest number."""
    return chain(Hadamard(), MinMax(bits), FixedWidth())


@_recipe("drive", "Vargaftik et al. 2021 (DRIVE), with its unbiased scale: EDEN at 1 bit")
def drive(layout: Layout, unbiased: bool = True) -> Codec:
    """Random rotation, then the signs and one scale that makes the mean right.

    unbiased: if not, the scale of least error.
    """
    return chain(Hadamard(), GaussianLevels(1, unbiased=unbiased), FixedWidth())


def eden(layout: Layout, bits: int = 1) -> Codec:
    """Random rotation, then the Gaussian's best 2^bits levels and an unbiased scale."""
    return chain(Hadamard(), GaussianLevels(bits), FixedWidth())


@_recipe("eden1", "Vargaftik et al. 2022 (EDEN)")
def eden1(layout: Layout) -> Codec:
    """Random rotation, then the Gaussian's best 2 levels and an unbiased scale."""
    return eden(layout, 1)


@_recipe("eden2", "Vargaftik et al. 2022 (EDEN)")
def eden2(layout: Layout) -> Codec:
    """Random rotation, then the Gaussian's best 4 levels and an unbiased scale."""
    return eden(layout, 2)


@_recipe("eden4", "Vargaftik et al. 2022 (EDEN)")
def eden4(layout: Layout) -> Codec:
    """Random rotation, then the Gaussian's best 16 levels and an unbiased scale."""
    return eden(layout, 4)


@_recipe("eden-sparse", "Vargaftik et al. 2022 (EDEN), below one bit, as in the authors' code")
def eden_sparse(layout: Layout, fraction: float = 0.025) -> Codec:
    """`eden1` for a random 2.5 % of the numbers, the fewest that held 97 % in trials.

    fraction: of the numbers; their positions are sent as a seed. NMSE is π / (2 fraction) - 1.
    """
    return chain(RandomK(fraction), eden(layout))


@_recipe("lloyd-max", "Lloyd 1957; Max 1960")
def lloyd_max(layout: Layout, bits: int = 3) -> Codec:
    """The 2^bits levels that fit the update best, entropy-coded; their table is sent."""
    return chain(FittedLevels(bits), Ans())


@_recipe("natural", "Horváth et al. 2019 (natural compression), section 2")
def natural(layout: Layout) -> Codec:
    """Rounds at random to powers of two: the sign and up to eight exponent bits of each number."""
    return chain(PowersOfTwo(), FixedWidth())


@_recipe("nuqsgd", "Ramezani-Kebrya et al. 2021 (NUQSGD), section 3")
def nuqsgd(layout: Layout, depth: int = 16) -> Codec:
    """Rounds at random to powers of two of the norm, or zero; Elias gamma codes."""
    return chain(Norm(), ExponentialLevels(depth), EliasGamma())


@_recipe("top-k", "Aji and Heafield 2017, section 4, without error feedback")
def top_k(layout: Layout, fraction: float = 0.01) -> Codec:
    """The 1 % of largest magnitude, as 32 bits each and coded gaps between them."""
    return chain(TopK(fraction), SparseFloats(Ans()))


@_recipe("threshold", "Strom 2015, without error feedback, and values sent whole")
def threshold(layout: Layout, size: float = 3.0) -> Codec:
    """Numbers above a threshold, in standard deviations, as 32 bits each and coded gaps."""
    return chain(Rms(), Threshold(size), SparseFloats(Ans()))


@_recipe("random-k", "Konečný et al. 2016, section 3")
def random_k(layout: Layout, fraction: float = 0.01) -> Codec:
    """A random 1 % of the numbers, scaled up to be unbiased; their positions are sent as a seed."""
    return chain(RandomK(fraction), Raw())


@_recipe(
    "mitchell",
    "Mitchell et al. 2022, with stochastic rounding and a fixed, scaled step",
)
def mitchell(layout: Layout, step: float = 2.0) -> Codec:
    """One quantization step for the model, then an entropy code of the symbols.

    step: in standard deviations of the client's update; a round parameter.
    """
    return chain(Rms(), Step(step), Stochastic(), Ans())
