"""HOBBIT: how important an expert is to a token, and how well stacked gates foresee experts."""

import numpy as np
from numpy.typing import NDArray

HIGH_UP_TO, LOW_UP_TO = 0.6, 0.9
"""Thresholds T1 and T2: up to the first an expert comes in the model's own format, up to the second
in 4 bits, beyond it not at all (HOBBIT, arXiv 2411.01433, section 3.2)."""

LOW_BITS = 4

ACCURACY = (0.96, 0.90, 0.84)
"""Share of the experts that the gates of the next layers name rightly from this layer's input: 96 %
one layer ahead, 90 % two (HOBBIT, section 3.3). Three ahead: assumed, 6 points less again."""


def draw_scores(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Unimportance of each choice: the gate weight that a token's better choices have in all.

    Routing says who is chosen, not with which weight, so weights are drawn: as if logits were
    independent Gumbel variables. The weights of the best k are then as 1 / G_1, 1 / G_2, ..., with
    G_i the i-th arrival of a Poisson process. Choices are in the order of their weights; the first
    has score 0 and is always taken in high precision.

    By hand, for two choices: the second one's score is G_2 / (G_1 + G_2) = 1 / (1 + u), u uniform
    in 0 to 1, which exceeds T with probability (1 - T) / T: a third comes high, 5/9 low, 1/9 not at
    all; of all choices 2/3, 5/18 and 1/18.

    Parameters
    ----------
    shape: (tokens, top_k).
    """
    weights = 1 / np.cumsum(rng.exponential(size=shape), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.cumsum(weights, axis=1) - weights


def mistaken(
    rng: np.random.Generator, ids: NDArray[np.int64], n_experts: int, accuracy: float
) -> NDArray[np.int64]:
    """Expert ids of which a share of 1 - `accuracy` is replaced by other experts at random."""
    wrong = rng.random(ids.shape) >= accuracy
    shift = rng.integers(1, n_experts, ids.shape)
    return np.where(wrong, (ids + shift) % n_experts, ids)
