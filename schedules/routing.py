"""Routing: which experts each token takes."""

from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from schedules import routing_expected
from schedules.model_layers import Stack
from schedules.routing_chains import chains
from schedules.routing_draws import draw_uniform
from schedules.routing_recorded import recording
from schedules.routing_strengths import Exponent, Share, Strengths, check_mixture
from schedules.task import Task

Kind = Literal["uniform", "zipf", "markov", "recorded"]
NEEDS: dict[Kind, tuple[str, ...]] = {
    "uniform": (),
    "zipf": ("exponent",),
    "markov": ("exponent", "token_correlation", "layer_correlation"),
    "recorded": ("path",),
}
TAKES: dict[Kind, tuple[str, ...]] = {
    "uniform": (),
    "zipf": ("active", "encoder"),
    "markov": ("active", "encoder"),
    "recorded": ("sha256",),
}


class Routing(BaseModel):
    """Which experts the tokens take; by default `top_k` distinct ones, all sets equally likely.

    Parameters
    ----------
    kind: `uniform`; `zipf`, each layer with its own popular experts; `markov`, correlated over
        tokens and layers as well; `recorded`, as a run has left it in its `routing.parquet`.
    seed: of the drawn expert ids, and of the choice among recorded sequences.
    exponent, token_correlation, layer_correlation, active: see `Strengths`.
    encoder: strengths of the encoder where they differ from the decoder's.
    path, sha256: the recorded file, and what its content must hash to (None: anything).
    name, source: of a preset.

    Raises `ValidationError` where a kind lacks a value or has no use for one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "uniform"
    seed: Annotated[int, Field(ge=0)] = 0
    exponent: Exponent | None = None
    token_correlation: Share | None = None
    layer_correlation: Share | None = None
    active: Annotated[int, Field(ge=1)] | None = None
    encoder: Strengths | None = None
    path: str | None = None
    sha256: str | None = None
    name: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for key in NEEDS[self.kind]:
            if getattr(self, key) is None:
                raise ValueError(f"kind '{self.kind}' needs {key}")
        every = {key for keys in (*NEEDS.values(), *TAKES.values()) for key in keys}
        for key in sorted(every - {*NEEDS[self.kind], *TAKES[self.kind]}):
            if getattr(self, key) is not None:
                raise ValueError(f"kind '{self.kind}' has no use for {key}")
        check_mixture(self.token_correlation or 0.0, self.layer_correlation or 0.0)
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    def strengths(self, stack: Stack) -> Strengths:
        """Skew and correlations of drawn routing in a stack."""
        if stack == "encoder" and self.encoder is not None:
            return self.encoder
        return Strengths(
            exponent=self.exponent or 0.0,
            token_correlation=self.token_correlation or 0.0,
            layer_correlation=self.layer_correlation or 0.0,
            active=self.active,
        )

    # -- what a batch touches on average ---------------------------------------------------------

    def expected_distinct(
        self,
        tokens: float,
        n_experts: int,
        top_k: int,
        stack: Stack = "decoder",
        layer: int | None = None,
        kept: float = 1.0,
    ) -> float:
        """Expected number of experts that at least one of `tokens` tokens takes.

        `kept`: share of the choices that is not skipped, whichever expert they name.

        An expert is missed by one token with probability 1 - p, by n independent tokens with
        (1 - p)^n; summed over the experts, n tokens touch sum of 1 - (1 - p)^n. With uniform
        routing p = k/E. Tokens of one decode step are independent, being of different sequences;
        for the tokens of a decoder's prompts, which repeat one another where routing is correlated,
        the sum is too high. Recorded routing takes p from the shares in `layer` (None: mean over
        the layers).

        >>> Routing().expected_distinct(1, 8, 2)
        2.0
        >>> round(Routing().expected_distinct(36, 8, 2), 3)
        8.0
        >>> round(Routing(kind="zipf", exponent=1.2).expected_distinct(36, 8, 2), 3)
        7.916
        """
        if n_experts <= 1:
            return 1.0
        if self.kind == "uniform":
            return float(n_experts * (1.0 - (1.0 - kept * top_k / n_experts) ** tokens))
        return _distinct(self, float(tokens), n_experts, top_k, stack, layer, kept)

    def expected_rows(
        self,
        tokens: float,
        n_experts: int,
        top_k: int,
        tile: int,
        stack: Stack = "decoder",
        layer: int | None = None,
        kept: float = 1.0,
    ) -> float:
        """Expected rows that a grouped GEMM computes, each expert's tokens padded to whole tiles.

        An expert gets X ~ Binomial(tokens, p) of the tokens; it needs ceil(X / tile) tiles, and
        E[ceil(X / tile)] = sum over i >= 0 of P(X > i tile). p and `kept` as for
        `expected_distinct`.

        >>> Routing().expected_rows(36, 8, 2, tile=1)
        72.0
        >>> round(Routing().expected_rows(36, 8, 2, tile=64))
        512
        """
        if tile == 1 or n_experts == 1:
            return float(tokens * top_k * kept)
        if self.kind == "uniform":
            p = kept * top_k / n_experts
            return n_experts * tile * _expected_tiles(round(tokens), p, tile)
        return _rows(self, round(tokens), n_experts, top_k, tile, stack, layer, kept)

    def inclusion(
        self, n_experts: int, top_k: int, stack: Stack = "decoder", layer: int | None = None
    ) -> NDArray[np.float64]:
        """Probability that a token takes each expert; rows are layers, shape (layers, n_experts).

        Experts of drawn routing are in the order of their popularity, and one row is for all
        layers; for recorded routing the rows are those of `layer`, or of all layers.
        """
        if self.kind == "recorded":
            assert self.path is not None
            return recording(self.path, self.sha256).shares(n_experts, top_k, stack, layer)
        return routing_expected.inclusion(self.strengths(stack), n_experts, top_k)[None]

    # -- what is drawn ---------------------------------------------------------------------------

    def expert_ids(
        self, tokens: int, n_experts: int, top_k: int, layer: int, step: int, micro_batch: int = 0
    ) -> NDArray[np.int64]:
        """Expert ids of a batch of no workload, shape (tokens, top_k), each token's distinct.

        The tokens of `step` 0 are a prompt, those of a decode step (1..) are of one sequence each.
        A workload's own prompts are those of `routing_trace`.
        """
        if self.kind == "uniform":
            rng = np.random.default_rng([self.seed, step, layer, micro_batch])
            return draw_uniform(rng, tokens, n_experts, top_k)
        every = np.arange(tokens)
        if step == 0:
            sequences, positions = np.full(tokens, micro_batch), every
        else:
            sequences, positions = micro_batch * tokens + every, np.full(tokens, step - 1)
        if self.kind == "recorded":
            assert self.path is not None
            found = recording(self.path, self.sha256)
            found.check(n_experts, top_k)
            picks = found.drawn(self.seed, int(sequences.max(initial=0)) + 1)
            return found.ids(layer, step == 0, picks[sequences], positions, positions)
        label = "prompt" if step == 0 else "decoder"
        drawn = chains(self.strengths("decoder"), self.seed, label, n_experts, top_k)
        return drawn.ids(layer, sequences, positions)

    def trace(self, tokens: int, n_experts: int, top_k: int, gate: Task) -> NDArray[np.int64]:
        """Expert ids chosen by an issued gate task, of a batch of no workload."""
        return self.expert_ids(
            tokens, n_experts, top_k, max(gate.layer, 0), gate.step, max(gate.micro_batch, 0)
        )


@lru_cache(maxsize=4096)
def _expected_tiles(tokens: int, probability: float, tile: int) -> float:
    """E[ceil(X / tile)] for X ~ Binomial(tokens, probability)."""
    return routing_expected.expected_tiles(tokens, probability, tile)


@lru_cache(maxsize=4096)
def _distinct(
    routing: Routing,
    tokens: float,
    n_experts: int,
    top_k: int,
    stack: Stack,
    layer: int | None,
    kept: float,
) -> float:
    drawn = _prompt_loads(routing, round(tokens), n_experts, top_k, stack)
    if drawn is not None:
        return float((1 - (1 - kept) ** drawn).sum(axis=1).mean())
    rows = routing.inclusion(n_experts, top_k, stack, layer) * kept
    return float(np.mean([routing_expected.expected_distinct(p, tokens) for p in rows]))


@lru_cache(maxsize=4096)
def _rows(
    routing: Routing,
    tokens: int,
    n_experts: int,
    top_k: int,
    tile: int,
    stack: Stack,
    layer: int | None,
    kept: float,
) -> float:
    drawn = _prompt_loads(routing, tokens, n_experts, top_k, stack)
    if drawn is not None:
        return float(np.ceil(drawn * kept / tile).sum(axis=1).mean() * tile)
    rows = routing.inclusion(n_experts, top_k, stack, layer) * kept
    return float(np.mean([routing_expected.expected_rows(p, tokens, tile) for p in rows]))


def _prompt_loads(
    routing: Routing, tokens: int, n_experts: int, top_k: int, stack: Stack
) -> NDArray[np.int64] | None:
    """Tokens of each expert in drawn prompts; None where the tokens are independent.

    An encoder reads whole prompts, so its tokens repeat one another; they count as one prompt.
    """
    if stack == "decoder" or routing.kind != "markov":
        return None
    strengths = routing.strengths(stack)
    if strengths.token_correlation == 0 or tokens == 0:
        return None
    return routing_expected.prompt_loads(strengths, n_experts, top_k, tokens)
