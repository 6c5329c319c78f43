"""The policy: how a schedule splits the batch and where it keeps things."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from schedules.errors import BadInput, suggest

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Switch = Annotated[int, Field(ge=0, le=1)]


class Policy(BaseModel):
    """MoE-Lightning's policy (arXiv 2411.11217, table 2), with FlexGen's placement of activations.

    Parameters
    ----------
    N: batch size, sequences.
    mu: micro-batch size, sequences; the batch is split into ceil(N / mu) micro-batches.
    A_g: attention core on the GPU (1) or the CPU (0).
    F_g: FFN on the GPU (1); no throughput schedule computes it on the CPU.
    r_w: share of the weights held on the GPU (of the expert weights for CGOPipe and FastDecode*).
    r_c: share of the KV cache held on the GPU.
    r_h: share of the hidden states held on the GPU between layers (FlexGen).
    pinned: weights and KV cache lie in page-locked host memory; otherwise each copy to the GPU
        passes through pinned staging (or the driver's) first. None: the schedule's own rule.
    sync: the host waits for every FFN with experts before it goes on, as the system of Pre-gated
        MoE does. None: the schedule's own rule.
    level: how many blocks with experts a pre-gate looks ahead (its activation level), or a
        prediction (HOBBIT, MoE-Infinity).
    cache: which experts leave the expert cache: lru, lfu, fifo, lifo, hobbit, edgemoe or
        moe-infinity.
    cache_ratio: its capacity, as a share of all the decoder's experts; 0: there is none, or, where
        experts are prefetched into it (HOBBIT, EdgeMoE, MoE-Infinity), the least that it needs.
    expert_slots: experts that arrive one by one have so many places on the GPU; 0: the schedule's
        own rule.
    preload: experts that EdgeMoE preloads for each token.
    per_layer: SiDA loads a layer's experts when its turn comes, not all before the batch.
    accuracy: share of the experts that a predictor names rightly. None: the schedule's own rule.
    experts_on_gpu: share of all experts that stay on the GPU, the popular ones (Fiddler). None: as
        many as fit.
    cpu_tokens: the CPU computes an absent expert that at most so many tokens take (Fiddler). None:
        the schedule's own rule.
    deferred: of each token's experts, how many reach the next layer only (KTransformers).
    values: of a memory layer's table, how many a token takes (UltraMem); by default those of the
        paper's largest model, 42 for each of two heads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    N: Count = Field(validation_alias=AliasChoices("N", "batch", "batch_size"))
    mu: Count = Field(validation_alias=AliasChoices("mu", "micro_batch", "micro_batch_size"))
    A_g: Switch = Field(0, validation_alias=AliasChoices("A_g", "attention_on_gpu"))
    F_g: Switch = Field(1, validation_alias=AliasChoices("F_g", "ffn_on_gpu"))
    r_w: Share = Field(0.0, validation_alias=AliasChoices("r_w", "weights_on_gpu"))
    r_c: Share = Field(0.0, validation_alias=AliasChoices("r_c", "cache_on_gpu"))
    r_h: Share = Field(0.0, validation_alias=AliasChoices("r_h", "activations_on_gpu"))
    pinned: bool | None = None
    sync: bool | None = None
    level: Annotated[int, Field(ge=1, le=3)] = 1
    cache: str = "lru"
    cache_ratio: Share = 0.0
    expert_slots: Annotated[int, Field(ge=0)] = 0
    preload: Annotated[int, Field(ge=1, le=3)] = 1
    per_layer: bool = False
    accuracy: Share | None = None
    experts_on_gpu: Share | None = None
    cpu_tokens: Annotated[int, Field(ge=0)] | None = None
    deferred: Annotated[int, Field(ge=0)] = 0
    values: Count = 84

    @property
    def n_micro_batches(self) -> int:
        """Number of micro-batches that hold the batch."""
        return -(-self.N // self.mu)


def make_policy(values: Mapping[str, Any]) -> Policy:
    """A policy from plain values. Raises `BadInput`, naming the key, its value and what is right.

    >>> make_policy({"N": 504, "mu": 36}).n_micro_batches
    14
    """
    try:
        policy = Policy.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "policy"
        if first["type"] == "extra_forbidden":
            raise BadInput(
                f"policy: unknown key '{key}'{suggest(key, Policy.model_fields)}"
            ) from None
        if first["type"] == "missing":
            raise BadInput(f"policy: '{key}' is missing; give N and mu (sequences)") from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise BadInput(f"policy: {key} = {first['input']!r}: {message}") from None
    if policy.mu > policy.N:
        raise BadInput(
            f"policy: micro-batch mu = {policy.mu} is larger than the batch N = {policy.N}"
        )
    return policy


def parse_assignments(items: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words of the command line as a mapping; `make_policy` checks keys and values."""
    values: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise BadInput(f"policy: '{item}' is not of the form KEY=VALUE, as in r_w=0.1")
        if key.strip() in values:
            raise BadInput(f"policy: '{key.strip()}' is given twice")
        values[key.strip()] = value.strip()
    return values
