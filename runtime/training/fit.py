"""Training and evaluation of the language model."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.training.model import MoELanguageModel, Pass, Router

BALANCE = 0.01
"""Weight of the load-balancing loss: alpha of Switch Transformers (arXiv 2101.03961, section
2.2)."""

CLIP = 1.0
"""Largest norm of a gradient, as in most language models since GPT-3 (arXiv 2005.14165, appendix
B)."""

T = TypeVar("T")

RouterOfTokens = Callable[[Tensor], Router | None]
"""From tokens (rows, context) to who routes them; None: the model's own gates."""


@dataclass(frozen=True)
class Course:
    """How long and how fast: the learning rate rises over a tenth of the steps, then falls as a
    cosine to a tenth of its peak."""

    steps: int
    rows: int
    learning_rate: float

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def next_token_loss(done: Pass, rows: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token; `rows` (rows, context + 1) hold the right answers."""
    return functional.cross_entropy(done.logits.flatten(0, 1), rows[:, 1:].flatten())


def load_balancing_loss(gate_logits: Tensor, experts: Tensor) -> Tensor:
    """`n` times the sum over `n` experts of (share of the choices) x (mean probability).

    It is 1 when both are uniform (Switch Transformers, arXiv 2101.03961, equations 4-6; with
    several experts per token, the share is of all choices).
    """
    n = gate_logits.shape[-1]
    share = experts.flatten().bincount(minlength=n) / experts.numel()
    return n * (share * gate_logits.softmax(dim=-1).mean(dim=0)).sum()


def training_loss(done: Pass, rows: Tensor) -> Tensor:
    """Next-token loss and the mean load-balancing loss of the blocks."""
    pairs = zip(done.gate_logits, done.experts, strict=True)
    balance = torch.stack([load_balancing_loss(*pair) for pair in pairs]).mean()
    return next_token_loss(done, rows) + BALANCE * balance


def fit(
    model: MoELanguageModel, batches: Iterable[Tensor], course: Course, router: Router | None = None
) -> list[float]:
    """Train the model in place; the training loss of each step in nats."""
    return descend(
        model, batches, course, lambda rows: training_loss(model(rows[:, :-1], router), rows)
    )


def descend(
    module: nn.Module, batches: Iterable[T], course: Course, loss_of: Callable[[T], Tensor]
) -> list[float]:
    """AdamW on `loss_of(batch)`, a step per batch; the losses."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=course.learning_rate)
    losses = []
    for step, batch in enumerate(islice(batches, course.steps)):
        optimizer.param_groups[0]["lr"] = course.rate(step)
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def evaluate(
    model: MoELanguageModel, rows: Tensor, router_of: RouterOfTokens = lambda tokens: None
) -> float:
    """Next-token loss in nats per token over all rows (rows, context + 1)."""
    total = 0.0
    for part in rows.split(32):  # rows at a time, to bound memory
        tokens = part[:, :-1]
        total += float(next_token_loss(model(tokens, router_of(tokens)), part)) * len(part)
    return total / len(rows)
