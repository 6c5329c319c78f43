"""Bench `cores`: what so many busy threads compute together, by their number.

More threads than physical cores compute hardly more together (they share a core's arithmetic), and
so one slows the other; schedules keep the device's threads, the CPU's attention and the pinning
thread busy at once.
"""

import torch

from runtime.calibration.effort import Effort, Item, Items, item, repeated
from runtime.calibration.room import Room, cores
from runtime.device import DeviceOptions
from runtime.lane import Run

WIDTH = 256  # three float32 matrices of it are 768 KiB: within a core's L2 cache, or nearly
PRODUCTS = 8  # of a task: more than a switch between threads costs


def points(options: DeviceOptions, effort: Effort) -> Items:
    """Params `threads`: 1 to twice the cores; the amount is in `flops`, of all threads together."""
    room = Room(options, effort)
    for threads in range(1, 2 * cores() + 1):
        yield _point(room, effort, threads)


def _point(room: Room, effort: Effort, threads: int) -> Item:
    each = max(1, effort.batch // 20)  # tasks of a thread in one repetition
    flops = 2.0 * WIDTH**3 * PRODUCTS * each * threads
    return item(
        "cores", {"threads": threads}, {"flops": flops}, lambda: _timed(room, effort, threads, each)
    )


def _timed(room: Room, effort: Effort, threads: int, each: int) -> list[float]:
    tasks = {f"cpu.{i}": [_product()] * each for i in range(threads)}

    def once() -> float:
        ran = [span for spans in lanes.run(tasks).values() for span in spans]
        return max(span.end_s for span in ran) - min(span.start_s for span in ran)

    with room.lanes(dict.fromkeys(tasks, 1)) as lanes:
        return repeated(effort, lambda n: [once() for _ in range(n)])


def _product() -> Run:
    a, b = (torch.rand(WIDTH, WIDTH) for _ in range(2))
    out = torch.empty(WIDTH, WIDTH)

    def run() -> int:
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)
        return 0

    return run
