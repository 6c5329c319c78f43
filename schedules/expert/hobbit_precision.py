"""HOBBIT: how important an expert is to a token, and how well stacked gates foresee experts."""

from math import gcd

import numpy as np
from numpy.typing import NDArray

from schedules.model import LayerSpec, ModelSpec
from schedules.quantisation import GROUP

Weights = NDArray[np.float64]

HIGH_UP_TO, LOW_UP_TO = 0.6, 0.9
"""Thresholds T1 and T2: up to the first an expert comes in the model's own format, up to the second
in 4 bits, beyond it not at all (HOBBIT, arXiv 2411.01433, section 3.2)."""

LOW_BITS = 4

ACCURACY = (0.96, 0.90, 0.84)
"""Share of the experts that the gates of the next layers name rightly from this layer's input: 96 %
one layer ahead, 90 % two (HOBBIT, section 3.3). Three ahead: assumed, 6 points less again."""


def unimportance(weights: Weights) -> Weights:
    """Score of each choice: the share of its token's gate weights that better choices have.

    The first choice has score 0. By hand, weights 0.5, 0.3 and 0.2: scores 0, 0.5 and 0.8. Of equal
    weights, the one that is named first is the better.

    Parameters
    ----------
    weights: of the choices, (tokens, top_k), above 0; they need not sum to 1.
    """
    order = np.argsort(-weights, axis=1, kind="stable")
    best_first = np.take_along_axis(weights, order, axis=1)
    better = np.zeros_like(best_first)
    better[:, 1:] = np.cumsum(best_first, axis=1)[:, :-1]
    scores = np.empty_like(better)
    np.put_along_axis(scores, order, better, axis=1)
    scores /= weights.sum(axis=1, keepdims=True)
    return scores


def draw_scores(rng: np.random.Generator, shape: tuple[int, int]) -> Weights:
    """`unimportance` for drawn gate weights, where routing says who is chosen, and no more.

    As if logits were independent Gumbel variables: the weights of the best k are then as 1 / G_1,
    1 / G_2, ..., with G_i the i-th arrival of a Poisson process. Choices are in the order of their
    weights; the first has score 0 and is always taken in high precision.

    By hand, for two choices: the second one's score is G_2 / (G_1 + G_2) = 1 / (1 + u), u uniform
    in 0 to 1, which exceeds T with probability (1 - T) / T: a third comes high, 5/9 low, 1/9 not at
    all; of all choices 2/3, 5/18 and 1/18.

    Parameters
    ----------
    shape: (tokens, top_k).
    """
    return unimportance(1 / np.cumsum(rng.exponential(size=shape), axis=1))


def mistaken(
    rng: np.random.Generator, ids: NDArray[np.int64], n_experts: int, accuracy: float
) -> NDArray[np.int64]:
    """Expert ids of which a share of 1 - `accuracy` is replaced by other experts at random."""
    wrong = rng.random(ids.shape) >= accuracy
    shift = rng.integers(1, n_experts, ids.shape)
    return np.where(wrong, (ids + shift) % n_experts, ids)


def foreseen_rightly(named: NDArray[np.int64], truth: NDArray[np.int64]) -> int:
    """How many of a gate's choices (tokens, top_k) a prediction named for the same token.

    >>> foreseen_rightly(np.array([[3, 1], [0, 2]]), np.array([[1, 3], [0, 4]]))
    3
    """
    return int((named[:, :, None] == truth[:, None, :]).any(axis=1).sum())


def group_of(model: ModelSpec, spec: LayerSpec) -> int:
    """Elements that share a scale: 64, or as many as fit an even number of times into each row.

    Rows are as wide as what enters an expert, h, and as what is between, f; an even number, because
    packed rows end at a multiple of 4 bytes. By hand, gcd(128, 4096, 14336) / 2 = 64 for Mixtral.
    """
    return max(1, gcd(2 * GROUP, model.hidden_size, spec.ffn_size) // 2)
