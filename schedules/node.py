"""The node that a schedule commands: its GPUs, its CPU, and the buffers of one generation.

A schedule says what to do and in which order; bytes, buffers and streams live here, once for all
schedules. Actions on the attention, the weights and whole layers are in `actions.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schedules.batching import MicroBatch
from schedules.contents import Contents
from schedules.issuer import Issuer
from schedules.layer import LayerWork
from schedules.model import LayerSpec, ModelSpec
from schedules.policy import Policy
from schedules.task import Buffer


class Slot(NamedTuple):
    """A place in a pass over the layers: layer `layer` (counted within the pass), a micro-batch."""

    layer: int
    micro_batch: int


@dataclass(frozen=True, slots=True)
class GpuNames:
    """Streams and pool of one GPU; plain names when it is the only one."""

    index: int
    gpu: str
    h2d: str
    d2h: str
    pool: str
    host: str

    def __hash__(self) -> int:
        """By its index: schedules look up a GPU's buffers for every task."""
        return self.index


def gpu_names(n_gpus: int) -> tuple[GpuNames, ...]:
    """Names of the streams and pools of `n_gpus` GPUs."""
    tags = [""] if n_gpus == 1 else [str(i) for i in range(n_gpus)]
    return tuple(
        GpuNames(i, f"gpu{t}", f"h2d{t}", f"d2h{t}", f"gpu{t}", f"host{t}")
        for i, t in enumerate(tags)
    )


def stream_names(n_gpus: int, own_cpu: bool = False) -> tuple[str, ...]:
    """All streams of a node, in the order in which they act at equal times.

    `own_cpu`: each GPU's process has a share of the cores, and so a `cpu` stream, of its own.
    """
    names = gpu_names(n_gpus)
    return (
        *(g.host for g in names),
        "disk",
        "pin",
        *(g.h2d for g in names),
        *(g.gpu for g in names),
        *(g.d2h for g in names),
        *([f"cpu{g.index}" for g in names] if own_cpu else ["cpu"]),
        *(() if n_gpus == 1 else ("peer",)),
    )


