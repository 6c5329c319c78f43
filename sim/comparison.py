"""Several schedules on one scenario: those that can run, and why the others cannot."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sim.result import Result
from sim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd  # slow to import; who simulates without a report needs none


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
