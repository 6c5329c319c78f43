"""SiDA's predictor at work: from the tokens' embeddings to the experts that they take.

The network of `runtime.training.predictor`, which reads prompts at once and then goes on, a token
of each sequence at a time, from the LSTM's state and its earlier outputs. That gives what reading
the whole sequence gives. It computes in float32 on the CPU, as the authors' code does.

What the choices mean (the *changed function*): with logits z of a layer's head, a token takes the
top-k experts by softmax(z), in place of those that the layer's router would take. Their softmax
weighs them, normalised where the model's router normalises; for one expert per token, as in Switch
Transformers, it is the expert's probability. Weights are rounded to the model's number format. No
expert skips a token because it has had many: that is a router's rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from runtime.architecture import Architecture
from runtime.functions.router import skip_small
from runtime.training.sparsemax import sparsemax
from schedules.errors import BadInput
from schedules.expert.sida_predictor import LSTM_LAYERS, WIDTH
from schedules.schedule import Schedule

SCORES = 1 << 22  # of attention, that are computed at once


@dataclass(frozen=True)
class Past:
    """What the network keeps of a micro-batch of n sequences.

    Parameters
    ----------
    outputs: (rows, WIDTH) of the LSTM, for every token that was read.
    offsets: the first row of each sequence, in `outputs`.
    states: (2, LSTM_LAYERS, n, WIDTH) state and cell of the LSTM.
    """

    outputs: Tensor
    offsets: Sequence[int]
    states: Tensor


class PredictorNetwork:
    """A predictor with the weights of `predictor_files`, float32 on the CPU."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self._lstm = [weights[f"lstm.{k}_l{i}"] for i in range(LSTM_LAYERS) for k in kinds]

    def read(
        self, embedded: Tensor, counts: Sequence[int], before: Sequence[int], past: Past
    ) -> Tensor:
        """Read new tokens, and return what the heads take of each: (t, WIDTH).

        `embedded` (t, h) has `counts` tokens of each sequence, one or more, one sequence after
        another, of which `before` tokens were read earlier. `past` is brought up to date.
        """
        if not any(before):
            past.states.zero_()
        compressed = functional.relu(self._linear("compression", embedded.float()))
        rows = [
            offset + n + i
            for offset, n, count in zip(past.offsets, before, counts, strict=True)
            for i in range(count)
        ]
        past.outputs[rows] = self._recur(compressed, counts, past.states)
        mixed = self._linear("residual", compressed)
        for new, read, n in _sequences(counts, before, past):
            mixed[new] += _attend(read, n)
        return mixed

    def logits(self, layer: int, mixed: Tensor) -> Tensor:
        """Logits (t, experts) of the layer with that number (see `schedules.layout`)."""
        return self._linear(f"heads.{layer}", mixed)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _recur(self, compressed: Tensor, counts: Sequence[int], states: Tensor) -> Tensor:
        """The LSTM's outputs, in the order of `compressed`; `states` go on.

        Step i takes token i of every sequence that has one, the longest sequences first.
        """
        order = sorted(range(len(counts)), key=lambda j: -counts[j])
        firsts = [sum(counts[:j]) for j in range(len(counts))]
        alive = [sum(n > i for n in counts) for i in range(max(counts))]
        packed = torch.tensor([firsts[j] + i for i, n in enumerate(alive) for j in order[:n]])
        before = [part[:, order] for part in states]
        made, *after = torch.lstm(
            compressed[packed],
            torch.tensor(alive),
            before,
            self._lstm,
            True,  # it has biases
            LSTM_LAYERS,
            0.0,  # dropout
            False,  # training
            False,  # in both directions
        )
        states[:, :, order] = torch.stack(after)
        outputs = torch.empty_like(made)
        outputs[packed] = made
        return outputs


def check_predictor(kind: type[Schedule], predictor: PredictorNetwork | None) -> None:
    """Raise `BadInput` for a schedule that needs a predictor and has none, or the other way."""
    needed = kind.change == "predicted"
    if needed and predictor is None:
        raise BadInput(f"schedule '{kind.name}' needs a trained predictor: give --predictor FILE")
    if predictor is not None and not needed:
        raise BadInput(f"schedule '{kind.name}' has no use for a predictor (--predictor)")


def choose(arch: Architecture, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Ids (t, top_k) int64, the best first, and weights (t, top_k) in the model's number format.

    Choices of too little weight are skipped where the model skips them, as its routers do.
    """
    weights, ids = logits.softmax(dim=-1).topk(arch.spec.top_k, dim=-1)
    if arch.gate_norm is not None:
        weights = weights / torch.linalg.vector_norm(weights, arch.gate_norm, dim=1, keepdim=True)
    if arch.spec.skip_below:
        skip_small(ids, weights, arch.spec.skip_below)
    return ids, weights.to(arch.dtype)


def _sequences(
    counts: Sequence[int], before: Sequence[int], past: Past
) -> Iterator[tuple[slice, Tensor, int]]:
    """For each sequence: its new tokens, the outputs of all its tokens, how many are not new."""
    start = 0
    for offset, n, count in zip(past.offsets, before, counts, strict=True):
        yield slice(start, start + count), past.outputs[offset : offset + n + count], n
        start += count


def _attend(read: Tensor, before: int) -> Tensor:
    """The sparsemax mixture, for each output from row `before` on, of itself and those before."""
    total, parts = len(read), []
    step = max(1, SCORES // total)
    for first in range(before, total, step):
        queries = read[first : first + step]
        later = torch.ones(len(queries), total, dtype=torch.bool).triu(first + 1)
        scores = (queries @ read.T / math.sqrt(WIDTH)).masked_fill(later, -math.inf)
        parts.append(sparsemax(scores) @ read)
    return torch.cat(parts)
