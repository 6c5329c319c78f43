"""SiDA: training lowers the predictor's loss, and its choices are those that run."""

from collections import Counter

import pytest
import torch

from runtime.training.fit import Course, evaluate
from runtime.training.sida import (
    by_token,
    hit_rate,
    predict,
    random_router,
    random_rows,
    record,
    sida,
    train_predictor,
)
from runtime.training.text import Text, windows
from tests.runtime.training.small_models import SIZES, model, tokens

IDS = torch.arange(300) * 7 % SIZES.vocabulary
TEXT = Text(IDS, IDS[:50], SIZES.vocabulary, 300, "")
COURSE = Course(steps=60, rows=8, learning_rate=1e-2)


def test_what_is_recorded_is_what_the_gates_said() -> None:
    small, rows = model(2), tokens(70)
    gates = record(small, rows)
    assert gates.shape == (SIZES.layers, 70, SIZES.context, SIZES.experts)
    every = torch.stack(small(rows).gate_logits)
    assert torch.allclose(gates.flatten(1, 2), every, atol=1e-5)


def test_rows_are_drawn_by_the_seed() -> None:
    first, again, other = (random_rows(9, 4, seed) for seed in (1, 1, 2))
    drawn = [next(first) for _ in range(20)]
    assert all(torch.equal(rows, next(again)) for rows in drawn)
    assert set(torch.cat(drawn).tolist()) == set(range(9))
    assert not torch.equal(drawn[0], next(other))


@pytest.mark.parametrize("top_k", [1, 2])
def test_training_lowers_the_loss_and_leaves_the_model(top_k: int) -> None:
    small = model(top_k)
    kept = {name: value.clone() for name, value in small.state_dict().items()}
    losses = train_predictor(small, TEXT, 16, COURSE, seed=0)[1]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(torch.equal(value, kept[name]) for name, value in small.state_dict().items())


def test_predictions_name_and_weigh_the_experts() -> None:
    small = model(2)
    predictor = train_predictor(small, TEXT, 8, Course(1, 2, 1e-3), seed=0)[0]
    done = small(tokens(), predict(small, predictor, tokens()))
    named = predictor(small.embedding(tokens()))
    assert torch.equal(torch.stack(done.experts), named.topk(2, dim=-1).indices)
    assert torch.allclose(torch.stack(done.gate_logits), named, atol=1e-6)


def test_hand_worked_hit_rates() -> None:
    """Three tokens; the gates take 0, 1, 2 first and 1, 0, 0 second."""
    gates = torch.tensor([[3.0, 2.0, 1.0], [2.0, 3.0, 1.0], [2.0, 1.0, 3.0]])
    predicted = torch.tensor([[3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    assert hit_rate(predicted, gates, 1, 1) == pytest.approx(1 / 3)
    assert hit_rate(predicted, gates, 2, 1) == pytest.approx(1)
    assert hit_rate(predicted, gates, 2, 2) == pytest.approx((1 + 2 + 1) / 6)
    assert hit_rate(predicted, gates, 9, 2) == 1


def test_usual_experts_are_counted_in_training() -> None:
    small = model()
    text = Text(tokens(1, 200)[0], tokens(1, 60, seed=1)[0], SIZES.vocabulary, 260, "")
    held_out = windows(text.held_out, SIZES.context)[:, :-1]
    gates = record(small, held_out).flatten(1, 2)
    rows = windows(text.training, SIZES.context)[:, :-1]
    first = record(small, rows).flatten(1, 2).argmax(dim=-1)
    for layer, share in enumerate(by_token(small, text, gates)):
        counts: dict[int, Counter[int]] = {}
        for token, expert in zip(rows.flatten().tolist(), first[layer].tolist(), strict=True):
            counts.setdefault(token, Counter())[expert] += 1
        usual = {t: min(c, key=lambda e, c=c: (-c[e], e)) for t, c in counts.items()}
        guesses = [usual.get(t, 0) for t in held_out.flatten().tolist()]
        right = gates[layer].argmax(dim=-1).tolist()
        hits = sum(a == b for a, b in zip(guesses, right, strict=True))
        assert share == pytest.approx(hits / len(right))


def test_figures_are_those_of_the_predictor() -> None:
    small = model()
    found = sida(small, TEXT, 16, COURSE, seed=0)
    predictor, losses = train_predictor(small, TEXT, 16, COURSE, seed=0)
    rows = windows(TEXT.held_out, SIZES.context)
    assert found.training == (losses[0], losses[-1])
    assert found.loss == evaluate(small, rows, lambda t: predict(small, predictor, t))
    assert found.taken == found.top_1  # one expert per token
    assert all(a <= b for a, b in zip(found.top_1, found.top_3, strict=True))
    assert len(found.by_token) == SIZES.layers


def test_random_experts_are_even() -> None:
    small = model()
    router = random_router(small, 0)(tokens(100))
    assert router is not None
    taken = small(tokens(100), router).experts[2]
    counts = taken.flatten().bincount(minlength=SIZES.experts) / taken.numel()
    assert counts.tolist() == pytest.approx([1 / SIZES.experts] * SIZES.experts, abs=0.06)
