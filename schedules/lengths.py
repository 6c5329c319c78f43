"""How long the prompts of a batch are, in three forms.

A publication gives one length for all (`Fixed`), an average and a maximum (`Spread`), or the data
set itself (`Listed`). Each answers `sample(n)`, the prompt lengths in tokens of `n` requests, and
gives the same answer every time: nothing here is drawn at random.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import cycle, islice
from reprlib import repr as short
from statistics import fmean
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from schedules.errors import BadInput

MOST_TOKENS = 2**31 - 1  # as far as a 32-bit counter goes; no request comes near it
NARROW = 1e-15  # of an exponent: by so little it moves no quantile


def positive_int(value: object, what: str) -> int:
    """`value` if it is a whole number of at least 1; else raises `BadInput`, which names `what`.

    >>> positive_int(0, "gen_len")
    Traceback (most recent call last):
    ...
    schedules.errors.BadInput: gen_len is 0; it must be a whole number of at least 1
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise BadInput(f"{what} is {short(value)}; it must be a whole number of at least 1")
    if value > MOST_TOKENS:
        raise BadInput(f"{what} is {value}; it must be at most {MOST_TOKENS}")
    return int(value)


class Fixed(BaseModel):
    """Every prompt has the same length.

    >>> Fixed(tokens=512).sample(3)
    (512, 512, 512)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fixed"] = "fixed"
    tokens: int

    @field_validator("tokens", mode="before")
    @classmethod
    def _whole(cls, value: object) -> int:
        return positive_int(value, "the prompt length")

    @property
    def average(self) -> float:
        """Average prompt length in tokens."""
        return float(self.tokens)

    @property
    def longest(self) -> int:
        """Longest prompt in tokens."""
        return self.tokens

    def sample(self, n: int) -> tuple[int, ...]:
        """Prompt lengths in tokens of `n` requests."""
        return (self.tokens,) * n


class Spread(BaseModel):
    """Only the average and the longest are known; the rest follows from assuming nothing else.

    Of all distributions on [shortest, longest] with a given mean, the truncated exponential
    (density proportional to exp(-k x), k of either sign) has the largest entropy (Cover and
    Thomas, Elements of Information Theory, chapter 12): any other shape would state something that
    was not published. `sample(n)` takes its quantiles at (i + 0.5) / n, in rising order.

    Two facts are kept exact for every n. The sum is `round(n * average)`: k is solved for the n
    quantiles themselves, not for the continuum (20 quantiles of MTBench, the longest among them,
    would otherwise be 8 % too many tokens), and fractions are rounded by largest remainder. And the
    longest prompt is present, unless it alone would push the sum of n prompts above that (MTBench:
    n <= 5).

    >>> Spread(average=77, longest=418).sample(10)
    (4, 9, 16, 23, 32, 42, 55, 72, 99, 418)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["spread"] = "spread"
    average: float
    longest: int
    shortest: int = 1

    @field_validator("longest", "shortest", mode="before")
    @classmethod
    def _whole(cls, value: object, info: ValidationInfo) -> int:
        return positive_int(value, f"the {info.field_name} prompt length")

    @field_validator("average", mode="before")
    @classmethod
    def _finite(cls, value: object) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and 1 <= value <= MOST_TOKENS:  # type: ignore[operator]  # NaN is not
            return float(value)  # type: ignore[arg-type]
        raise BadInput(
            f"the average prompt length is {short(value)}; it must be a number of at least 1"
        )

    @model_validator(mode="after")
    def _ordered(self) -> "Spread":
        if not self.shortest <= self.average <= self.longest:
            raise BadInput(
                f"the average prompt length is {self.average:g}; it must lie between the shortest, "
                f"{self.shortest}, and the longest, {self.longest}"
            )
        return self

    def sample(self, n: int) -> tuple[int, ...]:
        """Prompt lengths in tokens of `n` requests, in rising order."""
        return _spread(self.average, self.longest, self.shortest, n)


class Listed(BaseModel):
    """The lengths of a data set, in its order; repeated from the start when more are asked for.

    Repeating is what MoE-Lightning does with the 80 questions of MTBench (arXiv 2411.11217,
    section 5).

    >>> Listed(lengths=(5, 7, 3)).sample(5)
    (5, 7, 3, 5, 7)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["listed"] = "listed"
    lengths: tuple[int, ...]

    @field_validator("lengths", mode="before")
    @classmethod
    def _whole(cls, values: object) -> tuple[int, ...]:
        if not isinstance(values, list | tuple) or not values:
            raise BadInput(
                f"the prompt lengths are {short(values)}; they must be a list, not empty"
            )
        return tuple(positive_int(v, f"prompt length number {i}") for i, v in enumerate(values, 1))

    @property
    def average(self) -> float:
        """Average prompt length of the whole list in tokens."""
        return fmean(self.lengths)

    @property
    def longest(self) -> int:
        """Longest prompt of the whole list in tokens."""
        return max(self.lengths)

    def sample(self, n: int) -> tuple[int, ...]:
        """Prompt lengths in tokens of `n` requests."""
        return tuple(islice(cycle(self.lengths), n))


PromptLengths = Annotated[Fixed | Spread | Listed, Field(discriminator="kind")]


@lru_cache(maxsize=32)
def _spread(average: float, longest: int, shortest: int, n: int) -> tuple[int, ...]:
    total = round(n * average)
    quantiles = (np.arange(n) + 0.5) / n
    if total < longest + (n - 1) * shortest:
        return _integers(quantiles, total, longest, shortest)
    return (*_integers(quantiles[:-1], total - longest, longest, shortest), longest)


def _integers(
    quantiles: npt.NDArray[np.float64], total: int, longest: int, shortest: int
) -> tuple[int, ...]:
    """Whole lengths at these quantiles, `total` tokens in sum."""
    count, reach = len(quantiles), longest - shortest
    excess = total - count * shortest
    if excess in (0, count * reach):
        return (shortest if excess == 0 else longest,) * count

    def surplus(k: float) -> float:
        return float(reach * _truncated_exponential(quantiles, k).sum() - excess)

    bound = 2.0 * count * reach  # at +-bound the sum is less than 1 token from its end
    k = _root(surplus, -bound, bound)
    exact = shortest + reach * _truncated_exponential(quantiles, k)
    whole = np.floor(exact).astype(np.int64)
    upwards = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[upwards] += 1
    return tuple(np.sort(whole).tolist())


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function reaches 0, by halving the interval as far as numbers go.

    (`scipy.optimize` has the like, but takes longer to import than a simulation takes.)
    """
    while high - low > NARROW and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


def _truncated_exponential(q: npt.NDArray[np.float64], k: float) -> npt.NDArray[np.float64]:
    """Quantiles `q` of the density proportional to exp(-k x) on [0, 1]."""
    if k == 0:
        return q
    if k < 0:
        return 1.0 - _truncated_exponential(1.0 - q, -k)
    quantiles: npt.NDArray[np.float64] = -np.log1p(q * np.expm1(-k)) / k
    return quantiles
