"""How long whole operations take: small models with random weights, run for real.

What a schedule waits for is not a product of two matrices but an operation: norms, projections,
rotations, experts one after another. So these are timed as they run, through the same workers,
from the same places in memory, and with the amounts of work that the simulator will price.

There is one micro-batch, so that operations wait for one another, and only weights move meanwhile,
as they do in all schedules that are studied. What operations do to one another that run at the same
time is measured elsewhere (`pairs.py`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
STEPS = 3
LAYERS = 4  # at least: in the first ones prefill meets memory that was never touched
WIDE = 2048  # hidden sizes from which heads are 128 wide
UNCACHED_BYTES = 192 << 20  # several times the last cache of a processor or of a GPU
SERIAL = (
    "zero-inference",  # whole layers
    "cgopipe",  # attention on the CPU, the rest of a layer at once; weights through pinned staging
    "flexgen-cpu",  # attention on the CPU; projection and FFN apart
    "on-demand",  # the gate, and the experts it has chosen
)
"""Schedules that show each operation of the others."""
LONG = ("zero-inference", "cgopipe")
"""Attention on the device, and on the CPU."""


@dataclass(frozen=True)
class Shape:
    """A model and a batch: so many sequences of so many tokens."""

    hidden: int
    ffn: int
    experts: int
    sequences: int
    prompt_len: int
    vocab: int = 2048

    @property
    def heads(self) -> int:
        """Query heads of usual width; two of them share keys and values."""
        return self.hidden // (128 if self.hidden >= WIDE else 64)

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
            n_kv_heads=self.heads // 2,
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

    @property
    def name(self) -> str:
        """Says what runs, for files and people."""
        s = self.shape
        size = f"{s.hidden}x{s.ffn}x{s.experts}"
        return f"{self.schedule} {size} {self.dtype} {s.sequences}x{s.prompt_len}"


BATCHES = ((1, 16), (3, 160), (8, 40), (24, 12), (48, 96), (64, 24))
"""Sequences and prompt lengths: one after another, few long ones, many short ones."""

CONTEXTS = ((8, 64), (8, 512), (32, 256), (4, 2048), (64, 512))
"""Sequences and prompt lengths where attention is what takes long."""


SIZES: Mapping[str, Sequence[tuple[int, int, int]]] = {
    "quick": ((256, 640, 8),),
    "cpu": ((640, 1536, 8), (640, 1536, 16), (640, 1536, 4), (1024, 2816, 4)),
    "cuda": ((2048, 5632, 8), (2048, 5632, 16), (2048, 7168, 4), (4096, 14336, 4)),
}
"""Hidden size, width of an expert and experts. A processor's matrix products depend on their sizes
in ways of its own; so one size is timed with several numbers of experts, and another beside it."""
ATTENTION = {"quick": (256, 64), "cpu": (256, 64), "cuda": (2048, 512)}
"""Hidden size and width of an expert where attention is what takes long."""


def trials(device: str, dtypes: Sequence[DType], quick: bool) -> Iterator[Trial]:
    """What is run: models of several sizes, in batches from one sequence to many."""
    kind = "quick" if quick else device
    for dtype in dtypes:
        for hidden, ffn, experts in SIZES[kind]:
            for batch in BATCHES[:3] if quick else BATCHES:
                shape = Shape(hidden, ffn, experts, *batch)
                layers = 2 if quick else layers_of(shape, dtype)
                for schedule in SERIAL:
                    yield Trial(schedule, shape, dtype, layers)
        for batch in CONTEXTS[:2] if quick else CONTEXTS:
            shape = Shape(*ATTENTION[kind], 4, *batch)
            for schedule in LONG:
                yield Trial(schedule, shape, dtype)


def layers_of(shape: Shape, dtype: DType) -> int:
    """So many that the weights find no room in a cache, as those of a real model do not."""
    layer = 3 * shape.hidden * shape.ffn * shape.experts * (4 if dtype == "float32" else 2)
    return max(LAYERS, math.ceil(UNCACHED_BYTES / layer))


def measure(trial: Trial, options: DeviceOptions, seed: int = 0) -> list[Sample]:
    """Run it, and say how long each kind of operation took.

    Raises `Infeasible` where the model does not fit into the memory of `options`.
    """
    shape, kind = trial.shape, find_schedule(trial.schedule)
    n = shape.sequences
    prompts = np.random.default_rng(seed).integers(0, shape.vocab, (n, shape.prompt_len))
    policy = make_policy({"N": n, "mu": n})
    source = RandomWeights(shape.model(trial.dtype, trial.layers), seed)
    arguments = (kind, source, policy, prompts.tolist(), STEPS + 1, options, Greedy())
    with Session(*arguments) as session:
        session.prefill()
        for _ in range(STEPS):
            session.decode_step()
        return samples(session, trial.name)


def samples(session: Session, where: str) -> list[Sample]:
    """The operations of a session, by stream and phase, but for the first of each."""
    session.issuer.collect_times()
    issue_s = float(np.mean(session.issuer.issued_ns)) * 1e-9
    return samples_of(where, _tasks(session), issue_s, warm=True)


def _tasks(session: Session) -> Iterator[Timed]:
    start_ns, end_ns = session.issuer.start_ns, session.issuer.end_ns
    for first, graph in zip(session.first_tasks, session.graphs, strict=True):
        for i in range(len(graph)):
            if first + i in start_ns:
                seconds = (end_ns[first + i] - start_ns[first + i]) * 1e-9
                op, stream = graph.ops[graph.op[i]], graph.streams[graph.stream[i]]
                yield Timed(op, stream, int(graph.step[i]), graph.works[graph.work[i]], seconds)
