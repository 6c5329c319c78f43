"""Trains SiDA's predictor for a checkpoint, on prompts and what the model writes after them.

The plain model runs, and what its routers answer is recorded beside the embeddings that the
predictor will read: of prompts, and of greedily generated tokens. Then the predictor is trained as
in `sida`, and measured on prompts that it has not seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from runtime.changes import Change, PlainModel
from runtime.functions.norms import norm
from runtime.plain import plain_generate
from runtime.plain_encoder_decoder import generate
from runtime.predictor_files import predicted_layers
from runtime.training.fit import Course, descend
from runtime.training.predictor import Predictor, new_predictor, prediction_loss
from runtime.training.sida import hit_rate, random_rows
from runtime.weights import WeightSource
from schedules.errors import BadInput
from schedules.expert.sida_predictor import WIDTH

TOGETHER = 16  # sequences that the plain model runs at once
HELD_OUT = 10  # every tenth prompt is held out


class Lesson(NamedTuple):
    """One sequence of n tokens, with L layers that have E experts each; or several, padded.

    embedded (n, h) float32; gates (n, L, E) the routers' logits; known (n, L) whether a layer has
    routed a token: in a model with an encoder each of its two stacks routes tokens of its own.
    """

    embedded: Tensor
    gates: Tensor
    known: Tensor


@dataclass(frozen=True)
class Trained:
    """A predictor, its losses, and by layer its hit rates on `held_out` prompts.

    `taken` is the share of the experts taken that it would take; `top_1` and `top_3` say how often
    the likeliest expert is predicted first, or among the first three.
    """

    predictor: Predictor
    losses: list[float]
    layers: list[int]
    taken: list[float]
    top_1: list[float]
    top_3: list[float]


def train_for(
    source: WeightSource,
    prompts: Sequence[Sequence[int]],
    gen_len: int,
    course: Course,
    seed: int,
) -> Trained:
    """Record, train and measure. Raises `BadInput` for a model without experts, and for fewer than
    two prompts: one must be held out."""
    spec = source.architecture.spec
    layers = predicted_layers(spec)
    if not layers:
        raise BadInput(f"{spec.name} has no experts to be predicted")
    if len(prompts) < 2:
        raise BadInput("one prompt alone cannot train a predictor and measure it; give at least 2")
    lessons = record(source, prompts, gen_len)
    held_out = lessons[::HELD_OUT]
    training = [lesson for i, lesson in enumerate(lessons) if i % HELD_OUT]
    predictor, losses = fit_predictor(training, spec.top_k, course, seed)
    found = [_measured(predictor, held_out, i) for i in range(len(layers))]
    k = spec.top_k
    return Trained(
        predictor,
        losses,
        layers,
        taken=[hit_rate(ours, gates, k, k) for ours, gates in found],
        top_1=[hit_rate(ours, gates, 1, 1) for ours, gates in found],
        top_3=[hit_rate(ours, gates, 3, 1) for ours, gates in found],
    )


# -- recording -------------------------------------------------------------------------------------


class Recorder(Change):
    """Changes nothing, and keeps what the predictor would read and what routers answer."""

    def __init__(self) -> None:
        self.embedded: list[Tensor] = []  # by pass, (tokens, h)
        self.counts: list[list[int]] = []  # by pass, tokens of each sequence
        self.gates: list[dict[int, Tensor]] = []  # by pass and layer, (tokens, E)

    def begin(self, plain: PlainModel, ids: Tensor, positions: Tensor) -> None:
        counts = [1] * len(ids)
        table = plain.source.embedding()
        if not self.counts:  # prompts
            table = plain.source.encoder_embedding()
            firsts = [*torch.nonzero(positions == 0).flatten().tolist(), len(ids)]
            counts = [b - a for a, b in pairwise(firsts)]
        self.embedded.append(table[ids].float())
        self.counts.append(counts)
        self.gates.append({})

    def ffn(
        self,
        plain: PlainModel,
        layer: int,
        hidden: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.gates[-1][layer] = gate_logits(plain, layer, hidden)
        super().ffn(plain, layer, hidden, lengths)

    def lessons(self, layers: Sequence[int]) -> list[Lesson]:
        """What was recorded, by sequence."""
        recorded = zip(self.embedded, self.gates, strict=True)
        passes = [self._of_pass(*one, layers) for one in recorded]
        parts = [
            list(zip(*(x.split(counts) for x in whole), strict=True))
            for whole, counts in zip(passes, self.counts, strict=True)
        ]
        return [
            Lesson(*(torch.cat(some) for some in zip(*sequence, strict=True)))
            for sequence in zip(*parts, strict=True)
        ]

    @staticmethod
    def _of_pass(embedded: Tensor, gates: dict[int, Tensor], layers: Sequence[int]) -> Lesson:
        experts = next(iter(gates.values())).shape[1]
        none = torch.zeros(len(embedded), experts)
        known = torch.tensor([layer in gates for layer in layers]).expand(len(embedded), -1)
        return Lesson(
            embedded, torch.stack([gates.get(layer, none) for layer in layers], dim=1), known
        )


def gate_logits(plain: PlainModel, layer: int, hidden: Tensor) -> Tensor:
    """What a layer's router answers to hidden (t, H): (t, experts) in float32."""
    w, experts = plain.layers[layer], plain.arch.spec.n_experts
    normed = torch.empty_like(hidden)
    norm(plain.arch, hidden, w.vectors["ffn_norm"], normed)
    pieces = [rows.float() for _, _, rows in w.rows("router", 0, experts)]
    logits = normed.float() @ torch.cat(pieces).T
    return logits + w.vectors["router_bias"] if "router_bias" in w.vectors else logits


