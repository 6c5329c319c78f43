"""Schedules that generate for the same prompts, timed alike, and the rule for their policies.

Used by `throughput.py` and `gpu.py`; times are those of prefill and of each decode step, without
loading weights.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from runtime.batches import policy_for, split
from runtime.device import DeviceOptions
from runtime.generate import make_timeline
from runtime.placing import placement
from runtime.sampling import Greedy
from runtime.session import Session
from runtime.weights import WeightSource
from schedules.errors import BadInput, Infeasible
from schedules.model import ModelSpec
from schedules.placing import place
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule
from schedules.timeline import Timeline
from sim.replay import recorded_routing, recording, replay

Prompts = Sequence[tuple[int, ...]]
KEPT = tuple(i / 20 for i in range(20, 0, -1))  # shares r_w of the weights, largest first
MARGIN = 0.99  # of the budget that a policy may plan: rows and tensors are rounded up


@dataclass(frozen=True)
class Timed:
    """One generation for all prompts.

    Parameters
    ----------
    tokens: greedy ones, by prompt.
    prefill_s, step_s: seconds of prefill and of each decode step, summed over the batches.
    bound_s: work of the busiest stream; no order of the same tasks could take less.
    simulated_s: what the simulator makes of the measured tasks.
    peak_bytes, predicted_bytes: of the GPU, the most of any batch.
    issue_s: seconds of the issuing thread for each task.
    busy_s: by stream.
    """

    tokens: tuple[tuple[int, ...], ...]
    prefill_s: float
    step_s: tuple[float, ...]
    bound_s: float | None = None
    simulated_s: float | None = None
    peak_bytes: int | None = None
    predicted_bytes: int | None = None
    issue_s: float | None = None
    busy_s: Mapping[str, float] = field(default_factory=dict)
    timelines: tuple[Timeline, ...] = ()

    @property
    def decode_s(self) -> float:
        """All decode steps."""
        return sum(self.step_s)

    @property
    def makespan_s(self) -> float:
        """Prefill and all decode steps."""
        return self.prefill_s + self.decode_s

    @property
    def tokens_per_s(self) -> float:
        """All generated tokens over the makespan."""
        return sum(map(len, self.tokens)) / self.makespan_s

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens of the decode steps over their seconds."""
        return len(self.tokens) * len(self.step_s) / self.decode_s if self.step_s else None


