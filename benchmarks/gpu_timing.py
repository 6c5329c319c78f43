"""How the micro-benchmarks of `gpu.py` are timed, and what a row of their results holds.

Every row is one measurement: `what`, its parameters with units in their names, `s` (median of the
repetitions) and `s_min`, and a rate where there is one. What the device does alone is timed by its
events, what the host takes part in by the host's clock. Tensors hold random numbers: zeros can be
faster.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runtime.calibration.room import random_bytes, thread_counts

Row = dict[str, Any]
Action = Callable[[], object]


@dataclass(frozen=True)
class Machine:
    """Where and how large.

    Parameters
    ----------
    device: `cuda` or `cpu`.
    dtype: of weights, activations and cache.
    cores: that this process may use.
    scale: sizes are divided by this; 1 except in a trial run.
    repeats: of each measurement.
    """

    device: str
    dtype: torch.dtype
    cores: int
    scale: int = 1
    repeats: int = 20

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"

    def random(self, *shape: int, device: str | None = None) -> Tensor:
        """Random numbers of the dtype."""
        return torch.randn(*shape, device=device or self.device, dtype=torch.float32).to(self.dtype)

    def threads(self) -> list[int]:
        """1, 2, 4 ... and all cores."""
        return thread_counts(self.cores)


def device_seconds(machine: Machine, action: Action, repeats: int | None = None) -> list[float]:
    """Seconds of an action on the current stream, by events; on the CPU by the clock."""
    count = repeats or machine.repeats
    action()
    if not machine.cuda:
        return host_seconds(machine, action, count)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, end in pairs:
        start.record()
        action()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e-3 for start, end in pairs]


def host_seconds(machine: Machine, action: Action, repeats: int | None = None) -> list[float]:
    """Seconds of an action on the host; on the device nothing else is under way."""
    seconds = []
    for _ in range(repeats or machine.repeats):
        if machine.cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def row(what: str, seconds: list[float], **more: Any) -> Row:
    """One measurement; `moved_bytes` and `flops` become rates."""
    middle = statistics.median(seconds)
    rates = {"moved_bytes": "bytes_per_s", "flops": "flops_per_s"}
    found = {rates[key]: more[key] / middle for key in rates if key in more}
    return {"what": what} | more | {"s": middle, "s_min": min(seconds)} | found


def bytes_tensor(size: int, where: str) -> Tensor:
    """Random bytes in `pinned`, `pageable` or `cuda` memory."""
    data = random_bytes(size)
    if where == "cuda":
        return data.cuda()
    return data.pin_memory() if where == "pinned" else data


class torch_threads:  # noqa: N801  # a context manager, read as a verb
    """So many threads for torch, in this thread."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.count)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.before)
