"""The tasks that run and their speeds, for the event loop in `sim.kernels_shared`.

They lie in the first places of an array of records, in no order. A task begins at full speed, 1;
`set_speeds` gives all of them the speeds that `sim.sharing` defines. What a task would still take
alone is brought up to date only when its speed changes, so one that is never slowed down ends at
start + duration, to the bit.
"""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

from typing import Any, NamedTuple

import numpy as np
from numba import njit

ENTRY = np.dtype(
    [
        ("task", np.int64),
        ("left_s", np.float64),  # that it would take alone, from `since_s` on
        ("since_s", np.float64),
        ("speed", np.float64),
        ("end_s", np.float64),  # when it ends, at this speed
        ("share", np.float64),  # its largest part of a channel, alone
        ("fair", np.float64),  # the speed that it gets next
    ]
)


class Running(NamedTuple):
    """The tasks that run, and the channels that they share.

    Parameters
    ----------
    entries: `ENTRY` of each, as many as can run at once. needs: bytes/s of each, shape (most, c).
    capacity: bytes/s of each channel, shape (c,). room: to work in, shape (c,).
    """

    entries: Any
    needs: Any
    capacity: Any
    room: Any


# Compiled into the caller, without counting references to arrays, which the caller holds: counting,
# whenever an array is taken out of a tuple, took half the time. Such a function makes no arrays.
_OPTIONS: dict[str, Any] = {"forceinline": True, "_nrt": False}
inlined = njit(cache=True, boundscheck=False, error_model="numpy", **_OPTIONS)


@inlined
def enter(running, place, task, now, seconds, over):
    """A task begins that takes some seconds alone; it uses no channel."""
    entry = running.entries[place]
    entry.task = task
    entry.left_s = seconds
    entry.since_s = now
    entry.speed = 1.0
    entry.end_s = over
    entry.share = 0.0
    for c in range(len(running.capacity)):
        running.needs[place, c] = 0.0


@inlined
def use_channels(running, place, demand):
    """What the task in a place needs of every channel, bytes/s; returns whether it is anything."""
    share = 0.0
    for c in range(len(running.capacity)):
        running.needs[place, c] = demand[c]
        share = max(share, demand[c] / running.capacity[c])
    running.entries[place].share = share
    return share > 0


@inlined
def leave(running, place, last):
    """The task in a place has ended; the one in the last place moves there."""
    if place == last:
        return
    running.entries[place] = running.entries[last]
    for c in range(len(running.capacity)):
        running.needs[place, c] = running.needs[last, c]


@inlined
def next_to_end(running, count):
    """The place of the task that ends first."""
    place, soon = 0, np.inf
    for k in range(count):
        if running.entries[k].end_s < soon:
            place, soon = k, running.entries[k].end_s
    return place


@inlined
def set_speeds(running, count, now):
    """Give the first `count` tasks their speeds."""
    if _all_fit(running, count):
        for k in range(count):
            running.entries[k].fair = 1.0
    else:
        _share_out(running, count)
    for k in range(count):
        entry = running.entries[k]
        if entry.fair != entry.speed:
            entry.left_s = max(0.0, entry.left_s - (now - entry.since_s) * entry.speed)
            entry.since_s = now
            entry.speed = entry.fair
            entry.end_s = now + entry.left_s / entry.speed


@inlined
def _all_fit(running, count):
    """Whether no channel is overfull with all tasks at full speed."""
    for c in range(len(running.capacity)):
        total = 0.0
        for k in range(count):
            total += running.needs[k, c]
        if total > running.capacity[c]:
            return False
    return True


@inlined
def _share_out(running, count):
    """Find max-min fair speeds: those of `sim.sharing.speeds`, with fewer steps.

    Suppose that all shares rise until a channel is full. Whoever has full speed before that has it
    in the end as well, and leaves room for the others. Where nobody has, that channel's tasks stop.
    """
    entries, room = running.entries, running.room
    rising, level = 0, 0.0
    for k in range(count):
        entries[k].fair = -1.0 if entries[k].share > 0 else 1.0  # -1 while it rises
        rising += entries[k].share > 0
    for c in range(len(room)):
        room[c] = running.capacity[c]
    while rising > 0:
        level, full = _level(running, count, level)
        found = 0
        for k in range(count):
            if entries[k].fair < 0 and entries[k].share <= level:
                found += _fix(running, k, 1.0)
        if found == 0:
            for k in range(count):
                if entries[k].fair < 0 and running.needs[k, full] > 0:
                    found += _fix(running, k, level / entries[k].share)
        rising -= found


@inlined
def _level(running, count, at_least):
    """The share at which a channel is full if all that rise go on to rise; and which channel.

    Levels never fall; rounding must not make it seem so.
    """
    level, full = np.inf, 0
    for c in range(len(running.room)):
        growth = 0.0
        for k in range(count):
            if running.entries[k].fair < 0:
                growth += running.needs[k, c] / running.entries[k].share
        if growth * level > running.room[c]:
            level, full = running.room[c] / growth, c
    return max(level, at_least), full


@inlined
def _fix(running, place, speed):
    """Give one task, that in a place, its speed and what it needs for it; returns 1."""
    running.entries[place].fair = speed
    for c in range(len(running.room)):
        running.room[c] = max(0.0, running.room[c] - speed * running.needs[place, c])
    return 1
