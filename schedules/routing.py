"""Routing: which experts each token takes."""

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import bdtrc

from schedules.task import Task


class Routing(BaseModel):
    """Uniform routing: each token takes `top_k` distinct experts, all sets equally likely.

    Parameters
    ----------
    kind: the distribution.
    seed: of the drawn expert ids; the expected counts do not depend on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["uniform"] = "uniform"
    seed: Annotated[int, Field(ge=0)] = 0

    def expected_distinct(self, tokens: float, n_experts: int, top_k: int) -> float:
        """Expected number of experts that at least one of `tokens` tokens takes.

        An expert is missed by one token with probability 1 - k/E, by n independent tokens with
        (1 - k/E)^n, so E (1 - (1 - k/E)^n) experts are touched.

        >>> Routing().expected_distinct(1, 8, 2)
        2.0
        >>> round(Routing().expected_distinct(36, 8, 2), 3)
        8.0
        """
        if n_experts <= 1:
            return 1.0
        return float(n_experts * (1.0 - (1.0 - top_k / n_experts) ** tokens))

    def expected_rows(self, tokens: float, n_experts: int, top_k: int, tile: int) -> float:
        """Expected rows that a grouped GEMM computes, each expert's tokens padded to whole tiles.

        An expert gets X ~ Binomial(tokens, k/E) of the tokens; it needs ceil(X / tile) tiles, and
        E[ceil(X / tile)] = sum over i >= 0 of P(X > i tile).

        >>> Routing().expected_rows(36, 8, 2, tile=1)
        72.0
        >>> round(Routing().expected_rows(36, 8, 2, tile=64))
        512
        """
        if tile == 1 or n_experts == 1:
            return float(tokens * top_k)
        return n_experts * tile * _expected_tiles(round(tokens), top_k / n_experts, tile)

    def expert_ids(
        self, tokens: int, n_experts: int, top_k: int, layer: int, step: int, micro_batch: int = 0
    ) -> NDArray[np.int64]:
        """Drawn expert ids, shape (tokens, top_k), without repetition within a token."""
        rng = np.random.default_rng([self.seed, step, layer, micro_batch])
        order = np.argsort(rng.random((tokens, n_experts)), axis=1)
        return order[:, :top_k].astype(np.int64)

    def trace(self, tokens: int, n_experts: int, top_k: int, gate: Task) -> NDArray[np.int64]:
        """Expert ids chosen by an issued gate task, as `Issuer.routing` asks for them."""
        return self.expert_ids(
            tokens, n_experts, top_k, max(gate.layer, 0), gate.step, max(gate.micro_batch, 0)
        )


@lru_cache(maxsize=4096)
def _expected_tiles(tokens: int, probability: float, tile: int) -> float:
    """E[ceil(X / tile)] for X ~ Binomial(tokens, probability)."""
    thresholds = np.arange(0, tokens, tile, dtype=np.int64)
    return float(np.sum(bdtrc(thresholds, tokens, probability)))
