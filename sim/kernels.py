"""The loops of the compiled engine; see `sim.compiled`."""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit


@njit(cache=True, boundscheck=False)
def one_pass(plan, duration, issue, sync, start, end, issuing):
    """Fill start and end of every task, and the seconds of issuing; returns the makespan."""
    stream, host, on_host, offsets, dependencies = plan[:5]
    first_wait, wait_at, wait_offsets, waited = plan[5:]
    hosts = len(first_wait) - 1
    clock, free = np.zeros(hosts), np.zeros(len(on_host))
    next_wait = first_wait.copy()
    latest = 0.0
    for i in range(len(duration)):
        h = host[i]
        now = clock[h]
        w = next_wait[h]
        while w < first_wait[h + 1] and wait_at[w] <= i:
            for k in range(wait_offsets[w], wait_offsets[w + 1]):
                now = max(now, end[waited[k]])
            now += sync
            issuing[h] += sync
            w += 1
            next_wait[h] = w
        now += issue[i]
        issuing[h] += issue[i]
        s = stream[i]
        begin = now if on_host[s] else max(now, free[s])
        for k in range(offsets[i], offsets[i + 1]):
            begin = max(begin, end[dependencies[k]])
        start[i] = begin
        over = begin + duration[i]
        end[i] = over
        free[s] = over
        clock[h] = over if on_host[s] else now
        latest = max(latest, over)
    for h in range(hosts):
        now = clock[h]
        for w in range(next_wait[h], first_wait[h + 1]):
            for k in range(wait_offsets[w], wait_offsets[w + 1]):
                now = max(now, end[waited[k]])
            now += sync
            issuing[h] += sync
        latest = max(latest, now)
    return latest


@njit(cache=True, boundscheck=False)
def many_steps(plan, low, high, fixed, issue, sync, shares, found):
    """Fill makespan and busy seconds of every stream for each step; returns those of issuing.

    A step is `share` of the way from `low` to `high`, shape (n, resources): what each resource
    needs for a task. `found` has shape (steps, 1 + streams), what is returned (steps, hosts).
    """
    n, resources = low.shape
    stream = plan[0]
    hosts = len(plan[5]) - 1
    duration, start, end = np.empty(n), np.empty(n), np.empty(n)
    issuing = np.zeros((len(shares), hosts))
    for step in range(len(shares)):
        share = shares[step]
        for i in range(n):
            slowest = low[i, 0] + (high[i, 0] - low[i, 0]) * share
            for r in range(1, resources):
                slowest = max(slowest, low[i, r] + (high[i, r] - low[i, r]) * share)
            duration[i] = slowest + fixed[i]
            found[step, 1 + stream[i]] += duration[i]
        found[step, 0] = one_pass(plan, duration, issue, sync, start, end, issuing[step])
    return issuing
