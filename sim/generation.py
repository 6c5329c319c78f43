"""A whole generation: prefill and all decode steps, each of them simulated.

Every schedule ends prefill and each decode step with a barrier, because the host reads the sampled
tokens. So the makespan is a sum over steps. Steps that issue the same tasks are issued three times
in all: the first, the last, and one between, which shows that the two foretell it; the durations of
the others follow (`sim.decoding`), and the engine runs every step.

Where a schedule says that its steps are not alike, or those three differ in more than amounts of
work, or take memory and keep it, every step is issued.
"""

from dataclasses import dataclass

import numpy as np

from schedules.graph import FloatArray, RecordingIssuer, TaskGraph
from schedules.schedule import Schedule
from sim.channels import loads
from sim.cost import CostModel, price
from sim.decoding import Steps, steps_between
from sim.engines import Engine, engine
from sim.tiling import ISSUED, can_tile, tiled
from sim.times import Run, busy_s


@dataclass(frozen=True, eq=False, slots=True)
class Phase:
    """One simulated phase: prefill, or one decode step.

    `duration_s` is what each task takes alone; it may run longer where tasks share channels.
    """

    graph: TaskGraph
    run: Run
    duration_s: FloatArray

    @property
    def totals(self) -> FloatArray:
        """Makespan, then busy time of every stream, the host's issuing included; seconds."""
        return np.array([self.run.makespan_s, *busy_s(self.graph, self.duration_s, self.run)])


def issue_phase(schedule: Schedule, step: int) -> TaskGraph:
    """Issue one phase: prefill (`step` 0) or decode step `step` (1..).

    Where the layers repeat, a few are issued and tiled (`sim.tiling`).
    """
    node = schedule.node
    layers = node.prefill_layers if step == 0 else node.model.decoder_layers
    if schedule.steps_alike and node.repeats and can_tile(layers):
        node.cut, held = ISSUED, _held_bytes(schedule)
        few = _issue(schedule, step)
        node.cut = None
        # Memory that layers take and keep cannot be tiled: each has to ask for it.
        if not _holds_more(schedule, held) and (whole := tiled(few, len(layers))) is not None:
            return whole
        node.repeats = False  # nor will its other phases
    return _issue(schedule, step)


def _issue(schedule: Schedule, step: int) -> TaskGraph:
    if step == 0:
        schedule.run_prefill()
    else:
        schedule.run_decode_step(step)
    issuer = schedule.node.issuer
    assert isinstance(issuer, RecordingIssuer)
    return issuer.take()


def _held_bytes(schedule: Schedule) -> dict[str, int]:
    """What each pool holds between two phases."""
    return {name: pool.used_bytes for name, pool in schedule.node.issuer.pools.items()}


def _holds_more(schedule: Schedule, than: dict[str, int]) -> bool:
    return any(size > than[name] for name, size in _held_bytes(schedule).items())


class Generation:
    """All phases of one schedule on one node.

    Parameters
    ----------
    schedule: with all its memory allocated.
    cost: prices the tasks.
    engine_name: which engine runs them; see `sim.engines`.
    """

    def __init__(self, schedule: Schedule, cost: CostModel, engine_name: str = "compiled") -> None:
        self.schedule = schedule
        self.cost = cost
        self.engine: Engine = engine(engine_name)
        self.steps = schedule.n_decode_steps(
            schedule.node.model.is_encoder_decoder, schedule.node.gen_len
        )
        self.prefill = self._issued(0)
        self._kept: dict[int, Phase] = {}  # phases that somebody has asked for, by step
        self._foretold = self._foretell() if schedule.steps_alike and self.steps else None
        self.alike = schedule.steps_alike and (not self.steps or self._foretold is not None)
        if not self.alike:
            others = [s for s in range(1, self.steps + 1) if s not in self._kept]
            self._kept |= {s: self._issued(s) for s in others}
        self.first = self.step(1) if self.steps else None
        self.decode = self._totals()

    def step(self, step: int) -> Phase:
        """Decode step `step` (1..)."""
        if step not in self._kept:
            assert self._foretold is not None
            self._kept[step] = self._phase(self._foretold.graph_at(step))
        return self._kept[step]

    def _issued(self, step: int) -> Phase:
        """Issue and simulate one phase."""
        return self._phase(issue_phase(self.schedule, step))

    def _phase(self, graph: TaskGraph) -> Phase:
        return phase_of(graph, self.cost, self.engine)

    def _foretell(self) -> Steps | None:
        """All steps from the first and the last; None where they are not alike."""
        last, between = self.steps, (1 + self.steps) // 2
        held = _held_bytes(self.schedule)
        first = issue_phase(self.schedule, 1)
        if _holds_more(self.schedule, held):
            self._kept[1] = self._phase(first)  # not once more, or it would take memory twice
            return None
        end = issue_phase(self.schedule, last) if last > 1 else first
        if not end.same_structure(first) or _holds_more(self.schedule, held):
            return None
        steps = steps_between(first, end, (1, last), self.cost)
        if between in (1, last):
            return steps
        middle = issue_phase(self.schedule, between)
        return steps if steps.foretells(middle, between, self.cost) else None

    def _totals(self) -> FloatArray:
        """Makespan and busy times of every decode step, shape (steps, 1 + streams)."""
        if self._foretold is not None:
            return self.engine.totals(self._foretold, self.cost.sync_s)
        phases = [self.step(s).totals for s in range(1, self.steps + 1)]
        return np.array(phases) if phases else np.zeros((0, 0))


def simulate_phase(
    schedule: Schedule, step: int, cost: CostModel, by: Engine | None = None
) -> Phase:
    """Issue and simulate one phase, by the compiled engine unless told otherwise."""
    return phase_of(issue_phase(schedule, step), cost, by or engine("compiled"))


def phase_of(graph: TaskGraph, cost: CostModel, by: Engine) -> Phase:
    """Price and run the tasks of a phase."""
    duration_s, issue_s = price(graph, cost)
    moved = loads(graph, cost.channels, cost.moved)
    sharing = None if moved is None else moved.sharing(duration_s)
    run = by.run(graph, duration_s, issue_s, cost.sync_s, sharing)
    return Phase(graph, run, duration_s)
