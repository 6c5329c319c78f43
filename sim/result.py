"""What a simulation yields."""

from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from schedules.errors import BadInput
from schedules.policy import Policy
from schedules.result_keys import KEYS
from schedules.timeline import COLUMNS, Timeline
from sim.generation import Generation
from sim.movement import Movement
from sim.phase_frame import phase_frame
from sim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd  # slow to import; who simulates without a timeline needs none


class Result:
    """One schedule, simulated over a whole generation.

    All times are in seconds. `throughput_tok_s` is N x generation length / (prefill + decode);
    `lower_bound_s` is the total work of the busiest stream, below which no order of the same tasks
    can come; `bound_ratio` = makespan / bound; `utilization` and `idle_s` are over the makespan.
    """

    feasible = True

    def __init__(self, scenario: Scenario, policy: Policy, generation: Generation) -> None:
        self.scenario = scenario
        self.policy = policy
        self.generation = generation
        schedule = generation.schedule
        self.schedule = schedule.name
        self.prefill_s = generation.prefill.run.makespan_s
        self.step_s = generation.decode[:, 0] if generation.steps else np.zeros(0)
        self.decode_s = float(self.step_s.sum())
        self.makespan_s = self.prefill_s + self.decode_s
        gen_len = scenario.workload.gen_len
        self.throughput_tok_s = policy.N * gen_len / self.makespan_s
        seq2seq = scenario.model.is_encoder_decoder
        self.ttft_s = self.prefill_s + (float(self.step_s[0]) if seq2seq else 0.0)
        after_first = float(self.step_s[1 if seq2seq else 0 :].sum())
        self.tpot_s = after_first / (gen_len - 1) if gen_len > 1 else None
        busy = generation.prefill.totals[1:]
        if generation.steps:
            busy = busy + generation.decode[:, 1:].sum(axis=0)
        self.streams = generation.prefill.graph.streams
        self.busy_s = dict(zip(self.streams, busy.tolist(), strict=True))
        self.idle_s = {name: self.makespan_s - b for name, b in self.busy_s.items()}
        self.utilization = {name: b / self.makespan_s for name, b in self.busy_s.items()}
        issuer = schedule.node.issuer
        self.peak_memory_bytes = issuer.peak_bytes
        self.capacity_bytes = {n: p.capacity_bytes for n, p in issuer.pools.items()}
        step_tasks = len(generation.first.graph) if generation.first else 0
        self.tasks = len(generation.prefill.graph) + generation.steps * step_tasks
        self.lower_bound_s = max(self.busy_s.values())
        self.bound_ratio = self.makespan_s / self.lower_bound_s

    @cached_property
    def movement(self) -> Movement:
        """What the generation moves."""
        return Movement(self.generation)

    @property
    def moved_bytes_per_token(self) -> dict[str, float]:
        """Bytes over links by operation, for each generated token."""
        tokens = self.policy.N * self.scenario.workload.gen_len
        return {op: size / tokens for op, size in self.movement.moved_bytes.items()}

    @property
    def exposed_transfer_s(self) -> float:
        """Seconds in which something is copied and nothing is computed."""
        return self.movement.exposed_transfer_s

    @property
    def moe_block_ms(self) -> float | None:
        """Mean latency of a decoder layer with experts, attention included, in milliseconds."""
        seconds = self.movement.moe_block_s
        return None if seconds is None else seconds * 1e3

    @property
    def facts(self) -> dict[str, float]:
        """What the schedule knows of its run: hit rate of its cache, shares of wrong experts ..."""
        return self.generation.schedule.facts()

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Version, seed, and the presets with all their values that matter."""
        s = self.scenario
        return {
            "version": package_version(),
            "seed": s.routing.seed,
            "presets": {
                "model": s.model.name,
                "hardware": s.hardware.name,
                "workload": s.workload.name,
                "gen_len": s.workload.gen_len,
                "padded": s.workload.padded,
                "dtype": s.model.dtype,
                "n_gpus": s.gpus_for(type(self.generation.schedule)),
                "routing": s.routing.model_dump(),
                "modifiers": s.modifiers.told(),
                "host_memory_pinned": self.generation.schedule.node.pinned,
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, with the keys of `KEYS`."""
        s = self.scenario
        plain = {
            "model": s.model.name,
            "hardware": s.hardware.name,
            "workload": s.workload.name,
            "policy": self.policy.model_dump(),
        }
        return {key: plain[key] if key in plain else getattr(self, key) for key in KEYS}

    def to_pandas(self) -> "pd.DataFrame":
        """The result as one row; nested keys become `utilization.gpu` and so on."""
        import pandas as pd

        return pd.json_normalize(self.to_dict())

    def start_s(self, step: int) -> float:
        """When a phase starts: prefill is step 0."""
        return 0.0 if step == 0 else self.prefill_s + float(self.step_s[: step - 1].sum())

    def timeline(self, steps: Iterable[int] | None = None) -> Timeline:
        """When each task ran; by default in prefill and the first two decode steps.

        Step 0 is prefill, 1.. are decode steps; times count from the start of the generation.
        Raises `BadInput` for a step that the generation does not have.
        """
        import pandas as pd

        last = self.generation.steps
        chosen = sorted(set(range(min(3, last + 1)) if steps is None else steps))
        for step in chosen:
            if step not in range(last + 1):
                raise BadInput(f"there is no step {step}; steps are 0 (prefill) to {last}")
        frames = [self._frame(step) for step in chosen]
        frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS])
        frame["task"] = np.arange(len(frame))
        name = f"{self.schedule}, {self.scenario.model.name} on {self.scenario.hardware.name}"
        return Timeline(frame, self.streams, name)

    def _frame(self, step: int) -> "pd.DataFrame":
        phase = self.generation.prefill if step == 0 else self.generation.step(step)
        return phase_frame(phase, self.start_s(step))

    def _repr_html_(self) -> str:
        return str(self.to_pandas().T.to_html(header=False))

    def __repr__(self) -> str:
        return (
            f"<{self.schedule}: {self.throughput_tok_s:.4g} tokens/s, prefill "
            f"{self.prefill_s:.4g} s, decode {self.decode_s:.4g} s, bound x {self.bound_ratio:.3g}>"
        )


def package_version() -> str:
    """The installed version of moelab, or `uninstalled`."""
    try:
        return version("moelab")
    except PackageNotFoundError:
        return "uninstalled"
