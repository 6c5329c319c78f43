"""Simulate one schedule, or compare several: the library's front door."""

from collections.abc import Iterable, Mapping
from typing import Any

from schedules.errors import BadInput, Infeasible
from schedules.graph import RecordingIssuer
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule, find_schedule, schedules
from sim.comparison import Comparison, Unfeasible
from sim.cost import CostModel, Roofline
from sim.generation import Generation
from sim.given import given_policy
from sim.question import Question, asking
from sim.result import Result
from sim.scenario import Scenario, place
from sim.search import best_policy

__all__ = [
    "Comparison",
    "Question",
    "Unfeasible",
    "compare",
    "compare_in",
    "given_policy",
    "run",
    "simulate",
]


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


@asking(Question)
def simulate(schedule: str, asked: Question) -> Result:
    """Simulate one schedule over a whole generation.

    Parameters
    ----------
    schedule: name of a schedule.
    model, hardware, workload, ..., engine: as of `sim.question.Question`, which explains them.

    Raises `BadInput` for what is unknown or impossible, `Infeasible` for what does not fit.

    >>> r = simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 504, 36)
    >>> r.feasible, r.tasks
    (True, 23749)
    """
    return run(asked.scenario(), find_schedule(schedule), asked.given())


@asking(Question)
def compare(names: Iterable[str] | None, asked: Question) -> Comparison:
    """Simulate several schedules (None: all) on the same scenario; parameters as of `simulate`.

    A policy value goes to those schedules that have a use for it; one batch for all is one
    micro-batch where a schedule cannot split it. Schedules that do not fit, or cannot follow what
    was asked for as others can, are in the results, with the reason.
    """
    return compare_in(asked.scenario(), names, asked.given())


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
