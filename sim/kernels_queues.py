"""Streams and issuing threads as queues of tasks, for the event loop in `sim.kernels_shared`."""

# mypy: disable-error-code="no-untyped-def, misc, no-untyped-call"

import numpy as np
from numba import njit

NOTHING, ISSUE, ALARM = -1, -2, -3  # what a queue waits for, besides tasks
QUEUE = np.dtype(
    [
        ("next", np.int64),  # the place of its next task among all tasks in groups
        ("until", np.int64),  # the place after its last task
        ("free", np.int64),  # lanes; a thread has one
        ("awake", np.bool_),  # whether it has to look for what it can start
        ("awaits", np.int64),  # the task that has to end first; or NOTHING, ISSUE or ALARM
        ("seen", np.int64),  # dependencies before this one have ended, as for its next task
        ("wait", np.int64),  # next wait of a thread
        ("clock_s", np.float64),  # of a thread; it may be ahead of the simulation
    ]
)


@njit(cache=True, boundscheck=False)
def in_groups(group, count):
    """The tasks in order, group by group; and where each group begins, and the last one ends."""
    first = np.zeros(count + 1, dtype=np.int64)
    for i in range(len(group)):
        first[group[i] + 1] += 1
    for g in range(count):
        first[g + 1] += first[g]
    tasks, place = np.empty(len(group), dtype=np.int32), first.copy()
    for i in range(len(group)):
        tasks[place[group[i]]] = i
        place[group[i]] += 1
    return tasks, first


@njit(cache=True, boundscheck=False)
def make_queues(plan, lanes):
    """All queues, streams before threads, and their tasks: streams' and threads', in groups."""
    streams, hosts = len(lanes), len(plan.first_wait) - 1
    queued, first = in_groups(plan.stream, streams)
    program, program_first = in_groups(plan.host, hosts)
    queues = np.zeros(streams + hosts, dtype=QUEUE)
    for q in range(len(queues)):
        queues[q].awake = True
        queues[q].awaits = NOTHING
    for s in range(streams):
        queues[s].next, queues[s].until, queues[s].free = first[s], first[s + 1], lanes[s]
    for h in range(hosts):
        queue = queues[streams + h]
        queue.next, queue.until, queue.free = program_first[h], program_first[h + 1], 1
        queue.wait = plan.first_wait[h]
    return queues, queued, program
