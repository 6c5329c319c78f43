"""The loops of the compiled engine; see `sim.compiled`."""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit


@njit(cache=True, boundscheck=False)
def one_pass(plan, duration, issue, sync, start, end, issuing):
    """Fill start and end of every task, and the seconds of issuing; returns the makespan."""
    if len(issuing) == 1:
        return _one_thread(plan, duration, issue, sync, start, end, issuing)
    return _threads(plan, duration, issue, sync, start, end, issuing)


@njit(cache=True, boundscheck=False)
def _one_thread(plan, duration, issue, sync, start, end, issuing):
    """With one issuing thread, whose clock and next wait are numbers: twice as fast."""
    stream, _, on_host, offsets, dependencies = plan[:5]
    _, wait_at, wait_offsets, waited = plan[5:]
    n, waits = len(duration), len(wait_at)
    free = np.zeros(len(on_host))
    now, spent, latest = 0.0, 0.0, 0.0
    w, k = 0, 0
    next_wait = wait_at[0] if waits else n + 1
    for i in range(n):
        while i >= next_wait:
            for q in range(wait_offsets[w], wait_offsets[w + 1]):
                now = max(now, end[waited[q]])
            now += sync
            spent += sync
            w += 1
            next_wait = wait_at[w] if w < waits else n + 1
        now += issue[i]
        spent += issue[i]
        s = stream[i]
        begin = now if on_host[s] else max(now, free[s])
        until = offsets[i + 1]
        while k < until:
            begin = max(begin, end[dependencies[k]])
            k += 1
        start[i] = begin
        over = begin + duration[i]
        end[i] = over
        free[s] = over
        if on_host[s]:
            now = over
        latest = max(latest, over)
    for v in range(w, waits):
        for q in range(wait_offsets[v], wait_offsets[v + 1]):
            now = max(now, end[waited[q]])
        now += sync
        spent += sync
    issuing[0] = spent
    return max(latest, now)


@njit(cache=True, boundscheck=False)
def _threads(plan, duration, issue, sync, start, end, issuing):
    """With several issuing threads."""
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
def padded_pass(padded, duration, issue, sync, start, end, issuing):
    """As `one_pass` with one issuing thread, on a graph that `sim.padded` has laid out.

    The end of task i is at i + 1 of `end`, which has a place more than there are tasks.
    """
    before, first, second, stop_at, stop_from, stop_to, waited = padded
    n, stops = len(duration), len(stop_at)
    now, spent, at = 0.0, 0.0, 0
    end[0] = 0.0
    for stop in range(stops + 1):
        until = stop_at[stop] if stop < stops else n
        for i in range(at, until):
            now += issue[i]
            begin = max(max(end[before[i]], end[first[i]]), max(end[second[i]], now))
            start[i] = begin
            end[i + 1] = begin + duration[i]
        at = until
        if stop == stops:
            break
        if stop_from[stop] < 0:  # a task on the thread itself
            now = max(max(end[first[at]], end[second[at]]), now + issue[at])
            start[at] = now
            now += duration[at]
            end[at + 1] = now
            at += 1
            continue
        for k in range(stop_from[stop], stop_to[stop]):
            now = max(now, end[waited[k]])
        now += sync
        spent += sync
    latest = now
    for i in range(n):
        spent += issue[i]
        latest = max(latest, end[i + 1])
    issuing[0] = spent
    return latest


@njit(cache=True, boundscheck=False)
def many_steps(padded, plan, low, high, fixed, issue, sync, shares, found):
    """Fill makespan and busy seconds of every stream for each step; returns those of issuing.

    A step is `share` of the way from `low` to `high`, shape (n, resources): what each resource
    needs for a task. `found` has shape (steps, 1 + streams), what is returned (steps, hosts).
    `padded` is the graph's layout; without tasks where it has none.
    """
    n, resources = low.shape
    stream = plan[0]
    hosts = len(plan[5]) - 1
    duration, start, end = np.empty(n), np.empty(n), np.empty(n + 1)
    issuing = np.zeros((len(shares), hosts))
    for step in range(len(shares)):
        share = shares[step]
        for i in range(n):
            slowest = low[i, 0] + (high[i, 0] - low[i, 0]) * share
            for r in range(1, resources):
                slowest = max(slowest, low[i, r] + (high[i, r] - low[i, r]) * share)
            duration[i] = slowest + fixed[i]
            found[step, 1 + stream[i]] += duration[i]
        if len(padded[0]) == n:
            found[step, 0] = padded_pass(padded, duration, issue, sync, start, end, issuing[step])
        else:
            found[step, 0] = one_pass(plan, duration, issue, sync, start, end, issuing[step])
    return issuing


@njit(cache=True, boundscheck=False)
def in_order(offsets, dependencies):
    """Whether every task depends on tasks before it alone."""
    for i in range(len(offsets) - 1):
        for k in range(offsets[i], offsets[i + 1]):
            if dependencies[k] >= i or dependencies[k] < 0:
                return False
    return True
