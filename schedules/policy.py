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
