"""Runs of schedules on tiny checkpoints, for the tests of the runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from hypothesis import strategies as st
from torch import Tensor

from runtime.device import DeviceOptions
from runtime.predictor_files import random_predictor
from runtime.session import Session
from runtime.weights import WeightSource
from schedules.errors import BadInput
from schedules.graph import TaskGraph
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule, find_schedule
from schedules.timeline import COLUMNS, Timeline
from tests.runtime.answers import Answers

SCHEDULES = (
    "cgopipe",
    "fastdecode",
    "flexgen",
    "flexgen-cpu",
    "zero-inference",
    "accelerate",
    "gpu-only",
    "on-demand",
    "prefetch-all",
    "decoder-resident",
    "fiddler",
    "ktransformers",
)
"""Those that compute what the model does."""

ALL = (*SCHEDULES, "pre-gated", "sida", "hobbit")
ONE_BATCH = tuple(name for name in ALL if find_schedule(name).one_batch)
OPTIONS = DeviceOptions("cpu", 1 << 27, 1 << 30, gpu_threads=1, cpu_threads=1)


@dataclass
class Logits:
    """A greedy sampler that keeps the logits it saw, by prompt and generated token."""

    seen: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __call__(self, logits: Tensor, requests: Tensor, position: int) -> Tensor:
        for row, request in zip(logits, requests.tolist(), strict=True):
            self.seen[request, position] = row.float().cpu().clone()
        return logits.argmax(dim=1)


@dataclass(frozen=True)
class Run:
    """What a session yielded: tokens by prompt, logits, measurements, what its gates answered."""

    tokens: list[list[int]]
    logits: Logits
    timeline: Timeline
    graphs: list[TaskGraph]
    routing: pd.DataFrame
    peak_bytes: dict[str, int]
    predicted_bytes: dict[str, int]
    answers: Answers
    schedule: Schedule


def run(
    kind: str | type[Schedule],
    source: WeightSource,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    gen_len: int,
    options: DeviceOptions = OPTIONS,
    **more: object,
) -> Run:
    """All tokens of a session, and what it measured."""
    kind = find_schedule(kind) if isinstance(kind, str) else kind
    logits = Logits()
    if kind.change == "predicted":
        more = {"predictor": random_predictor(source.architecture.spec, seed=0)} | more
    with Session(kind, source, policy, prompts, gen_len, options, logits, **more) as session:
        answers = Answers()
        answers.listen(session.issuer)
        steps = [session.prefill()]
        steps += [session.decode_step() for _ in range(gen_len - 1)]
        frame = pd.DataFrame(session.tasks(), columns=[*COLUMNS])
        return Run(
            tokens=torch.tensor([list(map(int, s)) for s in steps]).T.tolist(),
            logits=logits,
            timeline=Timeline(frame, session.streams, kind.name),
            graphs=session.graphs,
            routing=session.routing(),
            peak_bytes=session.peak_bytes,
            predicted_bytes=session.predicted_bytes,
            answers=answers,
            schedule=session.schedule,
        )


def policies(name: str, n: int, levels: int = 1) -> st.SearchStrategy[Policy]:
    """Policies that a schedule can follow, for a batch of `n`; pre-gates look `levels` ahead."""
    kind = find_schedule(name)
    share = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
    values = {
        "r_w": share,
        "r_c": share,
        "r_h": share,
        "A_g": st.integers(0, 1),
        "pinned": st.sampled_from([None, True, False]),
        "sync": st.sampled_from([None, True, False]),
        "per_layer": st.booleans(),
        "level": st.integers(1, levels),
        "cache": st.sampled_from(["lru", "lfu", "fifo", "lifo", "hobbit", "edgemoe"]),
        "cache_ratio": share,
        "experts_on_gpu": st.none() | share,
        "cpu_tokens": st.none() | st.integers(0, 4),
    }
    chosen = {key: value for key, value in values.items() if key in kind.knobs}
    mu = st.just(n) if kind.one_batch else st.integers(1, n)
    drawn = st.fixed_dictionaries({"N": st.just(n), "mu": mu} | chosen)
    return drawn.map(make_policy).filter(lambda policy: _follows(kind, policy))


def _follows(kind: type[Schedule], policy: Policy) -> bool:
    try:
        kind.check(policy)
    except BadInput:
        return False
    return True
