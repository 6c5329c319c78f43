"""The event loop of the compiled engine, for tasks that share channels; see `sim.compiled`.

Time goes from event to event: a task ends, or one that waits may start. Whoever waited for it looks
for what to start next; then the running tasks get their speeds (`sim.kernels_running`).

A stream or thread that waits for a time, not for a task, sets an alarm. That is an entry among the
running tasks that uses no channel; its number is n, the number of tasks, plus that of the queue.
"""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sim.kernels_queues import ALARM, ISSUE, NOTHING, make_queues
from sim.kernels_running import (
    ENTRY,
    Running,
    enter,
    inlined,
    leave,
    next_to_end,
    set_speeds,
    use_channels,
)

MOMENT = np.dtype(
    [
        ("now_s", np.float64),
        ("running", np.int64),  # tasks and alarms
        ("ended", np.int64),  # tasks, so far
        ("changed", np.bool_),  # whether other tasks use channels than when speeds were set
    ]
)


class Loop(NamedTuple):
    """All that the loop works on; arrays of shape (n,) unless said otherwise.

    Parameters
    ----------
    plan: a `sim.compiled.Plan`. duration, issue: seconds. sync: seconds, a number.
    demand: bytes/s, shape (n, c). issued, start, end: seconds, to be found; infinite while open.
    issuing: seconds of each thread. queues: records, streams before threads.
    queued, program: the tasks of streams, and of threads. running: the tasks that run.
    """

    plan: Any
    duration: Any
    issue: Any
    sync: Any
    demand: Any
    issued: Any
    start: Any
    end: Any
    issuing: Any
    queues: Any
    queued: Any
    program: Any
    running: Any


@njit(cache=True, boundscheck=False)
def shared_run(plan, lanes, duration, issue, sync, demand, capacity, start, end, issuing):
    """Fill start, end and the seconds of issuing; returns the makespan, or -1 if tasks are stuck.

    Parameters
    ----------
    plan: a `sim.compiled.Plan`. lanes: of each stream.
    demand: shape (n, c), bytes/s. capacity: shape (c,).
    """
    n = len(duration)
    issued = np.full(n, np.inf)
    end[:] = np.inf
    queues, queued, program = make_queues(plan, lanes)
    most = min(n, lanes.sum() + len(issuing)) + len(queues)
    entries, needs = np.zeros(most, dtype=ENTRY), np.zeros((most, len(capacity)))
    running = Running(entries, needs, capacity, capacity.copy())
    loop = Loop(
        plan, duration, issue, sync, demand, issued, start, end, issuing, queues, queued, program,
        running,
    )  # fmt: skip
    moments = np.zeros(1, dtype=MOMENT)
    _run(loop, moments[0])
    if moments[0].ended < n:
        return -1.0
    latest = moments[0].now_s
    for q in range(len(lanes), len(queues)):
        latest = max(latest, queues[q].clock_s)
    return latest


@inlined
def _run(loop, moment):
    """From event to event, until nothing runs."""
    running = loop.running
    while True:
        _act(loop, moment)
        if moment.changed:
            set_speeds(running, moment.running, moment.now_s)
            moment.changed = False
        if moment.running == 0:
            break
        place = next_to_end(running, moment.running)
        moment.now_s = running.entries[place].end_s
        while running.entries[place].end_s <= moment.now_s:
            _end(loop, moment, place)
            if moment.running == 0:
                break
            place = next_to_end(running, moment.running)


@inlined
def _act(loop, moment):
    """All queues that are awake start what they can: threads first, as streams wait for them."""
    streams = len(loop.plan.on_host)
    for q in range(streams, len(loop.queues)):
        if loop.queues[q].awake:
            _issue(loop, moment, q)
    for q in range(streams):
        if loop.queues[q].awake:
            _serve(loop, moment, q)


