"""How often the experts of one layer follow those of the layer before."""

import numpy as np
from numpy.typing import NDArray

from schedules.model import LayerSpec

IntArray = NDArray[np.int64]


class Popularity:
    """Counts pairs of experts that a token takes in two layers, one after the other.

    Klotski's correlation-aware prefetcher with a path of length 1: the tokens of the layer before
    vote, each for the experts that most often came after its own. The first layer of a pass has
    none before it, and its experts are counted alone.
    """

    def __init__(self) -> None:
        self.seen: dict[LayerSpec, IntArray] = {}  # (experts before, experts), or (1, experts)

    def predict(self, spec: LayerSpec, before: IntArray | None, count: int) -> list[int]:
        """The `count` experts that most tokens are expected to take, the lowest among equals.

        `before`: tokens of each expert of the layer before; None: there is none.

        Votes by hand: of two experts before, with 3 and 1 tokens, the first was followed by expert
        2 most often and the second by expert 0: expert 2 has three votes, expert 0 has one.
        """
        table = self._table(spec, before)
        ranked = np.argsort(-table, axis=1, kind="stable")[:, :count]
        votes = np.zeros(spec.n_experts)
        weights = np.ones(1) if before is None else before
        np.add.at(votes, ranked, np.broadcast_to(weights[:, None], ranked.shape))
        if before is None:
            votes = table[0].astype(float)
        order = np.argsort(-votes, kind="stable")
        return [int(expert) for expert in order[:count]]

    def learn(self, spec: LayerSpec, before: IntArray | None, ids: IntArray) -> None:
        """Count what the tokens took: `before` and `ids` of shape (tokens, top_k)."""
        table = self._table(spec, before)
        if before is None:
            table[0] += np.bincount(ids.ravel(), minlength=spec.n_experts)
            return
        pairs = before[:, :, None] * spec.n_experts + ids[:, None, :]
        table += np.bincount(pairs.ravel(), minlength=table.size).reshape(table.shape)

    def _table(self, spec: LayerSpec, before: IntArray | None) -> IntArray:
        rows = 1 if before is None else spec.n_experts
        return self.seen.setdefault(spec, np.zeros((rows, spec.n_experts), np.int64))
