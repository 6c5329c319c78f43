"""Training: losses as defined, and they fall."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.training.fit import (
    Course,
    evaluate,
    fit,
    load_balancing_loss,
    next_token_loss,
    training_loss,
)
from runtime.training.text import random_windows, windows
from tests.runtime.training.small_models import SIZES, model, tokens

COURSE = Course(steps=30, rows=8, learning_rate=1e-2)


@given(st.integers(2, 9), st.integers(1, 5))
def test_balanced_routing_costs_one(experts: int, rounds: int) -> None:
    ids = torch.arange(experts).repeat(rounds)[:, None]
    assert load_balancing_loss(torch.zeros(len(ids), experts), ids).item() == pytest.approx(1)


def test_one_expert_for_all_costs_the_number_of_experts() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).repeat(6, 1)
    assert load_balancing_loss(logits, torch.zeros(6, 1, dtype=torch.long)).item() == (
        pytest.approx(4)
    )


def test_hand_worked_load_balancing() -> None:
    """Shares 3/4 and 1/4, probabilities 0.6 and 0.4: 2 x (0.45 + 0.1)."""
    logits = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    ids = torch.tensor([[0, 0], [0, 1]])
    assert load_balancing_loss(logits, ids).item() == pytest.approx(1.1)


def test_loss_is_that_of_the_next_token() -> None:
    small, rows = model(), tokens(2, SIZES.context + 1)
    done = small(rows[:, :-1])
    probabilities = done.logits.softmax(dim=-1)
    picked = [
        -math.log(probabilities[row, place, rows[row, place + 1]].item())
        for row in range(2)
        for place in range(SIZES.context)
    ]
    assert next_token_loss(done, rows).item() == pytest.approx(sum(picked) / len(picked), rel=1e-5)
    assert training_loss(done, rows) > next_token_loss(done, rows)


def test_evaluation_is_the_mean_over_all_rows() -> None:
    small, rows = model(), tokens(70, SIZES.context + 1)
    with torch.no_grad():
        whole = next_token_loss(small(rows[:, :-1]), rows).item()
    assert evaluate(small, rows) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_loss_falls_and_twice_alike(top_k: int) -> None:
    text = torch.arange(400) * 7 % SIZES.vocabulary  # the next token follows from the last
    rows = windows(text, SIZES.context)
    losses, ends = [], []
    for _ in range(2):
        small = model(top_k)
        start = evaluate(small, rows)
        losses.append(fit(small, random_windows(text, SIZES.context, 8, 0), COURSE))
        ends.append(evaluate(small, rows))
    assert ends[0] < 0.7 * start
    assert losses[0] == losses[1]
    assert ends[0] == ends[1]


@given(st.integers(2, 200))
def test_the_rate_rises_then_falls_to_a_tenth(steps: int) -> None:
    course = Course(steps, 1, 1.0)
    rates = [course.rate(step) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert course.rate(steps) == pytest.approx(0.1)