def joined(parts: Sequence[Timed]) -> Timed:
    """Batches that ran one after the other."""

    def total(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    def most(name: str) -> Any:
        return max((getattr(part, name) for part in parts if getattr(part, name)), default=None)

    streams = dict.fromkeys(stream for part in parts for stream in part.busy_s)
    return Timed(
        tokens=tuple(sequence for part in parts for sequence in part.tokens),
        prefill_s=total("prefill_s"),
        step_s=tuple(map(sum, zip(*(part.step_s for part in parts), strict=True))),
        bound_s=total("bound_s"),
        simulated_s=total("simulated_s"),
        peak_bytes=most("peak_bytes"),
        predicted_bytes=most("predicted_bytes"),
        issue_s=most("issue_s"),
        busy_s={s: sum(part.busy_s.get(s, 0.0) for part in parts) for s in streams},
        timelines=tuple(timeline for part in parts for timeline in part.timelines),
    )


# -- the schedules ----------------------------------------------------------------------------


def run_schedule(
    kind: type[Schedule],
    source: WeightSource,
    policy: Policy,
    prompts: Prompts,
    gen_len: int,
    options: DeviceOptions,
    record: bool = True,
) -> Timed:
    """All prompts, `policy.N` at a time; without `record` nothing but the phases is timed."""
    parts = []
    for batch in split(prompts, policy.N):
        own = policy_for(policy, kind, batch)
        parts.append(_run_batch(kind, source, own, batch.prompts, gen_len, options, record))
    return joined(parts)


def _run_batch(
    kind: type[Schedule],
    source: WeightSource,
    policy: Policy,
    prompts: Prompts,
    gen_len: int,
    options: DeviceOptions,
    record: bool,
) -> Timed:
    free_memory()
    arguments = (kind, source, policy, prompts, gen_len, options, Greedy())
    with Session(*arguments, record=record) as session:
        steps = [session.prefill(), *(session.decode_step() for _ in range(gen_len - 1))]
        pool = session.schedule.node.gpus[0].pool
        timeline = make_timeline(session.tasks(), session.streams, kind.name)
        routing = session.routing()
        tasks = sum(map(len, session.graphs))
        issue_s = sum(session.issuing_s.values()) / max(1, tasks)
        measured = {
            "peak_bytes": session.peak_bytes[pool],
            "predicted_bytes": session.predicted_bytes[pool],
        }
        prefill_s, *step_s = session.step_s
    if record:
        spec = source.architecture.spec
        again = planned(kind, spec, policy, prompts, gen_len, options, routing)
        simulated = replay(timeline, again, issue_s)
        measured |= {
            "bound_s": max(simulated.busy_s.values()),
            "simulated_s": simulated.makespan_s,
            "issue_s": issue_s,
            "busy_s": simulated.busy_s,
            "timelines": (timeline,),
        }
    tokens = tuple(map(tuple, np.stack(steps, axis=1).tolist()))
    return Timed(tokens, prefill_s, tuple(step_s), **measured)


def planned(
    kind: type[Schedule],
    spec: ModelSpec,
    policy: Policy,
    prompts: Prompts,
    gen_len: int,
    options: DeviceOptions,
    routing: pd.DataFrame | None = None,
    share: float = 1.0,
) -> Schedule:
    """The schedule on its node, without memory or device; `share` of the GPU's budget is there.

    Raises `BadInput` and `Infeasible` as a session does.
    """
    less = replace(options, gpu_memory_bytes=int(options.gpu_memory_bytes * share))
    trace = None
    if routing is not None and "expert_0" in routing:
        trace = recorded_routing(routing)
    lengths = list(map(len, prompts))
    return place(kind, placement(spec, policy, lengths, gen_len, less, 1, recording(trace)))


def fitting_policy(
    kind: type[Schedule],
    spec: ModelSpec,
    prompts: Prompts,
    gen_len: int,
    options: DeviceOptions,
    micro_batches: int,
    fixed: Mapping[str, Any],
) -> Policy:
    """The policy of a system, by one rule for all.

    Schedules of one batch: the largest N of all prompts, a half, a quarter ... that fits. Others:
    all prompts in `micro_batches` micro-batches, or twice as many until they fit; and then the
    largest share r_w of the weights that stays on the GPU, in steps of 0.05. Values in `fixed` go
    to schedules that know them. Raises `Infeasible` when nothing fits.
    """
    known = {key: value for key, value in fixed.items() if key in kind.knobs}

    def fits(policy: Policy) -> bool:
        try:
            planned(kind, spec, policy, prompts[: policy.N], gen_len, options, share=MARGIN)
        except (BadInput, Infeasible):
            return False
        return True

    policy, size = None, len(prompts) if kind.one_batch else -(-len(prompts) // micro_batches)
    while policy is None:
        n = size if kind.one_batch else len(prompts)
        candidate = make_policy({"N": n, "mu": size} | known)
        if fits(candidate):
            policy = candidate
        elif size == 1:
            planned(kind, spec, candidate, prompts[:n], gen_len, options, share=MARGIN)
            raise Infeasible(f"schedule '{kind.name}': no policy fits")
        size = -(-size // 2)
    if "r_w" not in kind.knobs or "r_w" in known:
        return policy
    more = (policy.model_copy(update={"r_w": share}) for share in KEPT)
    return next((p for p in more if fits(p)), policy)


def free_memory() -> None:
    """Give back what earlier systems have used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
