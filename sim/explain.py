"""Why a simulated generation takes as long as it does.

Prefill and every decode step are gone through one by one: what each start waited for
(`sim.causes`), hence the critical path and the slack of every task; where idle time comes from
(`sim.idle`); what the critical path is due to (`sim.resources`), hence how throughput follows each
rate (`sim.sensitivity`); and what no order could beat (`sim.bounds`).

Where tasks share channels, the times are those of the engine, in which a task may take longer than
alone; what it loses so, and to which channel, is told apart (`sim.lost`).
"""

from collections.abc import Iterator

from schedules.errors import BadInput
from schedules.graph import IntArray
from sim.bounds import Chains, bounds, channel_s, resource_s, without_order
from sim.causes import Times, times_of
from sim.cost import Roofline
from sim.events import ISSUE, SYNC, TASK, events_of
from sim.explanation import Explanation, PhasePart
from sim.generation import Generation
from sim.lost import Lost, lost, resource_of
from sim.resources import SYNC as SYNCHRONISING
from sim.resources import Alike, Seconds, add, alike
from sim.result import Result
from sim.sensitivity import DIFFERENCES, PATH, sensitivities
from sim.totals import IdleTotals, LostTotals, PathTotals, SlackTotals, by_name


def explain(result: Result) -> Explanation:
    """Explain a simulated generation.

    Raises `BadInput` where its tasks were not priced by a roofline, whose resources are told apart.

    >>> from sim.api import simulate
    >>> why = explain(simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 504, 36))
    >>> why.bottleneck, round(sum(one.elasticity for one in why.sensitivities), 9)
    (('gpu.compute.float16.experts',), 1.0)
    """
    cost = result.generation.cost
    if not isinstance(cost, Roofline):
        raise BadInput(f"only a roofline can be explained, not a {type(cost).__name__}")
    study = _Study()
    gpus = result.scenario.gpus_for(type(result.generation.schedule))
    for phases, numbers in _phases(result.generation, cost, gpus):
        study.add(phases, numbers)
    return study.explanation(result)


def _phases(generation: Generation, cost: Roofline, gpus: int) -> Iterator[tuple[Alike, range]]:
    """Prefill and the decode steps, those together that differ in amounts of work alone."""
    graph = generation.prefill.graph
    yield alike(graph, graph, (0, 0), cost, gpus), range(1)
    last = generation.steps
    if generation.alike and last:
        first, end = generation.step(1).graph, generation.step(last).graph
        yield alike(first, end, (1, last), cost, gpus), range(1, last + 1)
        return
    for step in range(1, last + 1):
        graph = generation.step(step).graph
        yield alike(graph, graph, (step, step), cost, gpus), range(step, step + 1)


class _Study:
    """What is added up over the phases of a generation."""

    def __init__(self) -> None:
        self.all: list[Alike] = []
        self.path = PathTotals()
        self.slack = SlackTotals()
        self.idle = IdleTotals()
        self.lost = LostTotals()
        self.due: dict[str, Seconds] = {"prefill": {}, "decode": {}}
        self.resources: Seconds = {}
        self.channels: Seconds = {}
        self.chains = Chains()

    def add(self, phases: Alike, numbers: range) -> None:
        """Add phases that are alike."""
        self.all.append(phases)
        steps, cost = phases.steps, phases.cost
        events, unordered = events_of(steps.graph), without_order(steps.graph)
        groups = by_name(events)
        for step in numbers:
            given = steps.duration_s(step), steps.issue_s, cost.sync_s
            slow = lost(steps.graph, *given, steps.sharing(step))
            times = times_of(events, *given, None if slow is None else slow.end_s)
            path = times.critical_path()
            self.path.add(times, path)
            self.slack.add(groups, times, path)
            self.idle.add(times)
            if slow is not None:
                self.lost.add(times, path, slow)
            self._add_due(phases, step, times, path, slow)
            add(self.resources, resource_s(phases, step))
            add(self.channels, channel_s(phases, step))
            self.chains.add(phases, step, unordered)

    def _add_due(
        self, phases: Alike, step: int, times: Times, path: IntArray, slow: Lost | None
    ) -> None:
        """What the seconds of the critical path are due to."""
        kind, seconds = times.events.kind[path], times.length_s[path]
        tasks = times.events.item[path[kind == TASK]]
        due = self.due["decode" if step else "prefill"]
        add(due, phases.due_to(step, tasks, None if slow is None else slow.own[tasks]))
        add(due, {phases.issuing: float(seconds[kind == ISSUE].sum())})
        add(due, {SYNCHRONISING: float(seconds[kind == SYNC].sum())})
        if slow is not None:
            bound_s = slow.bound_s[tasks].sum(axis=0).tolist()
            for channel, own in zip(slow.names, bound_s, strict=True):
                add(due, {resource_of(channel): own})

    def explanation(self, result: Result) -> Explanation:
        """All of it, sorted."""
        makespan_s = result.makespan_s
        order = {name: place for place, name in enumerate(result.streams)}
        method = DIFFERENCES if self.lost.parts else PATH
        due: Seconds = {}
        for parts in self.due.values():
            add(due, parts)
        return Explanation(
            result=result,
            critical_path=self.path.rows(),
            idle=self.idle.rows(order, makespan_s),
            bounds=bounds(result.busy_s, self.chains, self.resources, self.channels, makespan_s),
            sensitivities=sensitivities(self.all, due, makespan_s, method),
            phases=tuple(PhasePart.of(name, parts) for name, parts in self.due.items() if parts),
            slack=self.slack.rows(order),
            sharing=self.lost.rows(makespan_s),
            method=method,
        )
