"""Orders to begin with: as issued, and with the visits of a layer's micro-batches interleaved.

FlexGen takes all micro-batches through a layer's attention and then all through its FFN. With a
skew of s, micro-batch j's FFN comes right after the attention of micro-batch j + s, be it of this
layer or the next.
"""

import numpy as np

from schedules.graph import IntArray
from sim.optimal.greedy import runs_in
from sim.optimal.problem import Problem

MOST = 8
"""Skews that are tried, at most."""

MANY = 4
"""Visits of a layer; where there are as many, micro-batches are interleaved already."""

UNKNOWN = 10**9


def skews(problem: Problem) -> list[IntArray]:
    """Orders in which all tasks can run one after the other; the schedule's own is the first."""
    visit, batches = visits(problem), int(problem.graph.micro_batch.max(initial=0)) + 1
    tried = np.unique(np.linspace(0, batches, min(batches + 1, MOST)).astype(int)).tolist()
    found = [np.arange(len(problem))]
    if 0 < visit.max(initial=0) < MANY:
        found += [_skewed(problem, visit, skew) for skew in tried]
    return [order for order in found if runs_in(problem, order)]


def _skewed(problem: Problem, visit: IntArray, skew: int) -> IntArray:
    """By place in a layer's micro-batches, each visit `skew` places after the one before.

    What belongs to no micro-batch goes right before the first that needs it.
    """
    graph = problem.graph
    batches = int(graph.micro_batch.max()) + 1
    common = graph.micro_batch < 0
    slot = graph.layer * batches + graph.micro_batch + skew * visit
    slot[common] = UNKNOWN
    for before, after in reversed(problem.before):  # sorted by the second, the later task
        if common[before]:
            slot[before] = min(slot[before], slot[after])
    return np.lexsort((np.arange(len(problem)), visit, ~common, slot))


def visits(problem: Problem) -> IntArray:
    """How often its layer has begun anew with the micro-batches before a task's turn.

    Computations are counted as they were issued: where the micro-batch goes back, a visit begins. A
    copy belongs to the computation whose result it takes away, or else to the one that needs it.
    """
    graph = problem.graph
    place = list(zip(graph.layer.tolist(), graph.micro_batch.tolist(), strict=True))
    computes = [bool(graph.works[work].flops) for work in graph.work.tolist()]
    visit = np.full(len(problem), UNKNOWN)
    reached: dict[int, tuple[int, int]] = {}  # of each layer: visit and micro-batch
    for task, (layer, batch) in enumerate(place):
        if computes[task] and batch >= 0:
            number, last = reached.get(layer, (0, batch))
            number += batch < last
            reached[layer] = number, batch
            visit[task] = number
    together = [pair for pair in sorted(problem.before) if place[pair[0]] == place[pair[1]]]
    for before, after in together:
        if computes[before] and not computes[after]:
            visit[after] = min(visit[after], visit[before])
    stores = visit < UNKNOWN
    for before, after in reversed(together):
        if not stores[before]:
            visit[before] = min(visit[before], visit[after])
    return np.where(visit == UNKNOWN, 0, visit)
