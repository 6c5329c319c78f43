"""SiDA's hash function: a small network that names all layers' experts before the model runs.

SiDA (arXiv 2310.18859), section on the design of the hash function: embeddings are compressed by a
fully connected layer, read by a two-layer LSTM and mixed by attention with sparsemax; a residual
connection and one linear head per MoE layer follow. It is trained by cross-entropy and truncated
knowledge distillation: only the experts to which the router gives the highest logits count, because
the many near zero carry no information. The form of both losses and their weights are those of the
authors' code (github.com/timlee0212/SiDA-MoE, src/model/predictor.py).

Simplified or changed: the authors' model is an encoder, so their attention sees all tokens; ours
writes text, so attention is masked to tokens that have been read, else it would betray the next
one. Scores are divided by the square root of the width, and sparsemax is that of its paper (theirs
subtracts 1 twice and normalises afterwards). For a model with several experts per token the
cross-entropy is the mean over the experts taken.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.training.sparsemax import sparsemax

CROSS_ENTROPY = 0.005
"""Weight of the cross-entropy beside the distillation loss, of the authors' code."""

DISTILLED = 30 / 128
"""Share of the experts that distillation looks at: 30 of 128 in the authors' code."""


def distilled_experts(experts: int, top_k: int) -> int:
    """How many logits the truncated distillation keeps, `T`: always more than are taken.

    >>> distilled_experts(128, 1), distilled_experts(16, 1), distilled_experts(8, 2)
    (30, 4, 3)
    """
    return min(experts, max(top_k + 1, math.ceil(DISTILLED * experts)))


class Predictor(nn.Module):
    """From token embeddings (rows, context, width) to gate logits of all layers."""

    def __init__(self, width: int, hidden: int, layers: int, experts: int) -> None:
        super().__init__()
        self.compression = nn.Linear(width, hidden)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=2, batch_first=True)
        self.residual = nn.Linear(hidden, hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, experts) for _ in range(layers))

    def forward(self, embedded: Tensor) -> Tensor:
        """Shape (layers, tokens, experts); a token's logits depend on it and those before."""
        compressed = functional.relu(self.compression(embedded))
        read, _ = self.lstm(compressed)
        mixed = sparse_attention(read) + self.residual(compressed)
        return torch.stack([head(mixed).flatten(0, 1) for head in self.heads])


def sparse_attention(states: Tensor) -> Tensor:
    """Each state's sparsemax mixture of itself and the states before it; shape of `states`."""
    context, hidden = states.shape[1:]
    scores = states @ states.mT / math.sqrt(hidden)
    later = torch.ones(context, context, dtype=torch.bool).triu(1)
    return sparsemax(scores.masked_fill(later, -math.inf)) @ states


def truncated_distillation(student: Tensor, teacher: Tensor, kept: int) -> Tensor:
    """Mean absolute difference of the softmaxes over the teacher's `kept` highest logits.

    Both have shape (..., experts).
    """
    top = teacher.topk(kept, dim=-1).indices
    difference = student.gather(-1, top).softmax(dim=-1) - teacher.gather(-1, top).softmax(dim=-1)
    return difference.abs().mean()


def prediction_loss(student: Tensor, teacher: Tensor, top_k: int) -> Tensor:
    """What the predictor minimises; logits (layers, tokens, experts) of predictor and gates."""
    taken = teacher.topk(top_k, dim=-1).indices
    cross_entropy = -student.log_softmax(dim=-1).gather(-1, taken).mean()
    kept = distilled_experts(teacher.shape[-1], top_k)
    return CROSS_ENTROPY * cross_entropy + truncated_distillation(student, teacher, kept)


def new_predictor(width: int, hidden: int, layers: int, experts: int, seed: int) -> Predictor:
    """A predictor with random weights; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Predictor(width, hidden, layers, experts)
