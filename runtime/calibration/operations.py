"""How long whole operations take: small models with random weights, run for real.

What a schedule waits for is not a product of two matrices but an operation: norms, projections,
rotations, experts one after another. So these are timed as they run, through the same workers,
from the same places in memory, and with the amounts of work that the simulator will price.

One operation runs at a time: all weights are on the device, or are awaited, and there is one
micro-batch. What happens to operations that run at the same time is measured elsewhere
(`pairs.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.device import DeviceOptions
from runtime.random_weights import RandomWeights
from runtime.sampling import Greedy
from runtime.session import Session
from schedules.model import ModelSpec
from schedules.policy import make_policy
from schedules.sample import Sample, Timed, samples_of
from schedules.schedule import find_schedule
from schedules.task import DType

SOURCE = "made up for calibration: a Mixtral of this size"
STEPS = 4
RESIDENT: Mapping[str, object] = {"r_w": 1.0}
SERIAL: Sequence[tuple[str, Mapping[str, object], Sequence[str]]] = (
    ("gpu-only", {}, ()),  # whole layers
    ("cgopipe", RESIDENT, ()),  # attention on the CPU, the rest of a layer at once
    ("flexgen-cpu", RESIDENT, ()),  # attention on the CPU; projection and FFN apart
    ("on-demand", {}, ()),  # the gate, and the experts it has chosen
    ("cgopipe", {}, ("pin",)),  # weights on their way to pinned staging
)
"""Schedules, their policies, and the streams whose operations count (none named: all)."""


@dataclass(frozen=True)
class Shape:
    """A model and a batch: so many sequences of so many tokens."""

    hidden: int
    ffn: int
    experts: int
    sequences: int
    prompt_len: int
    heads: int = 8
    kv_heads: int = 4
    vocab: int = 2048

    def model(self, dtype: DType, layers: int) -> ModelSpec:
        """A Mixtral of this size."""
        return ModelSpec(
            name=f"calibration-{self.hidden}-{self.ffn}-{self.experts}",
            family="mixtral",
            dtype=dtype,
            n_layers=layers,
            hidden_size=self.hidden,
            vocab_size=self.vocab,
            n_heads=self.heads,
            n_kv_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            n_experts=self.experts,
            top_k=2,
            expert_ffn_size=self.ffn,
            ffn_matrices=3,
            tied_embeddings=False,
            max_context=1 << 20,
            source=SOURCE,
        )


@dataclass(frozen=True)
class Trial:
    """A run whose operations are timed."""

    schedule: str
    shape: Shape
    dtype: DType
    layers: int = 2
    policy: Mapping[str, object] = field(default_factory=dict)
    streams: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Says what runs, for files and people."""
        s = self.shape
        size = f"{s.hidden}x{s.ffn}x{s.experts}"
        of = f" ({', '.join(self.streams)})" if self.streams else ""
        return f"{self.schedule} {size} {self.dtype} {s.sequences}x{s.prompt_len}{of}"


BATCHES = ((1, 16), (3, 160), (8, 40), (24, 12), (48, 96), (64, 24))
"""Sequences and prompt lengths: one after another, few long ones, many short ones."""

CONTEXTS = ((8, 64), (8, 512), (32, 256), (4, 2048), (64, 512))
"""Sequences and prompt lengths where attention is what takes long."""


def trials(device: str, dtypes: Sequence[DType], quick: bool) -> Iterator[Trial]:
    """What is run: models of several sizes, in batches from one sequence to many."""
    small = ((256, 640, 8), (512, 1024, 8), (384, 1344, 16), (1024, 2048, 4))
    large = ((1024, 2048, 16), (2048, 4096, 8), (2048, 7168, 8), (4096, 14336, 4))
    sizes = small[:1] if quick else (large if device == "cuda" else small)
    heads = (32, 8) if device == "cuda" and not quick else (8, 4)
    for dtype in dtypes:
        for hidden, ffn, experts in sizes:
            for sequences, prompt_len in BATCHES[:3] if quick else BATCHES:
                shape = Shape(hidden, ffn, experts, sequences, prompt_len, *heads)
                for schedule, policy, streams in SERIAL:
                    yield Trial(schedule, shape, dtype, policy=policy, streams=streams)
        for sequences, prompt_len in CONTEXTS[:2] if quick else CONTEXTS:
            hidden, ffn = (2048, 512) if heads[0] > 8 else (256, 64)
            shape = Shape(hidden, ffn, 4, sequences, prompt_len, *heads)
            for schedule, policy, _ in SERIAL[:2]:
                yield Trial(schedule, shape, dtype, policy=policy)


def measure(trial: Trial, options: DeviceOptions, seed: int = 0) -> list[Sample]:
    """Run it, and say how long each kind of operation took.

    Raises `Infeasible` where the model does not fit into the memory of `options`.
    """
    shape, kind = trial.shape, find_schedule(trial.schedule)
    n = shape.sequences
    prompts = np.random.default_rng(seed).integers(0, shape.vocab, (n, shape.prompt_len))
    policy = make_policy({"N": n, "mu": n} | dict(trial.policy))
    source = RandomWeights(shape.model(trial.dtype, trial.layers), seed)
    arguments = (kind, source, policy, prompts.tolist(), STEPS + 1, options, Greedy())
    with Session(*arguments) as session:
        session.prefill()
        for _ in range(STEPS):
            session.decode_step()
        return samples(session, trial.name, trial.streams)


def samples(session: Session, where: str, streams: Sequence[str] = ()) -> list[Sample]:
    """The operations of a session, by stream and phase, but for the first of each.

    `streams` are those that count; empty: all.
    """
    session.issuer.collect_times()
    issue_s = float(np.mean(session.issuer.issued_ns)) * 1e-9
    found = samples_of(where, _tasks(session), issue_s, warm=True)
    return [s for s in found if not streams or s.stream in streams]


def _tasks(session: Session) -> Iterator[Timed]:
    start_ns, end_ns = session.issuer.start_ns, session.issuer.end_ns
    for first, graph in zip(session.first_tasks, session.graphs, strict=True):
        for i in range(len(graph)):
            if first + i in start_ns:
                seconds = (end_ns[first + i] - start_ns[first + i]) * 1e-9
                op, stream = graph.ops[graph.op[i]], graph.streams[graph.stream[i]]
                yield Timed(op, stream, int(graph.step[i]), graph.works[graph.work[i]], seconds)
