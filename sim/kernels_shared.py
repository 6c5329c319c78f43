"""The event loop of the compiled engine, for tasks that share channels; see `sim.compiled`.

Time goes from event to event: a task ends, or one that waits may start. Between them every running
task has a speed. What a task would still take alone is brought up to date only when its speed
changes, so a task that is never slowed down ends at start + duration, to the bit.
"""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit


@njit(cache=True, boundscheck=False)
def fair_speeds(running, count, demand, dominant, capacity, speed, share, left):
    """Speeds of the first `count` tasks in `running`, as `sim.sharing.speeds` defines them.

    `dominant` is each task's largest part of a channel, alone. `share` and `left` are room to work
    in. A task whose speed is not fixed yet has -1.
    """
    channels = len(capacity)
    rising = 0
    for k in range(count):
        share[k] = dominant[running[k]]
        speed[k] = 1.0
        if share[k] > 0:
            speed[k] = -1.0
            rising += 1
    left[:] = capacity
    while rising > 0:
        level, tight, full = np.inf, -1, np.inf
        for c in range(channels):
            growth = 0.0
            for k in range(count):
                if speed[k] < 0:
                    growth += demand[running[k], c] / share[k]
            if growth * level > left[c]:
                level, tight = left[c] / growth, c
        for k in range(count):
            if speed[k] < 0:
                full = min(full, share[k])
        for k in range(count):
            if speed[k] >= 0:
                continue
            stops = share[k] <= full if full <= level else demand[running[k], tight] > 0
            if stops:
                speed[k] = -2.0 - min(1.0, min(level, full) / share[k])  # marked, for this round
        for k in range(count):
            if speed[k] <= -2.0:
                speed[k] = -2.0 - speed[k]
                rising -= 1
                for c in range(channels):
                    left[c] = max(0.0, left[c] - speed[k] * demand[running[k], c])


@njit(cache=True, boundscheck=False)
def _ready(task, issued, offsets, dependencies, end):
    """When a task has been issued and its dependencies have ended; infinite while that is open."""
    ready = issued[task]
    for k in range(offsets[task], offsets[task + 1]):
        ready = max(ready, end[dependencies[k]])
    return ready


@njit(cache=True, boundscheck=False)
def shared_run(
    plan, lanes, order, first, program, program_first, duration, issue, sync, demand, capacity,
    start, end, issuing,
):  # fmt: skip
    """Fill start, end and the seconds of issuing; returns the makespan, or -1 if tasks are stuck.

    Parameters
    ----------
    lanes: of each stream. order, first: tasks by stream: those of stream s are
        order[first[s]:first[s + 1]]. program, program_first: tasks by issuing thread, likewise.
    demand: shape (n, c), bytes/s. capacity: shape (c,).
    """
    stream, host, on_host, offsets, dependencies = plan[:5]
    first_wait, wait_at, wait_offsets, waited = plan[5:]
    hosts, streams, n = len(first_wait) - 1, len(on_host), len(duration)
    issued, dominant = np.full(n, np.inf), np.zeros(n)
    for i in range(n):
        for c in range(len(capacity)):
            dominant[i] = max(dominant[i], demand[i, c] / capacity[c])
    end[:] = np.inf
    clock = np.zeros(hosts)
    next_wait, next_issue = first_wait.copy(), program_first.copy()
    busy_host = np.full(hosts, -1, dtype=np.int64)  # the task that runs on the thread itself
    head, used = first.copy(), np.zeros(streams, dtype=np.int64)
    most = lanes.sum() + hosts
    running = np.zeros(most, dtype=np.int64)
    rest, since, speed, old = np.zeros(most), np.zeros(most), np.ones(most), np.ones(most)
    share, left = np.zeros(most), np.zeros(len(capacity))
    count, done, now = 0, 0, 0.0
    while True:
        wake = np.inf
        changed = True
        while changed:
            changed = False
            for h in range(hosts):  # the threads issue until something holds them
                while busy_host[h] < 0:
                    w = next_wait[h]
                    i = program[next_issue[h]] if next_issue[h] < program_first[h + 1] else n
                    if w < first_wait[h + 1] and wait_at[w] <= i:
                        ready = clock[h]
                        for k in range(wait_offsets[w], wait_offsets[w + 1]):
                            ready = max(ready, end[waited[k]])
                        if ready == np.inf:
                            break
                        clock[h] = ready + sync
                        issuing[h] += sync
                        next_wait[h] += 1
                        changed = True
                        continue
                    if i == n:
                        break
                    if issued[i] == np.inf:
                        clock[h] += issue[i]
                        issuing[h] += issue[i]
                        issued[i] = clock[h]
                        changed = True
                    if on_host[stream[i]]:
                        ready = _ready(i, issued, offsets, dependencies, end)
                        if ready > now:
                            wake = min(wake, ready)
                            break
                        busy_host[h] = i
                        start[i] = now
                        running[count], rest[count], since[count], speed[count] = (
                            i,
                            duration[i],
                            now,
                            -1,
                        )
                        count += 1
                        changed = True
                        break
                    next_issue[h] += 1
            for s in range(streams):
                if on_host[s]:
                    continue
                while head[s] < first[s + 1] and used[s] < lanes[s]:
                    i = order[head[s]]
                    ready = _ready(i, issued, offsets, dependencies, end)
                    if ready > now:
                        wake = min(wake, ready)
                        break
                    start[i] = now
                    running[count], rest[count], since[count], speed[count] = (
                        i,
                        duration[i],
                        now,
                        -1,
                    )
                    count += 1
                    used[s] += 1
                    head[s] += 1
                    changed = True
        old[:count] = speed[:count]
        fair_speeds(running, count, demand, dominant, capacity, speed, share, left)
        for k in range(count):
            if old[k] >= 0 and old[k] != speed[k]:
                rest[k] = max(0.0, rest[k] - (now - since[k]) * old[k])
                since[k] = now
        soon = wake
        for k in range(count):
            soon = min(soon, since[k] + rest[k] / speed[k])
        if soon == np.inf:
            break
        now = soon
        kept = 0
        for k in range(count):
            i = running[k]
            if since[k] + rest[k] / speed[k] <= now:
                end[i] = now
                done += 1
                s = stream[i]
                if on_host[s]:
                    h = host[i]
                    clock[h] = now
                    busy_host[h] = -1
                    next_issue[h] += 1
                else:
                    used[s] -= 1
                continue
            running[kept], rest[kept], since[kept] = i, rest[k], since[k]
            speed[kept] = speed[k]
            kept += 1
        count = kept
    if done < n:
        return -1.0
    latest = 0.0
    for i in range(n):
        latest = max(latest, end[i])
    for h in range(hosts):
        latest = max(latest, clock[h])
    return latest
