"""Bench `copy`: copies between host and device by link and size, as lanes make them."""

from itertools import takewhile

import torch

from runtime.calibration.actions import copying, timed
from runtime.calibration.effort import Effort, Item, Items, item
from runtime.calibration.room import Room
from runtime.calibration.store import Params
from runtime.device import DeviceOptions

LINKS = ("h2d", "d2h", "h2d_pageable", "d2h_pageable")
SIZES = tuple(4096 * 4**i for i in range(9))  # 4 KiB to 256 MiB


def points(options: DeviceOptions, effort: Effort) -> Items:
    """Params `link` and `size_bytes`; the amount is in `bytes`.

    On a host device pinned memory is like any other, and both directions are copies by one thread.
    """
    room = Room(options, effort)
    peer = options.device == "cuda" and torch.cuda.device_count() > 1
    for link in (*LINKS, *(("peer",) if peer else ())):
        for size in takewhile(lambda s: s <= room.size_bytes, SIZES):
            yield _point(room, effort, link, size)


def _point(room: Room, effort: Effort, link: str, size: int) -> Item:
    params: Params = {"link": link, "size_bytes": size}
    return item(
        "copy", params, {"bytes": size}, lambda: timed(room, effort, copying(room, link, size))
    )
