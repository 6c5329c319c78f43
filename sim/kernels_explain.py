"""The loops of `sim.events`, `sim.causes`, `sim.idle` and `sim.bounds`."""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit

TASK, ISSUE, SYNC = 0, 1, 2
START, END, DEPENDENCY, THREAD, ISSUING = 0, 1, 2, 3, 4


@njit(cache=True, boundscheck=False)
def weave(plan, fifo, kind, item, first, before, of_task):
    """Fill the events of a graph, each after those that it waits for; returns how many edges.

    Without `fifo`, tasks do not wait for the one before them on their stream.
    """
    stream, host, on_host, offsets, dependencies = plan[:5]
    first_wait, wait_at, _, _ = plan[5:]
    thread = np.full(len(first_wait) - 1, -1)
    last = np.full(len(on_host), -1)
    next_wait = first_wait.copy()
    v = e = 0
    for i in range(len(stream)):
        h = host[i]
        while next_wait[h] < first_wait[h + 1] and wait_at[next_wait[h]] <= i:
            e = _wait(plan, next_wait[h], v, e, thread[h], kind, item, first, before, of_task)
            thread[h] = v
            next_wait[h] += 1
            v += 1
        kind[v], item[v], first[v] = ISSUE, i, e
        if thread[h] >= 0:
            before[e] = thread[h]
            e += 1
        v += 1
        s = stream[i]
        kind[v], item[v], first[v] = TASK, i, e
        if fifo and not on_host[s] and last[s] >= 0:
            before[e] = last[s]
            e += 1
        for k in range(offsets[i], offsets[i + 1]):
            before[e] = of_task[dependencies[k]]
            e += 1
        before[e] = v - 1
        e += 1
        of_task[i] = last[s] = v
        thread[h] = v if on_host[s] else v - 1
        v += 1
    for h in range(len(thread)):
        for w in range(next_wait[h], first_wait[h + 1]):
            e = _wait(plan, w, v, e, thread[h], kind, item, first, before, of_task)
            thread[h] = v
            v += 1
    first[v] = e
    return e


@njit(cache=True, boundscheck=False)
def _wait(plan, w, v, e, previous, kind, item, first, before, of_task):
    """Add one wait as event v, from edge e on; returns the next edge."""
    wait_offsets, waited = plan[7], plan[8]
    kind[v], item[v], first[v] = SYNC, w, e
    for k in range(wait_offsets[w], wait_offsets[w + 1]):
        before[e] = of_task[waited[k]]
        e += 1
    if previous >= 0:
        before[e] = previous
        e += 1
    return e


@njit(cache=True, boundscheck=False)
def forward(kind, item, first, before, length, given, begin, end, binding, held):
    """When each event begins and ends, which other bound it, and which task is behind that one.

    `given` are the ends of tasks that take another time than alone, which `length` then follows; or
    it is empty.
    """
    for v in range(len(kind)):
        at, found = 0.0, -1
        for e in range(first[v], first[v + 1]):
            over = end[before[e]]
            if found < 0 or over > at:
                at, found = over, before[e]
        begin[v] = at
        end[v] = at + length[v]
        if len(given) and kind[v] == TASK and given[item[v]] != end[v]:
            end[v] = given[item[v]]
            length[v] = end[v] - at
        binding[v] = found
        if found < 0 or kind[found] == TASK:
            held[v] = found
        else:
            held[v] = held[found]


@njit(cache=True, boundscheck=False)
def walk_back(binding, event, path):
    """Fill the path from an event back along what binds; returns how many events it has."""
    count = 0
    while event >= 0:
        path[count] = event
        count += 1
        event = binding[event]
    return count


@njit(cache=True, boundscheck=False)
def backward(first, before, begin, end, slack):
    """Lower each slack to what those that come after leave; it begins as makespan - end."""
    for v in range(len(begin) - 1, -1, -1):
        for e in range(first[v], first[v + 1]):
            p = before[e]
            slack[p] = min(slack[p], slack[v] + (begin[v] - end[p]))


@njit(cache=True, boundscheck=False)
def idle(kind, lane, op, stream, begin, end, binding, held, makespan, found):
    """Add the idle seconds of each lane to found[lane, cause, op, stream]; the last of op: none."""
    none_op, none_stream = found.shape[2] - 1, found.shape[3] - 1
    free = np.zeros(found.shape[0])
    used = np.zeros(found.shape[0], dtype=np.bool_)
    for v in range(len(kind)):
        s = lane[v]
        if begin[v] > free[s]:
            behind = held[v]
            o = op[behind] if behind >= 0 else none_op
            on = stream[behind] if behind >= 0 else none_stream
            if kind[binding[v]] == TASK:
                waited = begin[v] - free[s]
                cause = DEPENDENCY
            else:
                waited = max(0.0, min(end[behind], begin[v]) - free[s]) if behind >= 0 else 0.0
                cause = THREAD
            issuing = begin[v] - free[s] - waited
            if not used[s]:
                found[s, START, o, on] += waited
                found[s, START, none_op, none_stream] += issuing
            else:
                found[s, cause, o, on] += waited
                found[s, ISSUING, none_op, none_stream] += issuing
        free[s] = end[v]
        used[s] = True
    for s in range(len(free)):
        found[s, END, none_op, none_stream] += makespan - free[s]


@njit(cache=True, boundscheck=False)
def chain(offsets, dependencies, duration):
    """Seconds of the longest chain of dependencies."""
    end = np.zeros(len(duration))
    longest = 0.0
    for i in range(len(duration)):
        at = 0.0
        for k in range(offsets[i], offsets[i + 1]):
            at = max(at, end[dependencies[k]])
        end[i] = at + duration[i]
        longest = max(longest, end[i])
    return longest
