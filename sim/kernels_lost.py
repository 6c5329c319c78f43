"""The loops of `sim.lost`."""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit


@njit(cache=True, boundscheck=False)
def bound_speeds(running, count, demand, dominant, capacity, speed, binds, share, left):
    """Speeds of the first `count` tasks in `running`, and the channel that binds each, or -1.

    As `sim.sharing.speeds` defines them: a task stops at its own full speed (-1), or when a channel
    that it uses is full. `dominant` is each task's largest part of a channel, alone, above 0.
    `share` and `left` are room to work in.
    """
    rising = count
    for k in range(count):
        share[k] = dominant[running[k]]
        speed[k] = -1.0
        binds[k] = -1
    left[:] = capacity
    while rising > 0:
        level, tight, full = np.inf, -1, np.inf
        for c in range(len(capacity)):
            growth = 0.0
            for k in range(count):
                if speed[k] < 0:
                    growth += demand[running[k], c] / share[k]
            if growth * level > left[c]:
                level, tight = left[c] / growth, c
        for k in range(count):
            if speed[k] < 0:
                full = min(full, share[k])
        own = full <= level
        for k in range(count):
            stops = share[k] <= full if own else demand[running[k], tight] > 0
            if speed[k] < 0 and stops:
                speed[k] = -2.0 - min(1.0, min(level, full) / share[k])  # marked, for this round
                binds[k] = -1 if own else tight
        for k in range(count):
            if speed[k] <= -2.0:
                speed[k] = -2.0 - speed[k]
                rising -= 1
                for c in range(len(capacity)):
                    left[c] = max(0.0, left[c] - speed[k] * demand[running[k], c])


@njit(cache=True, boundscheck=False)
def add_lost(start, end, by_start, by_end, most, demand, dominant, capacity, bound, lost):
    """Add to bound[i, c] the seconds in which channel c binds task i, to lost[i, c] those lost.

    Parameters
    ----------
    start, end: of all tasks. by_start, by_end: the tasks to look at in the order of either; each
        takes time and uses a channel. most: how many can run at once.
    """
    running, binds = np.zeros(most, dtype=np.int64), np.zeros(most, dtype=np.int64)
    speed, share, left = np.zeros(most), np.zeros(most), np.zeros(len(capacity))
    count = opened = closed = 0
    while closed < len(by_end):
        now = end[by_end[closed]]
        if opened < len(by_start):
            now = min(now, start[by_start[opened]])
        kept = 0
        for k in range(count):
            if end[running[k]] > now:
                running[kept] = running[k]
                kept += 1
        closed += count - kept
        count = kept
        while opened < len(by_start) and start[by_start[opened]] <= now:
            running[count] = by_start[opened]
            count += 1
            opened += 1
        if count == 0:
            continue
        until = end[by_end[closed]]
        if opened < len(by_start):
            until = min(until, start[by_start[opened]])
        bound_speeds(running, count, demand, dominant, capacity, speed, binds, share, left)
        for k in range(count):
            if binds[k] >= 0:
                bound[running[k], binds[k]] += until - now
                lost[running[k], binds[k]] += (1.0 - speed[k]) * (until - now)
