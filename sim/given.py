"""Policy values as they are given: by any of their names, and within bounds."""

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices

from schedules.errors import BadInput
from schedules.policy import Policy, make_policy

MOST_SEQUENCES = 100_000  # of a batch: twenty times the largest published one
MOST_MICRO_BATCHES = 10_000  # of a batch: each adds some tasks to every layer of every step


def given_policy(
    batch: int | None, micro_batch: int | None, policy: Mapping[str, Any] | None
) -> dict[str, Any]:
    """N, mu and the other values that were given, under their standard names.

    Raises `BadInput` for what no search could make sense of.
    """
    counts = {key: n for key, n in (("N", batch), ("mu", micro_batch)) if n is not None}
    values: dict[str, Any] = {}
    for name, value in [*dict(policy or {}).items(), *counts.items()]:
        key = STANDARD_NAMES.get(name, name)
        if key in values:
            raise BadInput(f"policy: {key} is given twice, as {values[key]} and as {value}")
        values[key] = value
    _check_counts(values)
    return values


def _standard_names() -> dict[str, str]:
    """Each name of a policy value, `weights_on_gpu` as well as `r_w`, with its standard name."""
    names = {key: key for key in Policy.model_fields}
    for key, value in Policy.model_fields.items():
        if isinstance(value.validation_alias, AliasChoices):
            names |= {str(alias): key for alias in value.validation_alias.choices}
    return names


STANDARD_NAMES: Mapping[str, str] = _standard_names()


def _check_counts(values: Mapping[str, Any]) -> None:
    policy = make_policy({"N": MOST_SEQUENCES, "mu": 1} | dict(values))
    if policy.N > MOST_SEQUENCES:
        raise BadInput(f"policy: N = {policy.N}; a batch has at most {MOST_SEQUENCES:,} sequences")
    if {"N", "mu"} <= values.keys() and policy.n_micro_batches > MOST_MICRO_BATCHES:
        raise BadInput(
            f"policy: N = {policy.N} and mu = {policy.mu} make {policy.n_micro_batches:,} "
            f"micro-batches; a batch has at most {MOST_MICRO_BATCHES:,}"
        )
