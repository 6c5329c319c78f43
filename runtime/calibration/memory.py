"""Bench `memory`: bytes/s of host memory by threads, and of the device's own memory."""

from collections.abc import Callable

from runtime.calibration.actions import Action, copying_within, reading, timed, writing
from runtime.calibration.effort import Effort, Item, Items, item
from runtime.calibration.room import Room, cores, thread_counts
from runtime.calibration.store import Params
from runtime.device import DeviceOptions

BLOCK_BYTES = 64 << 20


def points(options: DeviceOptions, effort: Effort) -> Items:
    """Params `memory` (`cpu` or `gpu`), `what`, `threads` and `size_bytes`.

    The amount is in `bytes`; a copy counts what it reads and what it writes. On a host device its
    own memory is host memory, and its threads copy there.
    """
    room = Room(options, effort)
    block = min(BLOCK_BYTES, room.size_bytes // 2)
    for threads in thread_counts(cores()):
        yield _point(room, effort, ("cpu", "read"), threads, block)
        yield _point(room, effort, ("cpu", "write"), threads, block)
        yield _point(room, effort, ("cpu", "copy"), threads, block)
    yield _point(room, effort, ("gpu", "copy"), options.threads[0], block)


def _point(room: Room, effort: Effort, what: tuple[str, str], threads: int, size: int) -> Item:
    where, name = what
    makers: dict[str, Callable[[], Action]] = {
        "read": lambda: reading(room, size, threads),
        "write": lambda: writing(room, size, threads),
        "copy": lambda: copying_within(room, where, size, threads),
    }
    params: Params = {"memory": where, "what": name, "threads": threads, "size_bytes": size}
    amount = {"bytes": 2 * size if name == "copy" else size}
    return item("memory", params, amount, lambda: timed(room, effort, makers[name]()))
