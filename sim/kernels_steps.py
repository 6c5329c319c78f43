"""The loop of the compiled engine over many steps of one graph at once; see `sim.compiled`.

Sixteen steps go through the graph together: what is read of a task is read once, and the arithmetic
on the steps' times is done side by side. The operations are those of `sim.kernels.one_pass`, in the
same order, so that the results are the same bits.
"""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit

BLOCK = 16  # steps side by side: two cache lines of times


@njit(cache=True, boundscheck=False)
def block_of_steps(plan, kind, seconds, issue, sync, found):
    """Fill makespan and busy seconds of every stream, (1 + streams, BLOCK), for a block of steps.

    Parameters
    ----------
    kind: of each task, the row of `seconds` that is its duration, shape (kinds, BLOCK).
    issue, sync: seconds of issuing each task, and of a wait: those of every step.
    """
    stream, host, on_host, offsets, dependencies = plan[:5]
    first_wait, wait_at, wait_offsets, waited = plan[5:]
    n, hosts = len(kind), len(first_wait) - 1
    end, free = np.empty((n, BLOCK)), np.zeros((len(on_host), BLOCK))
    clock, begin = np.zeros((hosts, BLOCK)), np.empty(BLOCK)
    next_wait = first_wait.copy()
    for i in range(n):
        h, s, r, cost = host[i], stream[i], kind[i], issue[i]
        while next_wait[h] < first_wait[h + 1] and wait_at[next_wait[h]] <= i:
            _stop(clock, h, next_wait[h], wait_offsets, waited, end, sync)
            next_wait[h] += 1
        if on_host[s]:
            for b in range(BLOCK):
                clock[h, b] += cost
                begin[b] = clock[h, b]
        else:
            for b in range(BLOCK):
                clock[h, b] += cost
                begin[b] = max(clock[h, b], free[s, b])
        for k in range(offsets[i], offsets[i + 1]):
            d = dependencies[k]
            for b in range(BLOCK):
                begin[b] = max(begin[b], end[d, b])
        for b in range(BLOCK):
            over = begin[b] + seconds[r, b]
            end[i, b] = over
            free[s, b] = over
        for b in range(BLOCK):
            found[1 + s, b] += seconds[r, b]
        if on_host[s]:
            clock[h] = end[i]
    for h in range(hosts):
        for w in range(next_wait[h], first_wait[h + 1]):
            _stop(clock, h, w, wait_offsets, waited, end, sync)
        for b in range(BLOCK):
            found[0, b] = max(found[0, b], clock[h, b])
    for i in range(n):
        for b in range(BLOCK):
            found[0, b] = max(found[0, b], end[i, b])


@njit(cache=True, boundscheck=False)
def _stop(clock, h, w, wait_offsets, waited, end, sync):
    """Thread `h` waits until the tasks of wait `w` have ended."""
    for k in range(wait_offsets[w], wait_offsets[w + 1]):
        for b in range(BLOCK):
            clock[h, b] = max(clock[h, b], end[waited[k], b])
    for b in range(BLOCK):
        clock[h, b] += sync
