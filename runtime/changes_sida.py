"""SiDA in plain form: every pass lets the predictor read each whole sequence anew.

Definition of the changed function: see `runtime.predictor`. The network here is the one that is
trained (`runtime.training.predictor`), which keeps nothing from pass to pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.changes import Change, PlainModel, named_ffn
from runtime.functions.router import Routed
from runtime.predictor import PredictorNetwork, choose
from runtime.training.predictor import Predictor
from schedules.expert.sida_predictor import WIDTH


class Predicted(Change):
    """A predictor names the experts of all layers, and their weights; routers never run.

    The first pass reads prompts, each later one a token of every sequence. In a model with an
    encoder what the decoder reads follows the prompt that the encoder has read.
    """

    def __init__(self, network: PredictorNetwork) -> None:
        self.network = network
        self.read: list[Tensor] = []  # embeddings (n, h) of each sequence

    def begin(self, plain: PlainModel, ids: Tensor, positions: Tensor) -> None:
        tables = plain.source
        if self.read:
            new = tables.embedding()[ids].split(1)
            self.read = [torch.cat(pair) for pair in zip(self.read, new, strict=True)]
        else:
            starts = torch.nonzero(positions == 0).flatten().tolist()[1:]
            self.read = list(tables.encoder_embedding()[ids].tensor_split(starts))
            new = self.read
        numbers, model = _trained_form(self.network)
        passes = [
            model(read.float()[None])[:, -len(some) :]
            for read, some in zip(self.read, new, strict=True)
        ]
        self.logits = dict(zip(numbers, torch.cat(passes, dim=1), strict=True))

    def ffn(
        self,
        plain: PlainModel,
        layer: int,
        hidden: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        named_ffn(plain, layer, hidden, Routed(hidden, *choose(plain.arch, self.logits[layer])))


def _trained_form(network: PredictorNetwork) -> tuple[list[int], Predictor]:
    """The numbers of the heads' layers, and the network as it is trained, whose heads count up."""
    weights = dict(network.weights)
    numbers = sorted({int(name.split(".")[1]) for name in weights if name.startswith("heads.")})
    for head, number in enumerate(numbers):
        for part in ("weight", "bias"):
            weights[f"heads.{head}.{part}"] = weights.pop(f"heads.{number}.{part}")
    experts = len(weights["heads.0.bias"]) if numbers else 0
    width = weights["compression.weight"].shape[1]
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and not used
        model = Predictor(width, WIDTH, len(numbers), experts)
    model.load_state_dict(weights)
    return numbers, model
