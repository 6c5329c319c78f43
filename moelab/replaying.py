"""`moelab replay`: both clocks side by side, for runs that have been measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moelab.run_folder import RunFolder
from reports.replay_page import Both
from runtime.batches import Batch
from schedules.result_keys import MEASURED
from schedules.timeline import Timeline
from sim.replay import Replay, replay

PHASES = ("prefill_s", "decode_s", "makespan_s")


@dataclass(frozen=True, eq=False)
class Replayed:
    """A run and its replay, batch by batch."""

    run: RunFolder
    batches: Sequence[tuple[Batch, Replay]]

    @property
    def simulated(self) -> dict[str, float]:
        """Sums over the batches, as in the result of the run."""
        return {key: sum(getattr(found, key) for _, found in self.batches) for key in PHASES}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        measured = {key: self.run.value(key) for key in PHASES}
        simulated = self.simulated
        busy_s = self.run.value("busy_s")
        return {
            "run": str(self.run.path),
            **{key: self.run.value(key) for key in ("schedule", "model", "hardware", "workload")},
            "policy": self.run.policy.model_dump(),
            "batches": len(self.batches),
            "tasks": sum(len(found.timeline) for _, found in self.batches),
            "issue_s_per_task": self.run.value(MEASURED, "issue_s_per_task"),
            "measured": measured,
            "simulated": simulated,
            "error": {key: _error(simulated[key], measured[key]) for key in PHASES},
            "busy_s": busy_s,
            "utilization": {
                clock: {stream: busy / times["makespan_s"] for stream, busy in busy_s.items()}
                for clock, times in (("measured", measured), ("simulated", simulated))
            },
            "provenance": self.run.value("provenance"),
        }

    def timeline(self) -> Timeline:
        """The simulated batches one after another, as in the run's own timeline."""
        frames, start_s = [], 0.0
        for _, found in self.batches:
            frame = found.timeline.frame
            frames.append(
                frame.assign(start_s=frame["start_s"] + start_s, end_s=frame["end_s"] + start_s)
            )
            start_s += found.makespan_s
        frame = pd.concat(frames, ignore_index=True)
        frame["task"] = np.arange(len(frame))
        first = self.batches[0][1].timeline
        return Timeline(frame, first.streams, first.name)

    def both(self) -> Both:
        """The first batch, for a page."""
        batch, found = self.batches[0]
        return Both(self.to_dict(), self.run.part(batch), found.timeline)


def replay_run(path: Path) -> Replayed:
    """Replay every batch of a run. Raises `BadInput` for what cannot be replayed."""
    run = RunFolder.read(path)
    issue_s = run.value(MEASURED, "issue_s_per_task")
    return Replayed(
        run,
        [(batch, replay(run.part(batch), run.place(batch), issue_s)) for batch in run.batches()],
    )


def _error(simulated: float, measured: float) -> float | None:
    return simulated / measured - 1 if measured else None
