"""The loop of the compiled engine over many scenarios at once; see `sim.batch`.

A block of scenarios goes through the graph together: what is read of a task is read once, and the
arithmetic on the block's times is done side by side.
"""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit, prange

BLOCK = 16  # scenarios side by side: two cache lines of times


@njit(cache=True, boundscheck=False, parallel=True)
def many_makespans(padded, row, seconds, issue_row, issue, sync, issues):
    """Makespan of each scenario, shape (blocks, BLOCK).

    Parameters
    ----------
    padded: the graph as `sim.padded` lays it out.
    row: of each task, the row of `seconds` that is its duration: (blocks, rows, BLOCK).
    issue_row, issue: likewise the seconds of issuing it; `issues`: whether any are above 0.
    sync: seconds of a wait, (blocks, BLOCK).
    """
    before, first, second, stop_at, stop_from, stop_to, waited = padded
    n, stops, blocks = len(row), len(stop_at), len(seconds)
    makespan = np.zeros((blocks, BLOCK))
    for block in prange(blocks):
        length, pause, cost = seconds[block], issue[block], sync[block]
        end = np.empty((n + 1, BLOCK))
        end[0] = 0.0
        now, latest = np.zeros(BLOCK), np.zeros(BLOCK)
        at = 0
        for stop in range(stops + 1):
            until = stop_at[stop] if stop < stops else n
            for i in range(at, until):
                p, a, c, r = before[i], first[i], second[i], row[i]
                if issues:
                    for b in range(BLOCK):
                        now[b] += pause[issue_row[i], b]
                for b in range(BLOCK):
                    begin = max(max(end[p, b], end[a, b]), max(end[c, b], now[b]))
                    end[i + 1, b] = begin + length[r, b]
            at = until
            if stop == stops:
                break
            if stop_from[stop] < 0:  # a task on the thread itself
                a, c, r = first[at], second[at], row[at]
                for b in range(BLOCK):
                    begin = max(max(end[a, b], end[c, b]), now[b] + pause[issue_row[at], b])
                    now[b] = begin + length[r, b]
                    end[at + 1, b] = now[b]
                at += 1
                continue
            for k in range(stop_from[stop], stop_to[stop]):
                w = waited[k]
                for b in range(BLOCK):
                    now[b] = max(now[b], end[w, b])
            for b in range(BLOCK):
                now[b] += cost[b]
        for b in range(BLOCK):
            latest[b] = now[b]
        for i in range(1, n + 1):
            for b in range(BLOCK):
                latest[b] = max(latest[b], end[i, b])
        makespan[block] = latest
    return makespan
