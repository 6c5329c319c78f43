"""The folder of a finished run, read without the libraries that made it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from runtime.batches import Batch, policy_for, split
from schedules.errors import BadInput
from schedules.graph import RoutingTrace
from schedules.kernels import Kernels
from schedules.model import ModelSpec
from schedules.placing import Placement, place
from schedules.policy import Policy, make_policy
from schedules.result_keys import MEASURED
from schedules.schedule import Schedule, find_schedule
from schedules.task import Task
from schedules.timeline import Timeline
from schedules.validated import validated
from sim.replay import recorded_routing, recording

RESULT, TIMELINE, ROUTING, UNFINISHED = (
    "result.json",
    "timeline.parquet",
    "routing.parquet",
    "tokens.partial.jsonl",
)
PRESETS = ("provenance", "presets")


@dataclass(frozen=True)
class RunFolder:
    """A finished run, as `moelab run` has left it.

    Parameters
    ----------
    result: the content of `result.json`.
    """

    path: Path
    result: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Raises `BadInput` for anything but the finished run of one GPU."""
        file = path / RESULT
        if not file.is_file():
            raise BadInput(_why_no_run(path))
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"'{file}' cannot be read as JSON: {error}") from None
        if not (isinstance(result, dict) and isinstance(result.get(MEASURED), dict)):
            raise BadInput(f"'{file}' is not a measured result; moelab run writes one")
        run = cls(path, result)
        gpus = run.value(*PRESETS, "n_gpus")
        if gpus != 1:
            raise BadInput(
                f"the run in '{path}' used {gpus} GPUs, and its timeline holds the tasks of the "
                "first one alone; runs on one GPU can be replayed"
            )
        return run

    def value(self, *keys: str) -> Any:
        """A value of the result. Raises `BadInput` where there is none."""
        found: Any = self.result
        for key in keys:
            if not isinstance(found, Mapping) or found.get(key) is None:
                raise BadInput(
                    f"'{self.path / RESULT}' lacks {'.'.join(keys)}, which a replay needs; it is "
                    "of another version of moelab, or nothing was measured"
                )
            found = found[key]
        return found

    @cached_property
    def timeline(self) -> Timeline:
        """All batches, told apart by the column `batch`."""
        found = Timeline.from_parquet(self.path / TIMELINE)
        if "batch" not in found.frame:
            raise BadInput(f"'{self.path / TIMELINE}' has no column 'batch', as those of runs have")
        return found

    @property
    def kind(self) -> type[Schedule]:
        """The schedule."""
        return find_schedule(self.value("schedule"))

    @property
    def kernels(self) -> Kernels:
        """Which kernels ran."""
        values = self.value(*PRESETS, "kernels")
        try:
            return Kernels(**values)
        except TypeError:
            raise BadInput(
                f"'{self.path / RESULT}' has kernels of another version of moelab"
            ) from None

    @property
    def policy(self) -> Policy:
        """For the whole run."""
        return make_policy(self.value("policy"))

    def batches(self) -> list[Batch]:
        """Those that were measured; of their prompts only the lengths are known."""
        lengths = self.value(*PRESETS, "prompt_lengths")
        every = split([(0,) * n for n in lengths], self.policy.N)
        measured = {batch["first"] for batch in self.value(MEASURED, "batches")}
        found = [batch for batch in every if batch.first in measured]
        if not found:
            raise BadInput(f"in '{self.path}' nothing was measured: there is nothing to replay")
        return found

    def part(self, batch: Batch) -> Timeline:
        """The timeline of one batch, which begins at 0."""
        frame = self.timeline.frame
        rows = frame[frame["batch"] == batch.number]
        start_s = rows["start_s"].min() if len(rows) else 0.0
        rows = rows.assign(start_s=rows["start_s"] - start_s, end_s=rows["end_s"] - start_s)
        return Timeline(rows.reset_index(drop=True), self.timeline.streams, self.timeline.name)

    def place(self, batch: Batch) -> Schedule:
        """The schedule as the run placed it."""
        model = validated(
            ModelSpec, self.value(*PRESETS, "model_spec"), f"the model of '{self.path}'"
        )
        return place(
            self.kind,
            Placement(
                model=model,
                policy=policy_for(self.policy, self.kind, batch),
                lengths=tuple(map(len, batch.prompts)),
                gen_len=self.value(*PRESETS, "gen_len"),
                capacities=self.value("capacity_bytes"),
                open_issuer=recording(self._trace(batch)),
                kernels=self.kernels,
            ),
        )

    def _trace(self, batch: Batch) -> RoutingTrace:
        """What the gates chose; the file, which is large, is read when a schedule asks."""
        answer: list[RoutingTrace] = []

        def trace(gate: Task) -> NDArray[np.int64]:
            if not answer:
                answer.append(recorded_routing(self._routing(batch.number)))
            return answer[0](gate)

        return trace

    def _routing(self, batch: int) -> pd.DataFrame:
        path = self.path / ROUTING
        try:
            return pq.read_table(path, filters=[("batch", "=", batch)]).to_pandas()
        except FileNotFoundError:
            raise BadInput(
                f"'{path}' does not exist, and schedule '{self.kind.name}' moves what its gates "
                "have chosen"
            ) from None
        except (pa.ArrowException, KeyError, OSError) as error:
            raise BadInput(f"'{path}' is not the routing of a run: {error}") from None


def _why_no_run(path: Path) -> str:
    if not path.is_dir():
        return f"the folder '{path}' does not exist; give one that moelab run has written"
    if (path / UNFINISHED).exists():
        return f"the run in '{path}' is not finished; moelab run --resume goes on with it"
    return f"the folder '{path}' holds no {RESULT}; give one that moelab run has written"
