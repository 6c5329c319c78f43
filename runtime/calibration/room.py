"""Memory to measure in: blocks of arenas that are larger than the caches, one after the other."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from runtime.calibration.effort import Effort
from runtime.calibration.lanes import Lanes
from runtime.device import Device, DeviceOptions, open_device

TILE = 1 << 20  # bytes; arenas are multiples of it


class Room:
    """A device, opened when it is first needed, and an arena in each kind of its memory.

    In runs neither weights nor cache lie in the processor's cache when they are copied, so each
    repetition takes the next block of an arena.
    """

    def __init__(self, options: DeviceOptions, effort: Effort) -> None:
        self.options = options
        self.size_bytes = _arena_bytes(options, effort)
        self._arenas: dict[str, Tensor] = {}

    @cached_property
    def device(self) -> Device:
        """The device. Raises `BadInput` where there is none."""
        return open_device(self.options)

    def lanes(self, threads: Mapping[str, int]) -> Lanes:
        """Lanes of the device, to be used in a `with` statement."""
        return Lanes(self.device, threads)

    def arena(self, where: str) -> Tensor:
        """Bytes in `gpu`, `cpu` or `pinned` memory; `peer` is another GPU's."""
        if where not in self._arenas:
            self._arenas[where] = self._filled(where)
        return self._arenas[where]

    def blocks(self, where: str, size: int) -> Iterator[Tensor]:
        """Blocks of so many bytes, without end."""
        arena = self.arena(where)
        for i in count():
            start = i % (len(arena) // size) * size
            yield arena[start : start + size]

    def _filled(self, where: str) -> Tensor:
        """With random bytes: on some devices zeros move faster."""
        if where == "peer":
            made = torch.empty(self.size_bytes, dtype=torch.uint8, device="cuda:1")
        else:
            made = self.device.empty(self.size_bytes, where)
        made.view(-1, TILE).copy_(random_bytes(TILE))
        return made


def random_bytes(size: int) -> Tensor:
    """Random bytes in host memory."""
    words = torch.randint(-(2**62), 2**62, (-(-size // 8),), dtype=torch.int64)
    return words.view(torch.uint8)[:size]


def cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and all.

    >>> thread_counts(6)
    [1, 2, 4, 6]
    """
    return [*(2**i for i in range(10) if 2**i < most), most]


def available_bytes() -> int | None:
    """Host memory that is there to be taken now; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = fields.get("MemAvailable", "").split()
    return int(found[0]) * 1024 if found else None  # the file counts in KiB


def _arena_bytes(options: DeviceOptions, effort: Effort) -> int:
    """At most half of the device's budget, and an eighth of the host's memory for each arena."""
    free = available_bytes() or options.host_memory_bytes
    most = min(options.gpu_memory_bytes // 2, options.host_memory_bytes // 8, free // 8)
    return max(TILE, min(most, effort.largest_bytes) // TILE * TILE)
