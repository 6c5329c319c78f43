"""Simulate one schedule, or compare several: the library's front door."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from schedules.errors import BadInput, Infeasible
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.policy import Policy, make_policy
from schedules.routing import Routing
from schedules.schedule import Schedule, find_schedule, schedules
from schedules.workload import Workload
from schedules.workload_presets import load_workload
from sim.cost import CostModel, Roofline
from sim.generation import Generation
from sim.hardware import load_hardware
from sim.hardware_model import Hardware
from sim.result import Result
from sim.scenario import Scenario, place
from sim.search import best_policy


@dataclass(frozen=True)
class Unfeasible:
    """A schedule that cannot run, and why."""

    schedule: str
    reason: str
    scenario: Scenario = field(repr=False)
    feasible: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values: names, `feasible` false, and the reason."""
        return {
            "schedule": self.schedule,
            "model": self.scenario.model.name,
            "hardware": self.scenario.hardware.name,
            "workload": self.scenario.workload.name,
            "feasible": False,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Comparison:
    """Several schedules on the same model, machine and workload."""

    results: tuple[Result | Unfeasible, ...]

    @property
    def feasible(self) -> tuple[Result, ...]:
        """Those that can run, fastest first."""
        runs = [r for r in self.results if isinstance(r, Result)]
        return tuple(sorted(runs, key=lambda r: -r.throughput_tok_s))

    @property
    def winner(self) -> str | None:
        """The schedule with the highest throughput; None when none can run."""
        return self.feasible[0].schedule if self.feasible else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: all results, and the winner."""
        return {"results": [r.to_dict() for r in self.results], "winner": self.winner}

    def to_pandas(self) -> pd.DataFrame:
        """One row per schedule."""
        return pd.json_normalize([r.to_dict() for r in self.results])

    def _repr_html_(self) -> str:
        return str(self.to_pandas().T.to_html(header=False))


def make_scenario(
    model: str | Path | ModelSpec,
    hardware: str | Path | Hardware,
    workload: str | Path | Workload,
    gen_len: int | None = None,
    padded: bool | None = None,
    gpus: int | None = None,
    seed: int = 0,
) -> Scenario:
    """A scenario from names, paths or objects. Raises `BadInput` for anything unknown."""
    if not isinstance(model, ModelSpec):
        model = load_model(model)
    if not isinstance(hardware, Hardware):
        hardware = load_hardware(hardware)
    if not isinstance(workload, Workload):
        workload = load_workload(workload, gen_len=gen_len, padded=padded)
    return Scenario(model, hardware, workload, gpus, _routing(seed))


def _routing(seed: int) -> Routing:
    if seed < 0:
        raise BadInput(f"seed is {seed}; it must be >= 0")
    return Routing(seed=seed)


def run(
    scenario: Scenario,
    kind: type[Schedule],
    policy: Policy | Mapping[str, Any] | None = None,
    cost: CostModel | None = None,
) -> Result:
    """Simulate a schedule; what the policy leaves open (all of it, or N, or mu) is searched."""

    def costs(gpus: int) -> CostModel:
        return cost or Roofline(scenario.hardware, gpus)

    if not isinstance(policy, Policy):
        given = dict(policy or {})
        if {"N", "mu"} <= given.keys():
            policy = make_policy(given)
        else:
            policy = best_policy(scenario, kind, costs, given)
    schedule = place(scenario, kind, policy)
    return Result(scenario, policy, Generation(schedule, costs(scenario.gpus_for(kind))))


def simulate(
    schedule: str,
    model: str | Path | ModelSpec,
    hardware: str | Path | Hardware,
    workload: str | Path | Workload,
    gen_len: int | None = None,
    batch: int | None = None,
    micro_batch: int | None = None,
    policy: Mapping[str, Any] | None = None,
    padded: bool | None = None,
    gpus: int | None = None,
    seed: int = 0,
) -> Result:
    """Simulate one schedule over a whole generation.

    Parameters
    ----------
    schedule: name of a schedule.
    model, hardware, workload: names of presets, paths of own files, or objects.
    gen_len: tokens to generate per sequence; None: the workload's own.
    batch, micro_batch: N and mu, sequences; left out, the best feasible ones are searched.
    policy: other policy values by name, as `{"r_w": 0.1}`.
    padded: count every prompt as the longest one; None: the workload's own.
    gpus: GPUs to use; None: all that the schedule can use.
    seed: of the routing.

    Raises `BadInput` for what is unknown or impossible, `Infeasible` for what does not fit.

    >>> r = simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 504, 36)
    >>> r.feasible, r.tasks
    (True, 24162)
    """
    scenario = make_scenario(model, hardware, workload, gen_len, padded, gpus, seed)
    return run(scenario, find_schedule(schedule), given_policy(batch, micro_batch, policy))


def compare(
    names: Iterable[str] | None,
    model: str | Path | ModelSpec,
    hardware: str | Path | Hardware,
    workload: str | Path | Workload,
    gen_len: int | None = None,
    batch: int | None = None,
    micro_batch: int | None = None,
    policy: Mapping[str, Any] | None = None,
    padded: bool | None = None,
    gpus: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Simulate several schedules (None: all) on the same scenario; see `simulate`.

    A policy value goes to those schedules that have a use for it; one batch for all is one
    micro-batch where a schedule cannot split it. Schedules that do not fit are in the results,
    with the reason.
    """
    scenario = make_scenario(model, hardware, workload, gen_len, padded, gpus, seed)
    kinds = [find_schedule(name) for name in (schedules() if names is None else names)]
    if not kinds:
        raise BadInput("no schedule to compare; name at least one")
    given = given_policy(batch, micro_batch, policy)
    unused = set(given) - {"N", "mu"} - {knob for kind in kinds for knob in kind.knobs}
    if unused:
        make_policy({"N": 1, "mu": 1} | {key: given[key] for key in unused})  # says what is unknown
        raise BadInput(f"policy: none of the schedules has a use for {', '.join(sorted(unused))}")
    return Comparison(tuple(_attempt(scenario, kind, given) for kind in kinds))


def _attempt(
    scenario: Scenario, kind: type[Schedule], given: Mapping[str, Any]
) -> Result | Unfeasible:
    known = {key: value for key, value in given.items() if key in kind.knobs | {"N", "mu"}}
    if kind.one_batch and "N" in known:
        known["mu"] = known["N"]
    try:
        return run(scenario, kind, known)
    except Infeasible as error:
        return Unfeasible(kind.name, str(error), scenario)


def given_policy(
    batch: int | None, micro_batch: int | None, policy: Mapping[str, Any] | None
) -> dict[str, Any]:
    """N, mu and the other values that were given, under their standard names."""
    values: dict[str, Any] = dict(policy or {})
    for key, value, aliases in (("N", batch, NAMES_OF_N), ("mu", micro_batch, NAMES_OF_MU)):
        for alias in aliases:
            if alias in values:
                values[key] = values.pop(alias)
        if value is not None:
            values[key] = value
    _check_counts(values)
    return values


NAMES_OF_N: Sequence[str] = ("N", "batch", "batch_size")
NAMES_OF_MU: Sequence[str] = ("mu", "micro_batch", "micro_batch_size")


def _check_counts(values: Mapping[str, Any]) -> None:
    """N and mu must make sense before anything is searched."""
    batch, micro_batch = values.get("N", values.get("mu", 1)), values.get("mu", 1)
    make_policy({**values, "N": batch, "mu": micro_batch})
