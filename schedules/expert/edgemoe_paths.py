"""EdgeMoE's prediction: a token's experts in the two layers before say which it takes next."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]  # (tokens, top_k)


class ActivationPaths:
    """How often each expert of a block follows each one of the two blocks before it.

    EdgeMoE (arXiv 2308.14352), section III-C, keeps the frequency of every pair before, collected
    on a data set beforehand. Here the two blocks' frequencies are multiplied, and counted as the
    schedule runs, from the prompts' tokens on.

    Parameters
    ----------
    n_blocks, n_experts: layers with experts, and experts of each.
    """

    def __init__(self, n_blocks: int, n_experts: int) -> None:
        self.after = np.zeros((2, n_blocks, n_experts, n_experts))  # [distance - 1, block, before]

    def learn(self, block: int, ids: Ids, before: list[Ids]) -> None:
        """The tokens took `ids` in a block; `before` is what they took before, nearest first."""
        for table, earlier in zip(self.after, before, strict=False):
            np.add.at(table[block], (earlier[:, :, None], ids[:, None, :]), 1)

    def likely(self, block: int, before: list[Ids], count: int) -> list[int]:
        """The `count` most likely experts of each token, those of most tokens first.

        Nothing is said of a token whose path has never been seen.
        """
        if not before:
            return []
        scores = np.ones((len(before[0]), self.after.shape[-1]))
        for table, earlier in zip(self.after, before, strict=False):
            seen = table[block][earlier].sum(axis=1)
            scores *= seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        named = best[np.take_along_axis(scores, best, axis=1) > 0]
        votes = np.bincount(named, minlength=scores.shape[1])
        return [int(e) for e in np.argsort(-votes, kind="stable") if votes[e]]
