"""HOBBIT's look-ahead: the gates of later layers, stacked, read the gate input of this layer.

HOBBIT (arXiv 2411.01433, section on layer-level prefetching) multiplies the hidden state of layer i
by the gates of layers i + 1 to i + 3 at once, because residual connections change it little from
one layer to the next. Nothing is trained.
"""

import torch
from torch import Tensor

from runtime.training.model import MoELanguageModel

DISTANCES = (1, 2, 3)
"""How many layers HOBBIT looks ahead, and how far pre-gates reach."""


def share_named(named: Tensor, taken: Tensor) -> float:
    """Share of the experts `taken` (tokens, k) that are among those `named` (tokens, any).

    >>> share_named(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 2], [3, 2]]))
    0.75
    """
    return float((taken[:, :, None] == named[:, None, :]).any(dim=-1).float().mean())


@torch.no_grad()
def look_ahead(model: MoELanguageModel, tokens: Tensor) -> dict[int, list[float]]:
    """By distance: for each layer from `distance` on, the share of its true top-k that is named.

    `tokens` has shape (rows, context). Distances that the model is too shallow for are left out.
    """
    done = model(tokens)
    top_k, layers = model.sizes.top_k, model.sizes.layers

    def accuracy(layer: int, distance: int) -> float:
        logits = model.block(layer).gate(done.gate_inputs[layer - distance])
        return share_named(logits.topk(top_k, dim=-1).indices, done.experts[layer])

    return {
        distance: [accuracy(layer, distance) for layer in range(distance, layers)]
        for distance in DISTANCES
        if distance < layers
    }
