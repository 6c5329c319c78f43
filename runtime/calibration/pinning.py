"""Bench `pin`: the copy from pageable memory into pinned staging, by size and threads."""

from runtime.calibration.actions import copying, timed
from runtime.calibration.effort import Effort, Item, Items, item
from runtime.calibration.room import Room, cores, thread_counts
from runtime.calibration.store import Params
from runtime.device import DeviceOptions

BLOCK_BYTES = 64 << 20
SIZES = (64 << 10, 1 << 20, 8 << 20)  # of one thread, below the block


def points(options: DeviceOptions, effort: Effort) -> Items:
    """Params `link`, `threads` and `size_bytes`; the amount is in `bytes`.

    The link is `pin` for one thread and `pin_parallel` for more.
    """
    room = Room(options, effort)
    block = min(BLOCK_BYTES, room.size_bytes)
    for size in (s for s in SIZES if s < block):
        yield _point(room, effort, 1, size)
    for threads in thread_counts(cores()):
        yield _point(room, effort, threads, block)


def _point(room: Room, effort: Effort, threads: int, size: int) -> Item:
    link = "pin" if threads == 1 else "pin_parallel"
    params: Params = {"link": link, "threads": threads, "size_bytes": size}
    return item(
        "pin",
        params,
        {"bytes": size},
        lambda: timed(room, effort, copying(room, link, size, threads)),
    )
