"""Sparsemax against a projection that tries every support."""

import math
from itertools import combinations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runtime.training.sparsemax import sparsemax

SCORES = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=6)


def projection(scores: list[float]) -> list[float]:
    """The nearest point of the simplex: of every face, the nearest point that lies in it."""
    n = len(scores)
    found: list[tuple[float, list[float]]] = []
    for size in range(1, n + 1):
        for face in combinations(range(n), size):
            shift = (1 - sum(scores[i] for i in face)) / size
            point = [scores[i] + shift if i in face else 0.0 for i in range(n)]
            if min(point) >= -1e-12:
                found.append((math.dist(point, scores), point))
    return min(found)[1]


@given(SCORES)
def test_is_the_nearest_point_of_the_simplex(scores: list[float]) -> None:
    found = sparsemax(torch.tensor(scores, dtype=torch.float64))
    assert torch.allclose(found, torch.tensor(projection(scores), dtype=torch.float64), atol=1e-9)


@given(SCORES, st.integers(-30, 30))
def test_a_shift_of_all_scores_changes_nothing(scores: list[float], shift: int) -> None:
    x = torch.tensor(scores, dtype=torch.float64)
    assert torch.allclose(sparsemax(x), sparsemax(x + shift), atol=1e-9)


@given(SCORES, st.integers(1, 4))
def test_masked_scores_count_for_nothing(scores: list[float], masked: int) -> None:
    x = torch.tensor(scores, dtype=torch.float64)
    longer = torch.cat([x, torch.full((masked,), -math.inf, dtype=torch.float64)])
    assert torch.equal(sparsemax(longer), torch.cat([sparsemax(x), torch.zeros(masked)]).double())


@given(SCORES)
@settings(max_examples=50)
def test_gradient_is_that_of_small_steps(scores: list[float]) -> None:
    """Away from the kinks: with these shifts no score is the mean of others less a share of 1."""
    x = torch.tensor(scores, dtype=torch.float64) + 0.0137 * torch.arange(len(scores)) ** 2
    assert torch.autograd.gradcheck(sparsemax, x.requires_grad_(), eps=1e-7, atol=1e-5)


def test_rows_are_independent() -> None:
    x = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[0.2, 0.4], [5.0, 5.5]]])

    def alone(i: int, j: int) -> Tensor:
        return sparsemax(x[i, j])

    rows = sparsemax(x)
    assert all(torch.equal(rows[i, j], alone(i, j)) for i in range(2) for j in range(2))
