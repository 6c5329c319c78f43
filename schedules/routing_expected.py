"""Expected experts and rows of a batch, from how likely a token takes each expert."""

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

    E[ceil(X / tile)] = sum over i >= 0 of P(X > i tile).
    """
    from scipy.special import bdtrc  # slow to import

    thresholds = np.arange(0, tokens, tile, dtype=np.int64)
    return float(tile * np.sum(bdtrc(thresholds[:, None], tokens, probabilities[None, :])))


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
