"""One layer by the functions of the runtime, on one rank or on several that add up their parts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions import ffn, out_projection, prefill_attention, qkv
from runtime.pieces import LayerWeights
from runtime.weights import WeightSource, layer_weights
from runtime.workspace import Workspace

LENGTHS = (7, 7, 3, 11)  # prompts that follow one another; two of equal length
Rank = tuple[Architecture, LayerWeights]


def hidden_states(arch: Architecture, seed: int = 0, device: str = "cpu") -> Tensor:
    """Hidden states (t, H) of the prompts of `LENGTHS`."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(sum(LENGTHS), arch.hidden_size, generator=generator)
    return made.to(arch.dtype).to(device)


def one_rank(source: WeightSource, layer: int, device: str | None = None) -> list[Rank]:
    """The layer as the only rank of a model has it."""
    return [(source.architecture, layer_weights(source, layer, device))]


def run_layer(
    ranks: Sequence[Rank], hidden: Tensor, ws: Workspace | None = None, ids: list | None = None
) -> Tensor:
    """Hidden states (t, H) after a layer; the first rank keeps the residual, sums are all-reduced.

    `ids` collects the experts of each token, if the layer has any.
    """
    ws = ws or Workspace.of_size(2**22, hidden.device)
    parts = []
    for rank, (arch, w) in enumerate(ranks):
        part = hidden.clone()
        out_projection(arch, w, attention(arch, w, hidden, ws), part, ws, partial=rank > 0)
        parts.append(part)
    middle = torch.stack(parts).sum(0)
    parts = [middle.clone() for _ in ranks]
    seen = [] if ids is None else ids
    for rank, ((arch, w), part) in enumerate(zip(ranks, parts, strict=True)):
        ffn(arch, w, part, ws, lambda made: seen.append(made.clone()), partial=rank > 0)
    return torch.stack(parts).sum(0)


def attention(arch: Architecture, w: LayerWeights, hidden: Tensor, ws: Workspace) -> Tensor:
    """Attention outputs (t, query_size) of the prompts, before the output projection."""
    positions = torch.cat([torch.arange(n) for n in LENGTHS]).to(hidden.device)
    packed = hidden.new_empty(len(hidden), arch.qkv_size)
    attended = hidden.new_empty(len(hidden), arch.query_size)
    qkv(arch, w, hidden, positions, packed, ws)
    prefill_attention(arch, packed, LENGTHS, attended)
    return attended
