"""SiDA's predictor: causal, and its losses as defined."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.training.predictor import (
    CROSS_ENTROPY,
    Predictor,
    distilled_experts,
    new_predictor,
    prediction_loss,
    sparse_attention,
    truncated_distillation,
)
from runtime.training.sparsemax import sparsemax

LOGITS = st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4, unique=True)


def predictor(seed: int = 0) -> Predictor:
    return new_predictor(width=6, hidden=8, layers=3, experts=4, seed=seed)


def embedded(rows: int = 2, context: int = 5) -> torch.Tensor:
    return torch.randn(rows, context, 6, generator=torch.Generator().manual_seed(7))


def softmax(values: list[float]) -> list[float]:
    parts = [math.exp(value) for value in values]
    return [part / sum(parts) for part in parts]


@given(LOGITS, LOGITS, st.integers(1, 4))
def test_distillation_looks_at_the_teachers_highest_logits(
    student: list[float], teacher: list[float], kept: int
) -> None:
    top = sorted(range(4), key=lambda e: -teacher[e])[:kept]
    a, b = softmax([student[e] for e in top]), softmax([teacher[e] for e in top])
    expected = sum(abs(x - y) for x, y in zip(a, b, strict=True)) / kept
    found = truncated_distillation(torch.tensor([student]), torch.tensor([teacher]), kept)
    assert found.item() == pytest.approx(expected, abs=1e-5)


@given(LOGITS)
def test_distillation_of_equal_logits_costs_nothing(teacher: list[float]) -> None:
    x = torch.tensor([teacher])
    assert truncated_distillation(x, x, 2).item() == 0
    assert truncated_distillation(x + 3, x, 2).item() == pytest.approx(0, abs=1e-6)


@given(LOGITS, LOGITS, st.sampled_from([1, 2]))
def test_the_loss_adds_cross_entropy_of_the_experts_taken(
    student: list[float], teacher: list[float], top_k: int
) -> None:
    s, t = torch.tensor([[student]]), torch.tensor([[teacher]])
    taken = sorted(range(4), key=lambda e: -teacher[e])[:top_k]
    entropy = -sum(math.log(softmax(student)[e]) for e in taken) / top_k
    distilled = truncated_distillation(s, t, distilled_experts(4, top_k)).item()
    assert prediction_loss(s, t, top_k).item() == (
        pytest.approx(CROSS_ENTROPY * entropy + distilled, abs=1e-5)
    )


@given(st.integers(1, 200), st.integers(1, 4))
def test_distillation_sees_more_than_is_taken(experts: int, top_k: int) -> None:
    kept = distilled_experts(experts, top_k)
    assert kept <= experts
    assert kept > top_k or kept == experts


def test_attention_mixes_what_was_read() -> None:
    states = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(2))
    found = sparse_attention(states)[0]
    for i, state in enumerate(states[0]):
        seen = states[0, : i + 1]
        assert torch.allclose(found[i], sparsemax(seen @ state / 3**0.5) @ seen, atol=1e-6)


@pytest.mark.parametrize("place", range(1, 5))
def test_a_token_changes_no_prediction_before_it(place: int) -> None:
    first = embedded(rows=1)
    second = first.clone()
    second[0, place] += 1
    before, after = predictor()(first), predictor()(second)
    assert torch.allclose(before[:, :place], after[:, :place], atol=1e-6)
    assert not torch.allclose(before[:, place], after[:, place], atol=1e-6)


def test_one_head_per_layer() -> None:
    found = predictor()(embedded())
    assert found.shape == (3, 10, 4)
    assert not torch.allclose(found[0], found[1])
    alone = predictor()(embedded()[1:])
    assert torch.allclose(found[:, 5:], alone, atol=1e-6)  # tokens of the second row


def test_weights_follow_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (predictor(seed)(embedded()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
