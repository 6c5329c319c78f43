"""Expected experts and rows of a batch, from how likely a token takes each expert."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schedules.routing_chains import Chains
from schedules.routing_draws import FloatArray, popularity
from schedules.routing_strengths import Strengths

DRAWS = 2**18  # tokens of a sample: a standard error of about 1 % for any number of experts


@lru_cache(maxsize=64)
def inclusion(strengths: Strengths, n_experts: int, top_k: int) -> FloatArray:
    """Probability that a token takes each expert, by rank, shape (n_experts,); its sum is `top_k`.

    Drawing one after another without replacement is a race: expert j arrives at a time that is
    exponential with rate w_j, and the first k are taken (Yellott, J. Math. Psych. 15, 1977). Expert
    i is taken if fewer than k others have arrived before it; with v = exp(-w_i t) that is the
    integral over v in (0, 1) of P(fewer than k others by t), where j arrives by t with
    probability 1 - v^(w_j / w_i).
    """
    active = strengths.active
    most = None if active is None else max(active, top_k)
    weights = popularity(n_experts, strengths.exponent, most)
    if top_k == 1:
        return weights
    drawn = weights[weights > 0]
    if top_k >= len(drawn):
        return np.asarray(np.where(weights > 0, 1.0, 0.0))
    v, share = _nodes()
    taken = [_fewer_than(top_k, drawn, i, v) @ share for i in range(len(drawn))]
    return np.concatenate([taken, np.zeros(n_experts - len(drawn))])


def _fewer_than(k: int, weights: FloatArray, i: int, v: FloatArray) -> FloatArray:
    """P(fewer than k others have arrived when a share v of expert i's time is left), by v."""
    count = np.zeros((k, len(v)))  # probability of 0, ..., k - 1 arrivals
    count[0] = 1.0
    for j in range(len(weights)):
        if j != i:
            away = v ** (weights[j] / weights[i])
            count[1:] = count[1:] * away + count[:-1] * (1 - away)
            count[0] *= away
    return np.asarray(count.sum(axis=0))


@lru_cache(maxsize=1)
def _nodes() -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the double-exponential rule on (0, 1), which forgives steep ends.

    Takahasi and Mori, Publ. RIMS 9 (1974): x = tanh(pi/2 sinh t).
    """
    step = 1 / 16
    t = np.arange(-56, 57) * step
    inner = np.pi / 2 * np.sinh(t)
    v = 1 / (1 + np.exp(-2 * inner))
    share = step * np.pi / 2 * np.cosh(t) / (2 * np.cosh(inner) ** 2)
    return v, share / share.sum()


def expected_distinct(probabilities: FloatArray, tokens: float) -> float:
    """Experts that at least one of `tokens` independent tokens takes: sum of 1 - (1 - p)^n.

    >>> expected_distinct(np.array([0.5, 0.5]), 2)
    1.5
    """
    return float(np.sum(1.0 - (1.0 - probabilities) ** tokens))


def expected_rows(probabilities: FloatArray, tokens: int, tile: int) -> float:
    """Rows in whole tiles of independent tokens: an expert gets X ~ Binomial(tokens, p) of them.

    The rows are tile E[ceil(X / tile)].
    """
    distinct, counts = np.unique(probabilities, return_counts=True)
    tiles = [expected_tiles(tokens, p, tile) for p in distinct.tolist()]
    return float(tile * (counts * tiles).sum())


def expected_tiles(tokens: int, probability: float, tile: int) -> float:
    """E[ceil(X / tile)] for X ~ Binomial(tokens, probability).

    The probabilities follow one from another, outwards from the most likely number; what is left
    out, more than twelve standard deviations away, is nothing in 64 bits. (`scipy.special` has the
    distribution, but takes longer to import than a simulation takes.)

    >>> expected_tiles(2, 0.5, 2)
    0.75
    """
    if probability <= 0.0 or probability >= 1.0:
        return float(-(-tokens // tile) if probability > 0.0 else 0)
    odds = probability / (1.0 - probability)
    most = min(tokens, int((tokens + 1) * probability))
    reach = 40 + int(12 * math.sqrt(tokens * probability * (1.0 - probability)))
    above = np.arange(most, min(tokens, most + reach))
    below = np.arange(most, max(0, most - reach), -1)
    up = np.cumprod((tokens - above) / (above + 1) * odds)
    down = np.cumprod(below / (tokens - below + 1) / odds)
    share = np.concatenate([down[::-1], [1.0], up])
    numbers = np.arange(most - len(down), most + len(up) + 1)
    return float((share * np.ceil(numbers / tile)).sum() / share.sum())


def loads(ids: NDArray[np.int64], n_experts: int) -> NDArray[np.int64]:
    """Tokens of each expert, shape (batches, n_experts), for ids of shape (batches, ...).

    >>> loads(np.array([[0, 0, 2], [1, 1, 1]]), 3).tolist()
    [[2, 0, 1], [0, 3, 0]]
    """
    flat = ids.reshape(len(ids), -1) + n_experts * np.arange(len(ids))[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_experts * len(ids))
    return counts.reshape(len(ids), n_experts)


@lru_cache(maxsize=64)
def prompt_loads(
    strengths: Strengths, n_experts: int, top_k: int, tokens: int
) -> NDArray[np.int64]:
    """Tokens of each expert in drawn sequences of `tokens` tokens, shape (sequences, n_experts).

    They are drawn in the third of three layers, where both correlations act; 4 to 256 sequences.
    """
    sequences = min(256, max(4, DRAWS // tokens))
    drawn = Chains(strengths, 0, "encoder", n_experts, top_k)
    drawn.reserve(sequences, tokens)
    return loads(drawn.ranks(2).astype(np.int64), n_experts)
