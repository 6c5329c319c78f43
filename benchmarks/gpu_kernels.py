"""Micro-benchmarks of the device: memory, products, experts, attention, and launching."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import torch
from gpu_timing import Action, Machine, Row, device_seconds, host_seconds, row
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from runtime.architecture import Architecture
from runtime.functions import experts
from runtime.pieces import LayerWeights, Piece
from runtime.workspace import Workspace
from schedules.model import ModelSpec

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # of Mixtral 8x7B

# -- the device -------------------------------------------------------------------------------


def device_memory(machine: Machine) -> Iterator[Row]:
    """A copy within device memory; bytes read and written."""
    size = (4 << 30) // machine.scale if machine.cuda else (1 << 30) // machine.scale
    source = torch.empty(size, dtype=torch.uint8, device=machine.device).random_()
    target = torch.empty_like(source)
    seconds = device_seconds(machine, lambda: target.copy_(source))
    yield row("device copy", seconds, moved_bytes=2 * size)


def gemms(machine: Machine) -> Iterator[Row]:
    """x @ w.T by tokens, for the widths of Mixtral; weights change, so that no cache holds them."""
    for rows, cols in ((4096, 4096), (14336, 4096), (4096, 14336)):
        rows, cols = rows // machine.scale, cols // machine.scale
        matrices = [machine.random(rows, cols).t() for _ in range(4)]
        for tokens in (1, 16, 64, 256, 1024, 4096, 16384)[: 3 if machine.scale > 1 else None]:
            run = _product(machine, tokens, matrices)
            more = {"tokens": tokens, "rows": rows, "cols": cols}
            flops = 2.0 * tokens * rows * cols
            yield row("gemm", device_seconds(machine, run), **more, flops=flops)


def _product(machine: Machine, tokens: int, matrices: Sequence[Tensor]) -> Action:
    """x @ w, with each of the matrices (cols, rows) in turn."""
    cols, rows = matrices[0].shape
    x, turns = machine.random(tokens, cols), cycle(matrices)
    out = torch.empty(tokens, rows, dtype=machine.dtype, device=machine.device)
    return lambda: torch.mm(x, next(turns), out=out)


def expert_ffns(machine: Machine) -> Iterator[Row]:
    """All experts of a layer of Mixtral, by tokens, as the runtime computes them."""
    hidden, width = 4096 // machine.scale, 14336 // machine.scale
    arch, w = _experts(machine, hidden, width)
    for tokens in (1, 8, 32, 64, 128, 256, 512, 1024, 4096)[: 2 if machine.scale > 1 else None]:
        yield _expert_ffn(machine, arch, w, tokens)


def _experts(machine: Machine, hidden: int, width: int) -> tuple[Architecture, LayerWeights]:
    spec = ModelSpec(
        name="one layer",
        family="mixtral",
        dtype=str(machine.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        n_layers=1,
        hidden_size=hidden,
        vocab_size=32,
        n_heads=4,
        n_kv_heads=2,
        head_dim=hidden // 4,
        n_experts=8,
        top_k=2,
        expert_ffn_size=width,
        ffn_matrices=3,
        tied_embeddings=False,
        max_context=32,
        source="Mixtral 8x7B's experts",
    )
    sizes = {"gate": (8 * width, hidden), "up": (8 * width, hidden), "down": (8 * hidden, width)}
    pieces = {
        name: (Piece(0, rows, machine.random(rows, cols).mul_(0.02)),)
        for name, (rows, cols) in sizes.items()
    }
    return Architecture.from_spec(spec), LayerWeights(pieces, {})


def _expert_ffn(machine: Machine, arch: Architecture, w: LayerWeights, tokens: int) -> Row:
    hidden, width = arch.hidden_size, arch.spec.expert_ffn_size
    x = machine.random(tokens, hidden)
    out = torch.zeros_like(x)
    ids = torch.rand(tokens, 8, device=machine.device).argsort(dim=1)[:, :2].contiguous()
    gates = torch.full((tokens, 2), 0.5, dtype=arch.gate_dtype, device=machine.device)
    size = 8 * (tokens + 1) * (hidden + width) * x.element_size() + (1 << 20)
    ws = Workspace.of_size(size, machine.device)

    def run() -> None:
        experts(arch, w, x, ids, gates, out, ws)

    with torch.inference_mode():
        seconds = host_seconds(machine, lambda: _ended(machine, run))
    touched = len(torch.unique(ids))
    weights = touched * 3 * hidden * width * x.element_size()
    flops = 2.0 * tokens * 2 * 3 * hidden * width
    return row(
        "experts", seconds, tokens=tokens, touched=touched, weight_bytes=weights, flops=flops
    )


def _ended(machine: Machine, action: Action) -> None:
    action()
    if machine.cuda:
        torch.cuda.current_stream().synchronize()


def decode_attentions(machine: Machine) -> Iterator[Row]:
    """One new token of each sequence, by sequences and context: bytes of keys and values."""
    for n, context in ((1, 512), (16, 512), (64, 128), (64, 512), (64, 2048), (256, 512)):
        n = max(1, n // machine.scale)
        q = machine.random(n, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
        k, v = (machine.random(n, context, KV_HEADS, HEAD_DIM).transpose(1, 2) for _ in range(2))
        seconds = device_seconds(machine, lambda a=(q, k, v): scaled_dot_product_attention(*a))
        moved = 2 * n * context * KV_HEADS * HEAD_DIM * q.element_size()
        yield row("decode attention", seconds, sequences=n, context=context, moved_bytes=moved)


def prefill_attentions(machine: Machine) -> Iterator[Row]:
    """Causal attention of prompts; flops of the half that is not masked."""
    for n, tokens in ((32, 128), (16, 512), (4, 2048)):
        n = max(1, n // machine.scale)
        tensors = [machine.random(n, HEADS, tokens, HEAD_DIM) for _ in range(3)]

        def run(tensors: list[Tensor] = tensors) -> None:
            scaled_dot_product_attention(*tensors, is_causal=True)

        flops = 2.0 * n * HEADS * tokens * tokens * HEAD_DIM  # two products, half of each
        yield row("prefill attention", device_seconds(machine, run), prompts=n, tokens=tokens,
                  flops=flops)  # fmt: skip


def attention_backends(machine: Machine) -> Iterator[Row]:
    """The first decode attention at each of 8 new context lengths, with cuDNN and without it."""
    if not machine.cuda:
        return
    q = machine.random(64, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    for cudnn, first in ((False, 301), (True, 331)):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        seconds = []
        for context in range(first, first + 8):
            k, v = (machine.random(64, KV_HEADS, context, HEAD_DIM) for _ in range(2))
            run = lambda a=(q, k, v): _ended(machine, lambda: scaled_dot_product_attention(*a))  # noqa: E731
            seconds += host_seconds(machine, run, 1)
        yield row("attention at a new context", seconds, cudnn=cudnn)
    torch.backends.cuda.enable_cudnn_sdp(before)


# -- launching --------------------------------------------------------------------------------


def launches(machine: Machine) -> Iterator[Row]:
    """A small kernel: seconds to launch it, and on the device."""
    x = torch.zeros(256, device=machine.device)

    def run() -> None:
        for _ in range(1000):
            x.add_(1)

    for what, clock in (("launch", host_seconds), ("small kernel", device_seconds)):
        yield row(what, [s / 1000 for s in clock(machine, run, 7)])


def events(machine: Machine) -> Iterator[Row]:
    """Recording an event, letting a stream wait for it, and waiting for one that has passed."""
    if not machine.cuda:
        return
    stream, x = torch.cuda.Stream(), torch.zeros(256, device="cuda")
    for blocking in (False, True):
        event = torch.cuda.Event(enable_timing=True, blocking=blocking)
        yield row("event record", _each(machine, event.record), blocking=blocking)
        yield row("event wait", _each(machine, lambda e=event: stream.wait_event(e)))

        def kernel_and_back(event: torch.cuda.Event = event) -> None:
            x.add_(1)
            event.record()
            event.synchronize()

        yield row("kernel and back", _each(machine, kernel_and_back, 100), blocking=blocking)
    yield row("stream synchronize", _each(machine, torch.cuda.current_stream().synchronize))


def _each(machine: Machine, action: Action, count: int = 1000) -> list[float]:
    def run() -> None:
        for _ in range(count):
            action()

    return [s / count for s in host_seconds(machine, run, 5)]


KERNELS: tuple[Callable[[Machine], Iterator[Row]], ...] = (
    device_memory,
    expert_ffns,
    gemms,
    decode_attentions,
    prefill_attentions,
    launches,
    events,
)
LATER = (attention_backends,)