class Node:
    """What a schedule commands.

    Parameters
    ----------
    issuer: takes the tasks.
    model, policy: what is asked.
    batches: the micro-batches, with their prompt lengths.
    work: the work of each operation on one GPU.
    n_gpus: GPUs of the node.
    gen_len: tokens to generate for each sequence.
    pinned: whether host weights (and KV that moves) lie in page-locked memory.
    """

    def __init__(
        self,
        issuer: Issuer,
        model: ModelSpec,
        policy: Policy,
        batches: Sequence[MicroBatch],
        work: LayerWork,
        n_gpus: int,
        gen_len: int,
        pinned: bool,
    ) -> None:
        self.issuer = issuer
        self.model = model
        self.policy = policy
        self.batches = tuple(batches)
        self.work = work
        self.gpus = gpu_names(n_gpus)
        self.gen_len = gen_len
        self.pinned = pinned
        self.passes = 0  # passes over the layers so far
        self.base = 0  # layers in the passes before this one
        self.layers: tuple[LayerSpec, ...] = ()
        self.logits: dict[GpuNames, list[Buffer]] = {}  # of tensor-parallel GPUs, to be gathered
        self.step = 0  # 0 is prefill
        self.cut: int | None = None  # layers of each pass that are issued; None: all
        self.repeats = True  # whether it may be worth to issue a few layers (`sim.tiling`)

    # -- the pass over the layers ---------------------------------------------------------------

    @property
    def n_micro_batches(self) -> int:
        """Number of micro-batches."""
        return len(self.batches)

    @property
    def prefill_layers(self) -> tuple[LayerSpec, ...]:
        """Layers that read the prompt: the encoder's where there is one."""
        model = self.model
        return model.encoder_layers if model.is_encoder_decoder else model.decoder_layers

    @property
    def all_layers(self) -> tuple[LayerSpec, ...]:
        """Every layer of the model, the encoder's first."""
        return (*self.model.encoder_layers, *self.model.decoder_layers)

    def begin(self, step: int) -> None:
        """Start prefill (`step` 0) or a decode step (1..)."""
        self.base += len(self.layers)
        layers = self.prefill_layers if step == 0 else self.model.decoder_layers
        self.layers = layers if self.cut is None else layers[: self.cut]
        self.step = step
        self.issuer.step = step

    def end(self) -> None:
        """The hosts read the sampled tokens: everything issued so far ends here."""
        self.issuer.barrier()

    def slots(self, count: int | None = None) -> Iterator[Slot]:
        """The places of this pass, layer by layer; the first `count` of them, or all."""
        n = self.n_micro_batches
        total = len(self.layers) * n
        for place in range(total if count is None else min(count, total)):
            yield Slot(place // n, place % n)

    def after(self, slot: Slot, distance: int) -> Slot | None:
        """The place `distance` micro-batches later; None past the end of the pass."""
        place = slot.layer * self.n_micro_batches + slot.micro_batch + distance
        if place >= len(self.layers) * self.n_micro_batches:
            return None
        return Slot(*divmod(place, self.n_micro_batches))

    def spec(self, layer: int) -> LayerSpec:
        """The layer at a place of this pass; past its end, of the decode step that follows."""
        if layer < len(self.layers):
            return self.layers[layer]
        return self.model.decoder_layers[layer - len(self.layers)]

    def is_first(self, layer: int) -> bool:
        """Whether the embedding comes before this layer."""
        return layer == 0

    def is_last(self, layer: int) -> bool:
        """Whether the output head comes after this layer."""
        return layer == len(self.layers) - 1

    def each_gpu(self) -> Iterator[GpuNames]:
        """The GPUs in turn; what is issued meanwhile comes from that GPU's issuing thread."""
        for gpu in self.gpus:
            self.issuer.host = gpu.index
            yield gpu
        self.issuer.host = 0

    # -- operands -------------------------------------------------------------------------------

    def context(self, micro_batch: int) -> float:
        """Tokens that decode attention reads in this step, summed over the micro-batch."""
        batch = self.batches[micro_batch]
        return batch.prompt_tokens + self.step * batch.size

    def final_context(self, micro_batch: int) -> float:
        """Tokens in the cache when the generation ends."""
        batch = self.batches[micro_batch]
        return batch.prompt_tokens + self.gen_len * batch.size

    def tokens(self, micro_batch: int) -> float:
        """Tokens of the micro-batch in this pass: its prompts in prefill, else its sequences."""
        batch = self.batches[micro_batch]
        return batch.prompt_tokens if self.step == 0 else batch.size

    @property
    def widest(self) -> MicroBatch:
        """The micro-batch with the most prompt tokens."""
        return max(self.batches, key=lambda batch: batch.prompt_tokens)

    @property
    def most_sequences(self) -> int:
        """Sequences of the micro-batch that has the most."""
        return max(batch.size for batch in self.batches)

    # -- memory ---------------------------------------------------------------------------------

    def on_gpu(
        self, gpu: GpuNames, name: str, size_bytes: float, holds: Iterable[Contents] = ()
    ) -> Buffer:
        """Device memory of one GPU; `holds` is what lies there for good."""
        return self.issuer.buffer(name, gpu.pool, size_bytes, tuple(holds), owner=gpu.index)

    def on_host(
        self,
        name: str,
        size_bytes: float,
        pinned: bool = False,
        holds: Iterable[Contents] = (),
        gpu: GpuNames | None = None,
    ) -> Buffer:
        """Host memory; page-locked memory also counts against what may be locked.

        Weights go to the disk instead where there is an SSD tier, page-locked ones by way of
        page-locked staging.

        `gpu`: the one whose process uses it; None: all of them.
        """
        holds, tier = tuple(holds), self.issuer.tier
        if pinned and not (tier and tier.takes("cpu", holds)):
            self.issuer.buffer(name, "pinned", size_bytes)
        owner = -1 if gpu is None else gpu.index
        return self.issuer.buffer(name, "cpu", size_bytes, holds, pinned, owner)
