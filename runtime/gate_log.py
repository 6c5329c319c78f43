"""What gates have named that a schedule decides by: ids and weights, in host memory."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schedules.task import Task

Key = tuple[str, int, int]  # operation, layer, micro-batch


class GateLog:
    """The latest choices of each gate; its device copies them here in its stream.

    A gate that looks ahead has an entry of its own beside that of its layer's own gate.
    """

    def __init__(self) -> None:
        self._kept: dict[Key, tuple[Tensor, Tensor]] = {}

    def sink(self, gate: Task, ids: Tensor, weights: Tensor) -> Callable[[], None]:
        """Copies what a gate will have left on the device: ids and weights, (tokens, top_k)."""
        key = _key(gate)
        if key not in self._kept or self._kept[key][0].shape != ids.shape:
            self._kept[key] = _like(ids), _like(weights)
        pairs = tuple(zip(self._kept[key], (ids, weights), strict=True))

        def take() -> None:
            for target, source in pairs:
                target.copy_(source, non_blocking=True)

        return take

    def ids(self, gate: Task) -> NDArray[np.int64]:
        """Expert ids of a gate that has run, (tokens, top_k)."""
        return self._kept[_key(gate)][0].numpy().astype(np.int64)

    def weights(self, gate: Task) -> NDArray[np.float64] | None:
        """Their weights, in the same order; None for a gate that keeps none."""
        kept = self._kept.get(_key(gate))
        return None if kept is None else kept[1].double().numpy()


def _key(gate: Task) -> Key:
    return gate.op, gate.layer, gate.micro_batch


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
