"""A good order without search: each stream takes the first task that is ready.

Where the search begins. Tasks overtake one another on a stream, but those that open stays of a kind
keep their order among themselves; then the first task that is left can always run, since all that
it needs came before it in the schedule's order, and no place is taken out of turn.
"""

import bisect
import heapq
from collections import deque

import numpy as np

from schedules.graph import FloatArray, IntArray
from sim.optimal.problem import NO_TASK, Problem, Stay


def greedy(problem: Problem, order: IntArray) -> tuple[FloatArray, FloatArray]:
    """Start and end of every task, in seconds; of those ready, the one first in `order` goes first.

    `order` has all tasks, and they can run in it one after the other (`runs_in`).
    """
    return _Streams(problem, order).run()


def runs_in(problem: Problem, order: IntArray) -> bool:
    """Whether the tasks can run one after the other in this order."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    if any(rank[i] > rank[j] for i, j in problem.before):
        return False
    change = np.zeros((len(problem.places), len(order) + 1), dtype=np.int64)
    for stay in problem.stays:  # places taken before each task runs, and given back after it
        users = [int(rank[user]) for user in stay.users]
        begin = 0 if stay.opens == NO_TASK else int(rank[stay.opens])
        end = len(order) if stay.stays else max(users, default=-1) + 1
        change[stay.kind, begin] += 1
        change[stay.kind, max(begin, end)] -= 1
    return bool((change.cumsum(axis=1)[:, :-1] <= np.array(problem.places)[:, None]).all())


class _Streams:
    def __init__(self, problem: Problem, order: IntArray) -> None:
        n = len(problem)
        self.problem = problem
        self.rank = np.empty(n, dtype=np.int64)
        self.rank[order] = np.arange(n)
        self.start, self.end = np.zeros(n), np.zeros(n)
        self.missing = [0] * n
        self.followers: list[list[int]] = [[] for _ in range(n)]
        for before, after in set(problem.before):
            self.missing[after] += 1
            self.followers[before].append(after)
        graph = problem.graph
        self.free = [graph.lanes_of(s) for s in range(len(graph.streams))]
        self.stream = graph.stream.tolist()
        self.ready: list[list[tuple[int, int]]] = [[] for _ in graph.streams]
        self._stays()
        for task in range(n):
            if not self.missing[task]:
                self._ready(task)

    def _stays(self) -> None:
        """Who opens what, whose turn it is, and how many places are left."""
        stays = self.problem.stays
        self.opens: list[list[int]] = [[] for _ in range(len(self.problem))]
        self.uses: list[list[int]] = [[] for _ in range(len(self.problem))]
        self.left = [len(set(stay.users)) + stay.stays for stay in stays]
        self.room = list(self.problem.places)
        self.turn: list[deque[int]] = [deque() for _ in self.room]
        for number, stay in sorted(enumerate(stays), key=self._opening):
            for user in set(stay.users):
                self.uses[user].append(number)
            if stay.opens == NO_TASK:
                self.room[stay.kind] -= self.left[number] > 0
            else:
                self.opens[stay.opens].append(stay.kind)
                self.turn[stay.kind].append(stay.opens)

    def _opening(self, item: tuple[int, Stay]) -> int:
        opens = item[1].opens
        return opens if opens == NO_TASK else int(self.rank[opens])

    def _ready(self, task: int) -> None:
        bisect.insort(self.ready[self.stream[task]], (int(self.rank[task]), task))

    def run(self) -> tuple[FloatArray, FloatArray]:
        now, running = 0.0, list[tuple[float, int]]()
        while True:
            while self._start_some(now, running):
                pass
            if not running:
                return self.start, self.end
            now, _ = running[0]
            while running and running[0][0] <= now:
                self._over(heapq.heappop(running)[1])

    def _start_some(self, now: float, running: list[tuple[float, int]]) -> bool:
        started = False
        for stream, ready in enumerate(self.ready):
            while self.free[stream] and (task := self._take(ready)) is not None:
                self.free[stream] -= 1
                for kind in self.opens[task]:
                    self.turn[kind].popleft()
                    self.room[kind] -= 1
                self.start[task] = now
                self.end[task] = now + self.problem.duration_s[task]
                heapq.heappush(running, (float(self.end[task]), task))
                started = True
        return started

    def _take(self, ready: list[tuple[int, int]]) -> int | None:
        """The first ready task whose turn it is to open what it opens, and that finds room."""
        for place, (_, task) in enumerate(ready):
            if self._may_open(task):
                ready.pop(place)
                return task
        return None

    def _may_open(self, task: int) -> bool:
        needed: dict[int, int] = {}
        for kind in self.opens[task]:
            needed[kind] = needed.get(kind, 0) + 1
        return all(
            self.room[kind] >= count and self.turn[kind][0] == task
            for kind, count in needed.items()
        )

    def _over(self, task: int) -> None:
        self.free[self.stream[task]] += 1
        for number in self.uses[task]:
            self.left[number] -= 1
            self.room[self.problem.stays[number].kind] += self.left[number] == 0
        for follower in self.followers[task]:
            self.missing[follower] -= 1
            if not self.missing[follower]:
                self._ready(follower)
