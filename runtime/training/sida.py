"""Trains SiDA's predictor on recorded routing and lets its choices replace the router."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.training.fit import Course, RouterOfTokens, descend, evaluate
from runtime.training.look_ahead import share_named
from runtime.training.model import MoELanguageModel, Router, given
from runtime.training.predictor import Predictor, new_predictor, prediction_loss
from runtime.training.text import Text, windows


@dataclass(frozen=True)
class SiDA:
    """How well all experts are known before the model runs; lists are by layer.

    Parameters
    ----------
    top_1: share of the tokens whose likeliest expert is predicted first.
    top_3: share of the tokens whose likeliest expert is among the three predicted first.
    taken: share of the experts taken that the predictor would take.
    by_token: `top_1` of a table that knows the token alone: its most frequent expert in training.
    loss: held-out, in nats per token, when the predictor replaces the router.
    random_loss: the same with experts drawn at random.
    training: first and last training loss of the predictor.
    """

    top_1: list[float]
    top_3: list[float]
    taken: list[float]
    by_token: list[float]
    loss: float
    random_loss: float
    training: tuple[float, float]


def train_predictor(
    model: MoELanguageModel, text: Text, hidden: int, course: Course, seed: int
) -> tuple[Predictor, list[float]]:
    """A predictor of the model's gates, and its training losses; the model stays as it is."""
    sizes = model.sizes
    predictor = new_predictor(sizes.width, hidden, sizes.layers, sizes.experts, seed)
    rows = windows(text.training, sizes.context)[:, :-1]
    gates = record(model, rows)

    def lessons() -> Iterator[tuple[Tensor, Tensor]]:
        for some in random_rows(len(rows), course.rows, seed):
            yield model.embedding(rows[some]).detach(), gates[:, some].flatten(1, 2)

    losses = descend(
        predictor,
        lessons(),
        course,
        lambda lesson: prediction_loss(predictor(lesson[0]), lesson[1], sizes.top_k),
    )
    return predictor, losses


@torch.no_grad()
def record(model: MoELanguageModel, rows: Tensor) -> Tensor:
    """The gate logits of tokens (rows, context), shape (layers, rows, context, experts)."""
    parts = [torch.stack(model(part).gate_logits) for part in rows.split(32)]
    return torch.cat(parts, dim=1).unflatten(1, rows.shape)


def random_rows(rows: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Numbers of rows, `batch` at a time, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(rows, (batch,), generator=generator)


@torch.no_grad()
def predict(model: MoELanguageModel, predictor: Predictor, tokens: Tensor) -> Router:
    """A router that asks the predictor alone; ids and weights of the experts come from it."""
    return given(list(predictor(model.embedding(tokens))))


def sida(model: MoELanguageModel, text: Text, hidden: int, course: Course, seed: int) -> SiDA:
    """Train a predictor and measure it on the held-out text."""
    predictor, losses = train_predictor(model, text, hidden, course, seed)
    rows = windows(text.held_out, model.sizes.context)
    gates = record(model, rows[:, :-1]).flatten(1, 2)
    with torch.no_grad():
        predicted = predictor(model.embedding(rows[:, :-1]))
    pairs = list(zip(predicted, gates, strict=True))
    k = model.sizes.top_k
    return SiDA(
        top_1=[hit_rate(p, g, 1, 1) for p, g in pairs],
        top_3=[hit_rate(p, g, 3, 1) for p, g in pairs],
        taken=[hit_rate(p, g, k, k) for p, g in pairs],
        by_token=by_token(model, text, gates),
        loss=evaluate(model, rows, lambda tokens: predict(model, predictor, tokens)),
        random_loss=evaluate(model, rows, random_router(model, seed)),
        training=(losses[0], losses[-1]),
    )


def hit_rate(predicted: Tensor, gates: Tensor, named: int, taken: int) -> float:
    """Share of the gates' `taken` likeliest experts among the `named` likeliest predicted."""
    most = min(named, predicted.shape[-1])
    return share_named(predicted.topk(most, dim=-1).indices, gates.topk(taken, dim=-1).indices)


def by_token(model: MoELanguageModel, text: Text, gates: Tensor) -> list[float]:
    """Hit rate by layer of each token's most frequent expert in the training text.

    `gates` are the logits (layers, tokens, experts) of the held-out text. A token that the
    training text lacks is given expert 0.
    """
    context, experts = model.sizes.context, model.sizes.experts
    rows = windows(text.training, context)[:, :-1]
    cells = rows * experts + record(model, rows).argmax(dim=-1)
    counts = torch.stack(
        [layer.flatten().bincount(minlength=text.vocabulary * experts) for layer in cells]
    ).unflatten(1, (text.vocabulary, experts))
    tokens = windows(text.held_out, context)[:, :-1].flatten()
    guesses = counts.argmax(dim=-1)[:, tokens]
    return (guesses == gates.argmax(dim=-1)).float().mean(dim=-1).tolist()


def random_router(model: MoELanguageModel, seed: int) -> RouterOfTokens:
    """Gates that answer with noise."""
    generator = torch.Generator().manual_seed(seed)
    layers, experts = model.sizes.layers, model.sizes.experts

    def router_of(tokens: Tensor) -> Router:
        return given(list(torch.randn(layers, tokens.numel(), experts, generator=generator)))

    return router_of
