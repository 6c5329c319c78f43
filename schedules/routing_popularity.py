"""Which experts are popular: what an offline profile of a layer's routing would show."""

import numpy as np
from numpy.typing import NDArray

from schedules.model import LayerSpec
from schedules.routing import Routing
from schedules.routing_chains import chains


def popularity(routing: Routing, layer: LayerSpec) -> NDArray[np.float64]:
    """Probability that a token takes each of the layer's experts, shape (n_experts,).

    It is exact, as from an endless profile; with uniform routing all are alike. Recorded routing
    counts as `Routing.inclusion` does: a decoder's shares are those of its decode steps.

    >>> from schedules.model_presets import load_model
    >>> layer = load_model("mixtral-8x7b").decoder_layers[0]
    >>> popularity(Routing(), layer).tolist()
    [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]
    """
    n_experts, top_k = layer.n_experts, layer.top_k
    if routing.kind == "uniform":
        return np.full(n_experts, top_k / n_experts)
    shares: NDArray[np.float64]
    (shares,) = routing.inclusion(n_experts, top_k, layer.stack, layer.index)
    if routing.kind == "recorded":
        return shares
    drawn = chains(routing.strengths(layer.stack), routing.seed, layer.stack, n_experts, top_k)
    by_expert = np.empty(n_experts)
    by_expert[drawn.experts(layer.index)] = shares  # they are in the order of ranks
    return by_expert
