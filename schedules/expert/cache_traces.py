"""MoE-Infinity's prediction: the activation pattern of past requests that looks most like this."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedules.errors import BadInput

Matrix = NDArray[np.float64]  # (n_layers, n_experts): tokens that each expert has got
EQUAL = 1e-12  # cosines that differ by less are the same, up to rounding


class ActivationTraces:
    """Activation matrices of past requests (EAMC), and what they say about the current one.

    Source: MoE-Infinity (arXiv 2401.14361), version 3, section 4.5. Which matrix a full collection
    gives up is taken from its code (`expert_tracer.py`, `finish_entry`): the one that was matched
    least; of equals, the oldest.

    Parameters
    ----------
    capacity: matrices, 1 or more; `BadInput` otherwise. The shape is that of the first one.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise BadInput(f"a collection of {capacity} activation traces predicts nothing")
        self.capacity = capacity
        self._matrices: list[Matrix] = []
        self._matches: list[int] = []

    def __len__(self) -> int:
        return len(self._matrices)

    def add(self, matrix: ArrayLike) -> None:
        """Keep the matrix of a request that has ended. Raises `BadInput` on another shape."""
        checked = self._checked(matrix).copy()
        if len(self) == self.capacity:
            least = int(np.argmin(self._matches))
            del self._matrices[least], self._matches[least]
        self._matrices.append(checked)
        self._matches.append(0)

    def predict(self, current: ArrayLike, layer: int) -> Matrix | None:
        """Predicted activations while `layer` runs, shape (n_layers, n_experts), or None.

        The past matrices at the smallest cosine distance to `current`, this pass's activations so
        far, are summed; each row is normalised; rows of later layers i are multiplied by
        1 - (i - layer) / L. That orders prefetches across layers; `MoEInfinity`, which normalises
        rows again, does not see it. None: nothing to compare with yet.
        """
        now = self._checked(current)
        if not self._matrices or not now.any():
            return None
        past = np.stack(self._matrices)
        norms = np.linalg.norm(past, axis=(1, 2)) * np.linalg.norm(now)
        cosines = np.sum(past * now, axis=(1, 2)) / np.where(norms > 0, norms, 1)
        matched = np.flatnonzero(cosines >= cosines.max() - EQUAL)
        for index in matched:
            self._matches[index] += 1
        total = past[matched].sum(axis=0)
        rows = total.sum(axis=1, keepdims=True)
        ahead = np.maximum(np.arange(len(total)) - layer, 0)
        return np.asarray(total / np.where(rows > 0, rows, 1) * (1 - ahead / len(total))[:, None])

    def _checked(self, matrix: ArrayLike) -> Matrix:
        checked = np.asarray(matrix, dtype=np.float64)
        shape = self._matrices[0].shape if self._matrices else checked.shape
        if checked.ndim != 2 or checked.shape != shape or not (checked >= 0).all():
            raise BadInput(
                "an activation trace is a matrix (layers, experts) without negative entries, of "
                f"one shape for all; this one has shape {checked.shape}, others {shape}"
            )
        return checked
