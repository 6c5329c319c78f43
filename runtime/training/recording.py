"""The routing of a held-out text, as a run's `routing.parquet`, and its statistics.

The text stands for what the model would have generated: of each request the first half is the
prompt (step 0, a row for every token), each later token is the input of a decode step. Generated
text repeats itself in so small a model, and its routing with it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.training.model import MoELanguageModel

Routes = NDArray[np.int64]
"""Expert ids by (layer, request, position, choice), the likeliest choice first."""


@torch.no_grad()
def routes(model: MoELanguageModel, tokens: Tensor) -> Routes:
    """Which experts the model takes for `tokens` (requests, context)."""
    taken = torch.stack(model(tokens).experts)
    return taken.view(len(taken), *tokens.shape, model.sizes.top_k).numpy()


def routing_frame(found: Routes, prompt_len: int) -> pd.DataFrame:
    """The columns of `routing.parquet`, one row per step, layer and token.

    All requests are one micro-batch. A token at position `prompt_len - 1 + s` is that of step s.
    """
    layer, request, position = (axis.ravel() for axis in np.indices(found.shape[:3]))
    columns = {
        "step": np.maximum(position - prompt_len + 1, 0).astype(np.int32),
        "layer": layer.astype(np.int16),
        "micro_batch": np.zeros(len(layer), dtype=np.int32),
        "request": request.astype(np.int32),
        "position": position.astype(np.int32),
    }
    flat = found.reshape(-1, found.shape[3]).astype(np.int16)
    columns |= {f"expert_{i}": flat[:, i] for i in range(flat.shape[1])}
    frame = pd.DataFrame(columns | {"batch": np.zeros(len(layer), dtype=np.int64)})
    return frame.sort_values(["step", "layer", "request", "position"], ignore_index=True)


@dataclass(frozen=True)
class Skew:
    """How uneven the routing is; lists are by layer.

    Parameters
    ----------
    top_1_share: share of the choices that fall on the most popular expert; even: 1 / experts.
    distinct: experts that any token takes.
    distinct_per_request: mean over requests of the experts that its tokens take.
    distinct_per_step: mean over positions of the experts that all requests' tokens there take.
    repeated: share of the tokens whose likeliest expert is also that of the token before.
    """

    top_1_share: list[float]
    distinct: list[int]
    distinct_per_request: list[float]
    distinct_per_step: list[float]
    repeated: list[float]


def skew(found: Routes, experts: int) -> Skew:
    """Statistics of routes."""
    layers = len(found)
    counts = np.array([np.bincount(layer.ravel(), minlength=experts) for layer in found])
    first = found[..., 0]
    return Skew(
        top_1_share=(counts.max(axis=1) / counts.sum(axis=1)).tolist(),
        distinct=(counts > 0).sum(axis=1).tolist(),
        distinct_per_request=[_distinct(found[i]) for i in range(layers)],
        distinct_per_step=[_distinct(found[i].swapaxes(0, 1)) for i in range(layers)],
        repeated=(first[:, :, 1:] == first[:, :, :-1]).mean(axis=(1, 2)).tolist(),
    )


def _distinct(groups: Routes) -> float:
    return float(np.mean([len(np.unique(group)) for group in groups]))
