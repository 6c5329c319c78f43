"""Angular frequencies of the rotary position embedding, as transformers computes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from schedules.errors import BadInput
from schedules.validated import shown

FIXED_KINDS = ("linear", "llama3", "yarn")
"""Scaled variants whose frequencies do not depend on the length that is running."""


class Rope(NamedTuple):
    """Frequencies in radians per position, one for each of head_dim / 2 pairs of elements; cosine
    and sine are multiplied by `scaling`."""

    frequencies: tuple[float, ...]
    scaling: float = 1.0


NO_ROPE = Rope(())
"""Of models that know positions otherwise."""


def default_rope(theta: float, head_dim: int) -> Rope:
    """The unscaled embedding (RoFormer, arXiv 2104.09864, section 3.2.2).

    >>> default_rope(10000.0, 4).frequencies[0]
    1.0
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return Rope(tuple((1.0 / theta**exponents).tolist()))


def rope_of(config: Any, head_dim: int, where: str) -> Rope:
    """The rotary embedding of a transformers config.

    Raises `BadInput` for a variant whose frequencies depend on the running length (`dynamic`,
    `longrope`), an unknown one, one that rotates a part of each head, and wrong parameters.
    """
    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "one per kind of layer")
    if kind == "default":
        return default_rope(parameters["rope_theta"], head_dim)
    if kind not in FIXED_KINDS:
        raise BadInput(
            f"{where}: rope_type is {shown(kind)}; it must be default, {', '.join(FIXED_KINDS)},"
            " whose frequencies do not depend on the running length"
        )
    if getattr(config, "head_dim", None) is None:
        config.head_dim = head_dim  # yarn's function does not derive it
    try:
        frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(
            f"{where}: rope_parameters of rope_type {kind} are wrong ({error})"
        ) from None
    if len(frequencies) * 2 != head_dim:
        raise BadInput(
            f"{where}: partial_rotary_factor rotates {2 * len(frequencies)} of {head_dim} elements"
            " of a head; it must be 1"
        )
    return Rope(tuple(frequencies.tolist()), float(scaling))
