"""Bench `steady`: the same short probe again and again, so that one sees whether speeds drifted.

What other processes take shows as a share of the processors: threads take turns of milliseconds, so
that most short tasks seem undisturbed.
"""

import time
from collections.abc import Callable
from statistics import mean

import torch

from runtime.calibration.actions import Action, copying, matrix_width, multiplying, timed
from runtime.calibration.effort import Effort, Item, Items, item
from runtime.calibration.room import Room, cores
from runtime.calibration.store import Params, Point
from runtime.device import DeviceOptions
from runtime.lane import Run

COPY_BYTES = 4 << 20
TOKENS = 64
SHARE_WIDTH = 512  # a product of some milliseconds


def points(options: DeviceOptions, effort: Effort, turn: int) -> Items:
    """Params `probe` (`copy`, `gemm`, `share`) and `turn`, which counts those of a calibration.

    The amount is in `bytes`, `flops`, or `cpu_s`: a thread's mean processor time in `seconds`,
    while one for each core is busy; their ratio is 1 where nobody else computes.
    """
    room = Room(options, effort)
    size, width = min(COPY_BYTES, room.size_bytes), matrix_width(room)
    flops = 2.0 * TOKENS * width * width
    yield _point(room, effort, turn, "copy", {"bytes": size}, lambda: copying(room, "h2d", size))
    yield _point(
        room, effort, turn, "gemm", {"flops": flops},
        lambda: multiplying(room, TOKENS, width, options.threads[0]),
    )  # fmt: skip
    share: Params = {"probe": "share", "turn": turn}
    yield ("steady", share), lambda: _share(room, effort, share)


def _point(
    room: Room,
    effort: Effort,
    turn: int,
    probe: str,
    amount: dict[str, float],
    make: Callable[[], Action],
) -> Item:
    params: Params = {"probe": probe, "turn": turn}
    return item("steady", params, amount, lambda: timed(room, effort, make()))


def _share(room: Room, effort: Effort, params: Params) -> Point:
    """All cores multiply: wall time of each product, and the mean processor time of one."""
    used: list[float] = []
    tasks = {f"cpu.{i}": [_product(used)] * (2 + 8 * effort.repeats) for i in range(cores())}
    with room.lanes(dict.fromkeys(tasks, 1)) as lanes:
        lanes.run({name: own[:1] for name, own in tasks.items()})
        used.clear()
        spans = lanes.run(tasks)
    seconds = tuple(span.seconds for own in spans.values() for span in own)
    return Point("steady", params, {"cpu_s": mean(used)}, seconds)


def _product(used: list[float]) -> Run:
    a, b = (torch.rand(SHARE_WIDTH, SHARE_WIDTH) for _ in range(2))
    out = torch.empty(SHARE_WIDTH, SHARE_WIDTH)

    def run() -> int:
        begin = time.thread_time()
        torch.mm(a, b, out=out)
        used.append(time.thread_time() - begin)
        return 0

    return run
