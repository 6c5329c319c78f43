"""Plain reading of host memory, at the speed that the CPU's attention can reach at most."""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from runtime.cpu_attention import in_parallel


@njit(nogil=True)
def total(words: np.ndarray) -> int:
    """Read all of it, which numba does with vector instructions."""
    result = 0
    for i in range(words.size):
        result += words[i]
    return result


def plain_reading(tensors: tuple[Tensor, ...], threads: int) -> Callable[[], None]:
    """An action that reads the tensors once with so many threads."""
    words = [tensor.view(-1).view(torch.int64).numpy() for tensor in tensors]
    parts = [[np.array_split(w, threads)[i] for w in words] for i in range(threads)]

    def read(thread: int) -> None:
        for part in parts[thread]:
            total(part)

    return lambda: in_parallel(read, threads)
