"""The experts that tokens have chosen, and those choices that are skipped.

Dynamic expert skipping (Not All Experts Are Equal, arXiv 2402.14800, section 3.3): a token's choice
is dropped if its gate weight is below a share of the weight of the token's first choice. With two
experts a token and a share near the median of the second's weight over the first's, about half of
the tokens take one expert.

A skipped choice has expert id `SKIPPED`. Simulated routing says who is chosen, not with which
weight, so weights are drawn: as if logits were independent Gumbel variables, the weights of the
best k are as 1 / G_1, 1 / G_2, ..., with G_i the i-th arrival of a Poisson process. Then G_1 / G_i
is the least of i - 1 uniform variables, and choice i is kept with probability
(1 - share)^(i - 1): for two experts and a share of 0.5, half of the second choices.
"""

import numpy as np
from numpy.typing import NDArray

SKIPPED = -1
"""Expert id of a choice that nothing computes."""

Ids = NDArray[np.int64]


def kept_choices(top_k: int, skip_below: float) -> float:
    """Expected choices of a token that are kept.

    >>> kept_choices(2, 0.0), kept_choices(2, 0.5), kept_choices(4, 0.5)
    (2.0, 1.5, 1.875)
    """
    return float(sum((1 - skip_below) ** i for i in range(top_k)))


def token_counts(ids: Ids, n_experts: int) -> Ids:
    """Tokens of each expert, shape (n_experts,); skipped choices do not count.

    >>> token_counts(np.array([[2, 0], [2, SKIPPED]]), 3).tolist()
    [1, 0, 2]
    """
    flat = ids.ravel()
    return np.bincount(flat[flat != SKIPPED], minlength=n_experts)


def first_instead(ids: Ids) -> Ids:
    """The ids (tokens, top_k), a token's first choice in place of those that are skipped."""
    return np.where(ids == SKIPPED, ids[:, :1], ids)


def skip_choices(ids: Ids, skip_below: float, rng: np.random.Generator) -> Ids:
    """The ids (tokens, top_k), best first, with choices of too little drawn weight skipped."""
    arrivals = np.cumsum(rng.exponential(size=ids.shape), axis=1)
    weights = arrivals[:, :1] / arrivals  # over that of the first choice
    return np.where(weights < skip_below, SKIPPED, ids)
