"""A small MoE language model: a decoder whose blocks all have experts.

A block is causal self-attention and a sparse mixture of two-layer experts, each behind an RMSNorm
and with a residual connection. With one expert per token the gate's probability scales the output
(Switch Transformers, arXiv 2101.03961, section 2.1); with more, their probabilities are made to add
up to one (Mixtral, arXiv 2401.04088, section 2.1).

Who routes is an argument of `forward`: a `Router` answers with the logits of a block, from the gate
inputs of this block and those before it. The model's own gates are the default.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from schedules.errors import BadInput

Router = Callable[[int, Sequence[Tensor]], Tensor]
"""From a block's index and the gate inputs so far, each (tokens, width), to logits (tokens,
experts)."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model; raises `BadInput` where they do not go together."""

    vocabulary: int
    context: int
    layers: int
    width: int
    heads: int
    experts: int
    expert_size: int
    top_k: int

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise BadInput(f"top_k is {self.top_k}, but must be from 1 to {self.experts} experts")
        if self.width % self.heads:
            raise BadInput(f"a width of {self.width} cannot be shared by {self.heads} heads")


@dataclass(frozen=True, eq=False)
class Pass:
    """What a pass over tokens leaves.

    Parameters
    ----------
    logits: of the next token, shape (rows, context, vocabulary).
    gate_inputs: by block, normalised hidden states, shape (tokens, width).
    gate_logits: by block, shape (tokens, experts).
    experts: by block, the ids taken, the likeliest first, shape (tokens, top_k).
    """

    logits: Tensor
    gate_inputs: list[Tensor]
    gate_logits: list[Tensor]
    experts: list[Tensor]


def choose(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Ids and weights of the experts that gate logits name, each (tokens, top_k)."""
    weights, ids = logits.softmax(dim=-1).topk(top_k, dim=-1)
    if top_k > 1:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return ids, weights


class Experts(nn.Module):
    """Two-layer experts; each multiplies the tokens that name it, and no others."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        shape = (sizes.experts, sizes.width, sizes.expert_size)
        self.up = nn.Parameter(torch.randn(shape) * sizes.width**-0.5)
        self.down = nn.Parameter(torch.randn(shape).mT * sizes.expert_size**-0.5)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the named experts' outputs, shape of `x` (tokens, width)."""
        order = ids.reshape(-1).argsort(stable=True)
        tokens = order // ids.shape[1]
        counts = ids.reshape(-1).bincount(minlength=len(self.up)).tolist()
        parts = zip(x[tokens].split(counts), self.up.unbind(), self.down.unbind(), strict=True)
        outputs = [functional.relu(part @ up) @ down for part, up, down in parts if len(part)]
        weighted = torch.cat(outputs) * weights.reshape(-1)[order, None]
        return torch.zeros_like(x).index_add(0, tokens, weighted)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, context, width), as `x`."""
        rows, context, width = x.shape
        q, k, v = self.qkv(x).view(rows, context, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(rows, context, width))


class Block(nn.Module):
    """Attention, a gate and its experts."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.before_attention = nn.RMSNorm(sizes.width)
        self.attention = Attention(sizes)
        self.before_experts = nn.RMSNorm(sizes.width)
        self.gate = nn.Linear(sizes.width, sizes.experts, bias=False)
        self.experts = Experts(sizes)


class MoELanguageModel(nn.Module):
    """Predicts the next token; learned positions up to `context`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.context, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def block(self, index: int) -> Block:
        """A block, from 0."""
        return cast(Block, self.blocks[index])

    def forward(self, tokens: Tensor, router: Router | None = None) -> Pass:
        """A pass over `tokens`, shape (rows, up to context)."""
        route = router or own_gates(self)
        hidden = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        gate_inputs: list[Tensor] = []
        gate_logits: list[Tensor] = []
        experts: list[Tensor] = []
        for i in range(self.sizes.layers):
            block = self.block(i)
            hidden = hidden + block.attention(block.before_attention(hidden))
            gate_inputs.append(block.before_experts(hidden).flatten(0, 1))
            gate_logits.append(route(i, gate_inputs))
            ids, weights = choose(gate_logits[-1], self.sizes.top_k)
            experts.append(ids)
            hidden = hidden + block.experts(gate_inputs[-1], ids, weights).view_as(hidden)
        return Pass(self.head(self.norm(hidden)), gate_inputs, gate_logits, experts)


def own_gates(model: MoELanguageModel) -> Router:
    """Each block's gate reads the block's own input."""
    return lambda block, inputs: model.block(block).gate(inputs[block])


def given(logits: Sequence[Tensor]) -> Router:
    """The gates do not run: the logits (tokens, experts) of each block are known before."""
    return lambda block, inputs: logits[block]


def new_model(sizes: Sizes, seed: int) -> MoELanguageModel:
    """A model with random weights; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MoELanguageModel(sizes)