def record(source: WeightSource, prompts: Sequence[Sequence[int]], gen_len: int) -> list[Lesson]:
    """A lesson for each prompt, with `gen_len` generated tokens, the last of which is not read."""
    make = plain_generate if source.architecture.encoder_decoder is None else generate
    layers, lessons = predicted_layers(source.architecture.spec), []
    for first in range(0, len(prompts), TOGETHER):
        recorder = Recorder()
        make(source, prompts[first : first + TOGETHER], gen_len, change=recorder)
        lessons += recorder.lessons(layers)
    return lessons


# -- training --------------------------------------------------------------------------------------


def fit_predictor(
    lessons: Sequence[Lesson], top_k: int, course: Course, seed: int
) -> tuple[Predictor, list[float]]:
    """A trained predictor and its losses.

    Embeddings are small in some models and large in others: the compression begins divided by
    their deviation.
    """
    (_, layers, experts), width = lessons[0].gates.shape, lessons[0].embedded.shape[1]
    predictor = new_predictor(width, WIDTH, layers, experts, seed)
    with torch.no_grad():
        deviation = torch.cat([lesson.embedded for lesson in lessons]).std()
        predictor.compression.weight.div_(deviation)

    def batches() -> Iterator[Lesson]:
        for some in random_rows(len(lessons), course.rows, seed):
            yield padded([lessons[i] for i in some.tolist()])

    def loss_of(batch: Lesson) -> Tensor:
        known = batch.known
        return prediction_loss(answers(predictor, batch)[known], batch.gates[known], top_k)

    return predictor, descend(predictor, batches(), course, loss_of)


def padded(lessons: Sequence[Lesson]) -> Lesson:
    """Several lessons as one, all as long as the longest: nothing is known of what was added."""
    return Lesson(*(pad_sequence(list(x), batch_first=True) for x in zip(*lessons, strict=True)))


def answers(predictor: Predictor, batch: Lesson) -> Tensor:
    """The predictor's logits, shape of the gates of padded lessons: (rows, n, L, E)."""
    logits = predictor(batch.embedded).unflatten(1, batch.embedded.shape[:2])
    return logits.permute(1, 2, 0, 3)


@torch.no_grad()
def _measured(predictor: Predictor, lessons: Sequence[Lesson], layer: int) -> tuple[Tensor, Tensor]:
    """Predicted and true logits (tokens, E) of a layer, those of all lessons together."""
    batch = padded(lessons)
    known = batch.known[..., layer]
    return answers(predictor, batch)[known][:, layer], batch.gates[known][:, layer]
