"""Simulate one schedule, or compare several: the library's front door."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices

from schedules.errors import BadInput, Infeasible
from schedules.graph import RecordingIssuer
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.modifiers import Modifiers, make_modifiers
from schedules.policy import Policy, make_policy
from schedules.routing import Routing
from schedules.routing_presets import load_routing
from schedules.routing_trace import check_routing
from schedules.schedule import Schedule, find_schedule, schedules
from schedules.validated import validated
from schedules.workload import Workload
from schedules.workload_presets import load_workload
from sim.cost import CostModel, Roofline
from sim.engines import engine as find_engine
from sim.generation import Generation
from sim.hardware import load_hardware
from sim.hardware_model import Hardware
from sim.result import Result
from sim.scenario import Scenario, place
from sim.search import best_policy

if TYPE_CHECKING:
    import pandas as pd  # slow to import; who simulates without a report needs none

MOST_SEQUENCES = 100_000  # of a batch: twenty times the largest published one
MOST_MICRO_BATCHES = 10_000  # of a batch: each adds some tasks to every layer of every step


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

    def to_pandas(self) -> "pd.DataFrame":
        """One row per schedule."""
        import pandas as pd

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
    routing: str | Path | Routing = "uniform",
    modifiers: Mapping[str, Any] | Modifiers | None = None,
    engine: str = "compiled",
) -> Scenario:
    """A scenario from names, paths or objects. Raises `BadInput` for anything unknown."""
    changed = make_modifiers(modifiers)
    if not isinstance(model, ModelSpec):
        model = load_model(model)
    if not isinstance(hardware, Hardware):
        hardware = load_hardware(hardware)
    if isinstance(workload, Workload):
        workload = _changed(workload, {"gen_len": gen_len, "padded": padded})
    else:
        workload = load_workload(workload, gen_len=gen_len, padded=padded)
    model = changed.applied(model)
    found = _routing(routing, seed, model)
    find_engine(engine)
    return Scenario(model, hardware, workload, gpus, found, modifiers=changed, engine=engine)


def _changed(workload: Workload, changes: Mapping[str, Any]) -> Workload:
    given = {key: value for key, value in changes.items() if value is not None}
    return validated(Workload, dict(workload) | given, f"workload {workload.name}")


def _routing(routing: str | Path | Routing, seed: int, model: ModelSpec) -> Routing:
    if not isinstance(routing, Routing):
        routing = load_routing(routing, seed)
    elif seed:
        raise BadInput(f"seed {seed} is given with a routing that has its own, {routing.seed}")
    check_routing(routing, model)
    return routing


def run(
    scenario: Scenario,
    kind: type[Schedule],
    policy: Policy | Mapping[str, Any] | None = None,
    cost: CostModel | None = None,
    recorder: type[RecordingIssuer] | None = None,
) -> Result:
    """Simulate a schedule; what the policy leaves open (all of it, or N, or mu) is searched.

    `recorder` takes the tasks; None: as they are issued.
    """

    def costs(gpus: int) -> CostModel:
        return cost or Roofline(scenario.hardware, gpus)

    if not isinstance(policy, Policy):
        given = given_policy(None, None, policy)
        if {"N", "mu"} <= given.keys():
            policy = make_policy(given)
        else:
            policy = best_policy(scenario, kind, costs, given)
    schedule = place(scenario, kind, policy, recorder)
    found = Generation(schedule, costs(scenario.gpus_for(kind)), scenario.engine)
    return Result(scenario, policy, found)


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
    routing: str | Path | Routing = "uniform",
    modifiers: Mapping[str, Any] | Modifiers | None = None,
    engine: str = "compiled",
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
    routing: which experts the tokens take: a preset's name, `zipf:1.2`, the path of a TOML file or
        of a recorded `routing.parquet`, or a `Routing`, which has a seed of its own.
    modifiers: what is changed of the model, or of where it lies, as `{"experts": "int4"}`; see
        `schedules.modifiers.Modifiers`.
    engine: `compiled`, or `simpy` for the reference.

    Raises `BadInput` for what is unknown or impossible, `Infeasible` for what does not fit.

    >>> r = simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 504, 36)
    >>> r.feasible, r.tasks
    (True, 23749)
    """
    scenario = make_scenario(
        model, hardware, workload, gen_len, padded, gpus, seed, routing, modifiers, engine
    )
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
    routing: str | Path | Routing = "uniform",
    modifiers: Mapping[str, Any] | Modifiers | None = None,
    engine: str = "compiled",
) -> Comparison:
    """Simulate several schedules (None: all) on the same scenario; see `simulate`.

    A policy value goes to those schedules that have a use for it; one batch for all is one
    micro-batch where a schedule cannot split it. Schedules that do not fit, or cannot follow what
    was asked for as others can, are in the results, with the reason.
    """
    scenario = make_scenario(
        model, hardware, workload, gen_len, padded, gpus, seed, routing, modifiers, engine
    )
    return compare_in(scenario, names, given_policy(batch, micro_batch, policy))


def compare_in(
    scenario: Scenario, names: Iterable[str] | None, given: Mapping[str, Any]
) -> Comparison:
    """`compare` in a scenario, with policy values under their standard names."""
    wanted = [names] if isinstance(names, str) else names
    kinds = [find_schedule(name) for name in (schedules() if wanted is None else wanted)]
    if not kinds:
        raise BadInput("no schedule to compare; name at least one")
    unused = set(given) - {"N", "mu"} - {knob for kind in kinds for knob in kind.knobs}
    if unused:
        make_policy({"N": 1, "mu": 1} | {key: given[key] for key in unused})  # says what is unknown
        raise BadInput(f"policy: none of the schedules has a use for {', '.join(sorted(unused))}")
    return Comparison(tuple(_attempts(scenario, kinds, given)))


def _attempts(
    scenario: Scenario, kinds: Iterable[type[Schedule]], given: Mapping[str, Any]
) -> list[Result | Unfeasible]:
    """The results in order. Raises `BadInput` when no schedule can follow what was asked for."""
    results: list[Result | Unfeasible] = []
    wrong: list[BadInput] = []
    for kind in kinds:
        try:
            results.append(run(scenario, kind, _meant_for(kind, given)))
        except (BadInput, Infeasible) as error:
            results.append(Unfeasible(kind.name, str(error), scenario))
            wrong += [error] if isinstance(error, BadInput) else []
    if len(wrong) == len(results):
        raise wrong[0]
    return results


def _meant_for(kind: type[Schedule], given: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in given.items() if key in kind.knobs | {"N", "mu"}}
    if kind.one_batch and "N" in known:
        known["mu"] = known["N"]
    return known


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
