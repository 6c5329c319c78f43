"""Scratch memory: one tensor that functions take their temporaries from, and give back at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from schedules.errors import MoelabError

ALIGNMENT = 256  # bytes; what cudaMalloc gives, so that no kernel needs a slower unaligned path


class Workspace:
    """A stack of temporaries in a 1-D uint8 tensor; one thread (one stream) uses it at a time.

    On CUDA, memory that is given back may be taken again at once, because the kernels of one stream
    run in order.
    """

    def __init__(self, tensor: Tensor) -> None:
        if tensor.dtype != torch.uint8 or tensor.dim() != 1 or not tensor.is_contiguous():
            raise MoelabError("a workspace needs a contiguous 1-D tensor of uint8")
        self._skip = -tensor.data_ptr() % ALIGNMENT  # bytes before the first aligned address
        self._tensor = tensor[min(self._skip, len(tensor)) :]
        self._used = 0
        self.high_water_bytes = 0

    @classmethod
    def of_size(cls, size_bytes: int, device: torch.device | str = "cpu") -> Workspace:
        """A workspace with room for `size_bytes`, in memory of its own."""
        return cls(torch.empty(size_bytes + ALIGNMENT, dtype=torch.uint8, device=device))

    @property
    def free_bytes(self) -> int:
        """Bytes that can still be taken."""
        return len(self._tensor) - self._used

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor at an address that is a multiple of `ALIGNMENT`.

        It is valid until the scope around it ends. Raises `MoelabError` if it does not fit.
        """
        size = math.prod(shape) * dtype.itemsize
        if size > self.free_bytes:
            raise MoelabError(
                f"the workspace has {self.free_bytes} of {len(self._tensor)} bytes left, and a"
                f" temporary of shape {tuple(shape)} needs {size}"
            )
        start = self._used
        self._used = min(len(self._tensor), start + -(-size // ALIGNMENT) * ALIGNMENT)
        self.high_water_bytes = max(self.high_water_bytes, start + size)
        return self._tensor[start : start + size].view(dtype).view(tuple(shape))

    def rows(self, *row_bytes: int, limit: int) -> int:
        """How many rows, at most `limit`, of several tensors with rows of these sizes fit.

        At least 1, so that a workspace that is too small is reported by `take`.
        """
        room = self.free_bytes - ALIGNMENT * len(row_bytes)
        return max(1, min(limit, room // max(1, sum(row_bytes))))

    @contextmanager
    def scope(self) -> Iterator[Workspace]:
        """What is taken inside is given back at the end."""
        used = self._used
        try:
            yield self
        finally:
            self._used = used
