"""What lanes repeat while they are timed: copies, reading, writing, and products of matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor

from runtime.calibration.effort import Effort, repeated
from runtime.calibration.reading import plain_reading
from runtime.calibration.room import Room
from runtime.lane import Run

PLACES = {
    "h2d": ("pinned", "gpu"),
    "d2h": ("gpu", "pinned"),
    "h2d_pageable": ("cpu", "gpu"),
    "d2h_pageable": ("gpu", "cpu"),
    "peer": ("gpu", "peer"),
    "pin": ("cpu", "pinned"),
    "pin_parallel": ("cpu", "pinned"),
}
"""From where to where each link of schedules copies."""


@dataclass(frozen=True)
class Action:
    """What a lane repeats.

    Parameters
    ----------
    lane: the stream of schedules that would do it.
    threads: that torch may use there.
    amount: what each repetition does, by unit.
    tasks: one for each repetition, without end.
    """

    lane: str
    threads: int
    amount: Mapping[str, float]
    tasks: Iterator[Run]

    def take(self, n: int) -> list[Run]:
        """The next n repetitions."""
        return list(islice(self.tasks, n))


def timed(room: Room, effort: Effort, action: Action) -> list[float]:
    """Seconds of each repetition of an action, while nothing else is under way."""
    with room.lanes({action.lane: action.threads}) as lanes:
        return repeated(effort, lambda n: lanes.seconds(action.lane, action.take(n)))


def copying(room: Room, link: str, size: int, threads: int = 1) -> Action:
    """Copies of `size` bytes as a link of schedules makes them; held to the link's bandwidth."""
    here, there = PLACES[link]
    lane = link.partition("_")[0]
    moved = 0 if lane == "pin" else size

    def tasks() -> Iterator[Run]:
        for target, source in zip(room.blocks(there, size), room.blocks(here, size), strict=True):
            yield _copy(target, source, moved)

    return Action(lane, threads, {"bytes": size}, tasks())


def _copy(target: Tensor, source: Tensor, moved: int) -> Run:
    def run() -> int:
        target.copy_(source, non_blocking=True)
        return moved

    return run


def reading(room: Room, size: int, threads: int) -> Action:
    """Reading of host memory by threads of the CPU, as its attention reads keys and values."""

    def tasks() -> Iterator[Run]:
        for block in room.blocks("cpu", size):
            read = plain_reading((block,), threads)
            yield lambda read=read: _nothing_moved(read())  # type: ignore[misc]

    return Action("cpu", threads, {"bytes": size}, tasks())


def writing(room: Room, size: int, threads: int) -> Action:
    """Writing of host memory by threads of the CPU."""

    def tasks() -> Iterator[Run]:
        for block in room.blocks("cpu", size):
            yield lambda block=block: _nothing_moved(block.fill_(1))  # type: ignore[misc]

    return Action("cpu", threads, {"bytes": size}, tasks())


def copying_within(room: Room, where: str, size: int, threads: int) -> Action:
    """Copies from one half of a memory to the other; bytes read and written, both counted."""
    arena = room.arena(where)
    halves = arena.chunk(2)
    size = min(size, len(halves[0]))

    def tasks() -> Iterator[Run]:
        for i in count():
            at = i % (len(halves[0]) // size) * size
            yield _copy(halves[1][at : at + size], halves[0][at : at + size], 0)

    return Action("gpu" if where == "gpu" else "cpu", threads, {"bytes": 2 * size}, tasks())


def multiplying(room: Room, tokens: int, width: int, threads: int) -> Action:
    """x @ w of float32 on the device: (tokens, width) by (width, width); w changes each time."""
    device = room.device.torch_device
    n = max(1, room.size_bytes // (16 * width * width))  # a quarter of an arena
    weights = torch.rand(n, width, width, device=device)
    x = torch.rand(tokens, width, device=device)
    out = torch.empty_like(x)

    def tasks() -> Iterator[Run]:
        for i in count():
            w = weights[i % n]
            yield lambda w=w: _nothing_moved(torch.mm(x, w, out=out))  # type: ignore[misc]

    amount = {"flops": 2.0 * tokens * width * width, "bytes": 4.0 * width * width}
    return Action("gpu", threads, amount, tasks())


def matrix_width(room: Room) -> int:
    """Of a probe's matrix: a product takes some 0.1 ms on a GPU, and milliseconds on a CPU."""
    large = room.options.device == "cuda" and room.size_bytes >= 4 * 4096**2
    return 4096 if large else 1024


def _nothing_moved(done: object) -> int:
    """What a task answers that used no link."""
    return 0
