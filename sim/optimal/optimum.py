"""What the search for the best order yields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schedules.policy import Policy
from schedules.timeline import Timeline
from sim.optimal.changes import Change
from sim.scenario import Scenario


@dataclass(frozen=True, eq=False)
class Optimum:
    """How far a schedule's order is from the best of the same tasks.

    Parameters
    ----------
    form: `makespan` of a decode step of so many layers, or `period` of so many layers.
    schedule_s: of the schedule's order; its waits count, what issuing costs does not.
    issued_s: makespan with the costs of issuing; None for a period.
    best_s: of the best order found. bound_s: no order is shorter. bounds_s: simple bounds.
    status: `optimal` when it is proved that no order is better (durations rounded down to
        multiples of 1/100,000 of the longest), else `bounded`.
    changes: where the better order differs, at most a few for each stream.
    solve_s: seconds that it took. timelines: of both orders, the schedule's first.
    """

    scenario: Scenario
    policy: Policy
    schedule: str
    form: str
    layers: int
    tasks: int
    step: int
    schedule_s: float
    issued_s: float | None
    best_s: float
    bound_s: float
    bounds_s: Mapping[str, float]
    status: str
    changes: tuple[Change, ...]
    solve_s: float
    timelines: tuple[Timeline, Timeline] = field(repr=False)

    @property
    def gap(self) -> float:
        """How much longer the schedule's order takes than the best one found, as a share of it."""
        return self.schedule_s / self.best_s - 1

    @property
    def bound_gap(self) -> float:
        """How much longer the best order found takes than the bound, as a share of it."""
        return self.best_s / self.bound_s - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        scenario = self.scenario
        return {
            "schedule": self.schedule,
            "model": scenario.model.name,
            "hardware": scenario.hardware.name,
            "workload": scenario.workload.name,
            "policy": self.policy.model_dump(),
            "form": self.form,
            "layers": self.layers,
            "micro_batches": self.policy.n_micro_batches,
            "step": self.step,
            "tasks": self.tasks,
            "schedule_s": self.schedule_s,
            "issued_s": self.issued_s,
            "best_s": self.best_s,
            "bound_s": self.bound_s,
            "bounds_s": dict(self.bounds_s),
            "gap": self.gap,
            "bound_gap": self.bound_gap,
            "status": self.status,
            "changes": [change._asdict() for change in self.changes],
            "solve_s": self.solve_s,
        }