@inlined
def _issue(loop, moment, q):
    """A thread goes on until something holds it."""
    plan, queue = loop.plan, loop.queues[q]
    queue.awake, queue.awaits = False, NOTHING
    last_wait = plan.first_wait[q - len(plan.on_host) + 1]
    while True:
        i = loop.program[queue.next] if queue.next < queue.until else len(loop.duration)
        if queue.wait < last_wait and plan.wait_at[queue.wait] <= i:
            if not _pass_wait(loop, q):
                break
        elif queue.next == queue.until:
            break
        else:
            if loop.issued[i] == np.inf:
                _issue_task(loop, q, i)
            if plan.on_host[plan.stream[i]]:
                _start(loop, moment, q, i)
                break
            queue.next += 1


@inlined
def _pass_wait(loop, q):
    """A thread at a wait: returns whether all that it is for has ended."""
    plan, queue = loop.plan, loop.queues[q]
    ready = queue.clock_s
    for k in range(plan.wait_offsets[queue.wait], plan.wait_offsets[queue.wait + 1]):
        task = plan.waited[k]
        if loop.end[task] == np.inf:
            queue.awaits = task
            return False
        ready = max(ready, loop.end[task])
    queue.clock_s = ready + loop.sync
    loop.issuing[q - len(plan.on_host)] += loop.sync
    queue.wait += 1
    return True


@inlined
def _issue_task(loop, q, i):
    """A thread issues a task, and wakes the stream if that waits for it."""
    queue = loop.queues[q]
    queue.clock_s += loop.issue[i]
    loop.issuing[q - len(loop.plan.on_host)] += loop.issue[i]
    loop.issued[i] = queue.clock_s
    stream = loop.queues[loop.plan.stream[i]]
    if stream.awaits == ISSUE:
        stream.awake = True


@inlined
def _serve(loop, moment, q):
    """A stream starts tasks until something holds it."""
    queue = loop.queues[q]
    queue.awake = False
    if queue.awaits == ALARM or loop.plan.on_host[q]:
        return
    queue.awaits = NOTHING
    while queue.next < queue.until and queue.free > 0:
        if not _start(loop, moment, q, loop.queued[queue.next]):
            return
        queue.next += 1


@inlined
def _start(loop, moment, q, i):
    """Start the next task of a queue, or note what it waits for; returns whether it started."""
    queue, now, place = loop.queues[q], moment.now_s, moment.running
    queue.awaits = _open_dependency(loop, queue, i)
    if queue.awaits != NOTHING:
        return False
    if loop.issued[i] == np.inf:
        queue.awaits = ISSUE
        return False
    moment.running += 1
    if loop.issued[i] > now:
        queue.awaits = ALARM
        enter(loop.running, place, len(loop.duration) + q, now, 0.0, loop.issued[i])
        return False
    loop.start[i] = now
    queue.free -= 1
    enter(loop.running, place, i, now, loop.duration[i], now + loop.duration[i])
    if use_channels(loop.running, place, loop.demand[i]):
        moment.changed = True
    return True


@inlined
def _open_dependency(loop, queue, i):
    """A dependency of the queue's next task that has not ended, or NOTHING."""
    plan = loop.plan
    queue.seen = max(queue.seen, plan.offsets[i])
    while queue.seen < plan.offsets[i + 1]:
        task = plan.dependencies[queue.seen]
        if loop.end[task] == np.inf:
            return task
        queue.seen += 1
    return NOTHING


@inlined
def _end(loop, moment, place):
    """What runs in a place ends, and wakes who waits for it."""
    plan, queues, streams = loop.plan, loop.queues, len(loop.plan.on_host)
    entry = loop.running.entries[place]
    i = entry.task
    if entry.share > 0:
        moment.changed = True
    moment.running -= 1
    leave(loop.running, place, moment.running)
    if i >= len(loop.duration):
        queue = queues[i - len(loop.duration)]
        queue.awake, queue.awaits = True, NOTHING
        return
    loop.end[i] = moment.now_s
    moment.ended += 1
    q = plan.stream[i]
    if plan.on_host[q]:
        q = streams + plan.host[i]
        queues[q].clock_s = moment.now_s
        queues[q].next += 1
    queues[q].free += 1
    queues[q].awake = True
    for k in range(len(queues)):
        if queues[k].awaits == i:
            queues[k].awake = True
