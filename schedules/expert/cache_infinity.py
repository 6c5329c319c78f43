"""Eviction as in MoE-Infinity: predicted activation, and early layers first."""

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput
from schedules.expert.cache_policies import Key
from schedules.expert.cache_scored import Scored


class MoEInfinity(Scored):
    """MoE-Infinity's activation-aware policy: predicted activation ratio times layer proximity.

    score = (P[l, e] / sum of row l of P + epsilon) (1 - l / L)

    Source: MoE-Infinity (arXiv 2401.14361), version 3, section 4.7, algorithm 1, lines 8-17. P is
    the predicted activation matrix; early layers weigh more because prefetching helps them least
    (section 4.6). Here a row without activations has ratio 0. Without a prediction, P is what was
    used since `next_request`, the request-level matrix of section 4.5.

    Parameters
    ----------
    n_layers, n_experts: L, and experts of each layer.
    epsilon: keeps the order of the layers where nothing is predicted. The paper gives no value;
        1e-6 is what its code adds to its scores (`expert_priority_score.py`).
    """

    name = "moe-infinity"

    def __init__(self, n_layers: int, n_experts: int, epsilon: float = 1e-6) -> None:
        super().__init__(n_layers)
        self.epsilon = epsilon
        self.n_experts = n_experts
        self._ratio: list[list[float]] | None = None  # rows of the prediction, normalised
        self.next_request()

    @property
    def used(self) -> NDArray[np.int64]:
        """Uses in this request, shape (n_layers, n_experts): the request-level matrix."""
        return np.array(self._used, dtype=np.int64)

    def predict(self, matrix: NDArray[np.float64] | None) -> None:
        """Take `matrix`, shape (n_layers, n_experts), as the prediction; None: have none.

        Raises `BadInput` on another shape or negative entries.
        """
        if matrix is None:
            self._ratio = None
            return
        matrix, shape = np.asarray(matrix, dtype=np.float64), (self.n_layers, self.n_experts)
        if matrix.shape != shape or not (matrix >= 0).all():
            raise BadInput(
                f"a predicted activation matrix has shape {shape} and no negative entry; this one "
                f"has shape {matrix.shape}, smallest {matrix.min(initial=0):g}"
            )
        rows = matrix.sum(axis=1, keepdims=True)
        self._ratio = (matrix / np.where(rows > 0, rows, 1)).tolist()

    def next_request(self) -> None:
        """A new request starts: nothing is used yet, nothing predicted."""
        self._used = [[0] * self.n_experts for _ in range(self.n_layers)]
        self._total = [0] * self.n_layers
        self._ratio = None

    def use(self, key: Key) -> None:
        super().use(key)
        layer, expert = self.pair(key)
        self._used[layer][expert] += 1
        self._total[layer] += 1

    def score(self, key: Key) -> float:
        layer, expert = self.pair(key)
        if self._ratio is not None:
            ratio = self._ratio[layer][expert]
        else:
            ratio = self._used[layer][expert] / max(self._total[layer], 1)
        return (ratio + self.epsilon) * (1 - layer / self.n_layers)

    def checked(self, key: Key) -> tuple[int, int]:
        layer, expert = super().checked(key)
        if not 0 <= expert < self.n_experts:
            raise BadInput(
                f"cache policy '{self.name}' knows experts 0 to {self.n_experts - 1}, not {expert}"
            )
        return layer, expert
