"""Modifiers: what is changed of a model, or of where it lies, whatever the schedule.

They change the question, not the schedules: fewer bits change how many bytes everything has,
pruning how many experts there are, skipping which of them tokens take, and an SSD where weights
come from.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schedules.errors import BadInput
from schedules.model import ModelSpec
from schedules.quantisation import GROUP, Bits, Quantisation
from schedules.validated import shown, validated

WIDTHS: Mapping[str, Bits] = {"int8": 8, "int4": 4}


def _bits(value: object) -> object:
    if isinstance(value, str) and value in WIDTHS:
        return WIDTHS[value]
    if value is None or (isinstance(value, int) and value in WIDTHS.values()):
        return value
    raise ValueError(f"{shown(value)} is neither int8 nor int4")


Width = Annotated[Bits | None, BeforeValidator(_bits)]


class Modifiers(BaseModel):
    """What is changed; by default nothing.

    Parameters
    ----------
    weights: bits of the matrices of all layers, `int8` or `int4`, group-wise (FineQuant, arXiv
        2308.09723); `experts` of the routed experts alone. Routers, norms, embeddings and the
        output head stay as they are.
    kv: bits of the cached keys and values.
    group: elements of a matrix row, or of a head's cache, that share a scale.
    fused: kernels convert packed weights and cache as they read them; otherwise they are written
        out in the model's format before each use.
    keep: experts of each layer that are left, of the n that there are (Not All Experts Are Equal,
        arXiv 2402.14800, section 3.2).
    skip: a token drops an expert whose gate weight is below this share of its first one's (the same
        paper, section 3.3).
    ssd: weights of host memory lie on a disk, and are read from it before each use: `serial`, by
        the thread that then copies them, or `overlapped`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Width = None
    experts: Width = None
    kv: Width = None
    group: Annotated[int, Field(ge=8, le=4096)] = GROUP
    fused: bool = False
    keep: Annotated[int, Field(ge=1)] | None = None
    skip: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    ssd: Literal["serial", "overlapped"] | None = None

    @model_validator(mode="after")
    def _about_something(self) -> Self:
        if not (self.weights or self.experts or self.kv):
            for name in ("group", "fused"):
                if name in self.model_fields_set:
                    raise ValueError(f"{name} is given, but nothing is quantised")
        return self

    def applied(self, model: ModelSpec) -> ModelSpec:
        """The model as modified. Raises `BadInput` for what it has no experts for."""
        changes: dict[str, Any] = {}
        if self.weights or self.experts or self.kv:
            changes["quantisation"] = Quantisation(
                experts=self.experts or self.weights,
                dense=self.weights,
                kv=self.kv,
                group=self.group,
                fused=self.fused,
            )
        if self.keep is not None:
            changes |= _pruned(model, self.keep)
        if self.skip:
            if model.top_k == 1:
                raise BadInput(
                    f"modifier skip = {self.skip:g}: a token of '{model.name}' takes one expert, "
                    "and the first is never skipped"
                )
            changes["skip_below"] = self.skip
        if not changes:
            return model
        return validated(ModelSpec, dict(model) | changes, f"{model.name} as modified")

    def told(self) -> dict[str, Any]:
        """What is changed, as plain values that `make_modifiers` takes."""
        names = {bits: name for name, bits in WIDTHS.items()}
        values = self.model_dump(exclude_defaults=True)
        return {
            key: names[value] if key in ("weights", "experts", "kv") else value
            for key, value in values.items()
        }


def _pruned(model: ModelSpec, keep: int) -> dict[str, Any]:
    if model.n_experts == 1:
        raise BadInput(f"modifier keep = {keep}: '{model.name}' has no experts; leave it out")
    least = max(2, model.top_k)  # a single expert would leave its router nothing to decide
    if not least <= keep <= model.n_experts:
        raise BadInput(
            f"modifier keep = {keep}: '{model.name}' has {model.n_experts} experts in a layer, of "
            f"which a token takes {model.top_k}; keep {least} to {model.n_experts}"
        )
    source = f"{model.source}; {keep} of {model.n_experts} experts kept"
    return {"n_experts": keep, "published_parameters": None, "source": source}


def make_modifiers(values: Mapping[str, Any] | Modifiers | None) -> Modifiers:
    """Modifiers from plain values. Raises `BadInput`, naming the key, its value and what is right.

    >>> make_modifiers({"experts": "int4", "skip": 0.5}).told()
    {'experts': 'int4', 'skip': 0.5}
    """
    if isinstance(values, Modifiers):
        return values
    return validated(Modifiers, values or {}, "modifiers")


def parse_modifiers(items: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words of the command line as a mapping; `make_modifiers` checks them."""
    values: dict[str, str] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise BadInput(f"modifier '{item}' is not of the form KEY=VALUE, as in experts=int4")
        if key in values:
            raise BadInput(f"modifier '{key}' is given twice")
        values[key] = value
    return values
