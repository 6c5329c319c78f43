"""Three clocks for the same phases."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.policy import make_policy
from schedules.schedule import schedules
from schedules.task import Work
from sim.api import Question
from sim.compare_result import CLOCKS, RunComparison
from sim.compare_run import clocks_of
from sim.cost import Roofline
from sim.generation import Generation
from sim.hardware import Hardware
from sim.hardware_parts import Amount
from sim.result import Result
from sim.scenario import place
from tests.sim.compared import Prices, by_hand, late_phase, measured, placed
from tests.strategies import Case, cases, feasible


def test_by_hand() -> None:
    """Loads at 0, 2, 5 and computations of 3 s after them: 11 s; of 2 s: 0, 2, 4 and 8 s."""
    batch = by_hand(Prices(load=2.0, compute=2.0))
    assert [phase.step for phase in batch.phases] == [0, 1]
    for phase in batch.phases:
        assert phase.measured_start_s.tolist() == [0.0, 2.25, 2.0, 5.25, 5.25, 8.5]
        assert phase.replayed.start_s.tolist() == [0.0, 2.0, 2.0, 5.0, 5.0, 8.0]
        assert phase.simulated.start_s.tolist() == [0.0, 2.0, 2.0, 4.0, 4.0, 6.0]
        assert phase.measured_span_s == 11.5
        assert (phase.replayed.makespan_s, phase.simulated.makespan_s) == (11.0, 8.0)
        own, priced = (dict(zip(phase.graph.streams, s, strict=True)) for s in phase.busy_s)
        assert (own["h2d"], own["gpu"], sum(own.values())) == (6.0, 9.0, 15.0)
        assert (priced["h2d"], priced["gpu"], sum(priced.values())) == (6.0, 6.0, 12.0)
    assert [len(part) for part in batch.parts()] == [1, 1]


def test_issuing_is_the_runs_own_in_the_replay_and_the_models_in_the_simulation() -> None:
    """Six tasks each; the last computation ends 3 s after its load, which nothing delays more."""
    phase = by_hand(Prices(2.0, 3.0, issue_s=0.5, sync_s=0.25), issue_s=0.125).phases[0]
    assert phase.replayed.start_s[0] == 0.125
    assert phase.simulated.start_s[0] == 0.5
    assert phase.replayed.makespan_s == 11.125
    assert phase.simulated.makespan_s == 11.75  # and the barrier's synchronisation


def test_a_timeline_of_another_schedule() -> None:
    rows = late_phase()
    with pytest.raises(BadInput, match="stream 'h2d' has 2 tasks in step 0, 3 are issued"):
        clocks_of(measured([rows[2:]]), placed(), Prices(1, 1), (1.0, 0.0))


class Instant(Roofline):
    """Issuing takes no time."""

    def __init__(self, hardware: Hardware, gpus: int = 1) -> None:
        super().__init__(hardware, gpus)
        self.sync_s = 0.0

    def issue_seconds(self, work: Work) -> float:
        return 0.0


def run_of(case: Case, cost: Roofline, seconds: float = 1.0) -> RunComparison:
    """What the case's machine would leave, beside the simulation by `cost`; `seconds`: what a phase
    took of each second that its tasks needed."""
    instant = Instant(case.scenario.hardware, case.scenario.gpus_for(case.kind))
    result = Result(case.scenario, case.policy, Generation(place(*case), instant))
    timeline = result.timeline(range(result.generation.steps + 1))
    took = (seconds * result.prefill_s, seconds * result.decode_s)
    if case.scenario.model.is_encoder_decoder:
        took = (seconds * (result.prefill_s + result.step_s[0]), seconds * sum(result.step_s[1:]))
    return RunComparison([clocks_of(timeline, place(*case), cost, took)])


@pytest.mark.parametrize("name", sorted(schedules()))
@settings(max_examples=4)
@given(data=st.data(), model=st.sampled_from(["mixtral-8x7b", "switch-base-8"]))
def test_exact_durations_leave_no_error(name, data, model: str) -> None:
    """A cost model that returns the measured durations; nothing waits that it does not know."""
    case = feasible(data.draw(cases(schedules()[name], model)))
    found = run_of(case, Instant(case.scenario.hardware, case.scenario.gpus_for(case.kind)))
    values = found.to_dict()
    scale = found.seconds("measured")["makespan_s"]
    for clock in CLOCKS:
        assert found.seconds(clock)["makespan_s"] == pytest.approx(scale, rel=1e-9)
    for row in values["operations"]:
        assert row["simulated_s"] == pytest.approx(row["measured_s"], rel=1e-9, abs=1e-9 * scale)
        assert row["worth_s"] == pytest.approx(0.0, abs=1e-9 * scale)
    for gap in values["gap_s"].values():
        assert gap == pytest.approx(dict.fromkeys(gap, 0.0), abs=1e-9 * scale)
    assert values["divergences"] == []


@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "on-demand", "fastdecode"])
@settings(max_examples=8)
@given(data=st.data(), speed=st.floats(0.3, 3.0), seconds=st.floats(1.0, 2.0))
def test_the_parts_add_up(name, data, speed: float, seconds: float) -> None:
    """Whatever the machine that prices the run, and however long its phases took."""
    case = feasible(data.draw(cases(schedules()[name], "mixtral-8x7b")))
    other = case.scenario.hardware.with_rate("links", speed).with_rate("gpu.compute", 1 / speed)
    found = run_of(case, Roofline(other, case.scenario.gpus_for(case.kind)), seconds)
    values, scale = found.to_dict(), found.seconds("measured")["makespan_s"]
    for key, gap in values["gap_s"].items():
        difference = values["measured"][f"{key}_s"] - values["simulated"][f"{key}_s"]
        parts = sum(gap[k] for k in ("around", "between", "operations", "host", "interaction"))
        assert gap["total"] == pytest.approx(difference, abs=1e-9 * scale)
        assert parts == pytest.approx(difference, abs=1e-9 * scale)
    worths = sum(row["worth_s"] for row in values["operations"])
    assert worths == pytest.approx(values["gap_s"]["makespan"]["operations"], abs=1e-9 * scale)
    shares = [row["share"] for row in values["operations"]]
    assert all(s is None or 0.0 <= s <= 1 + 1e-9 for s in shares)


@pytest.mark.parametrize("name", ["cgopipe", "flexgen-cpu", "fastdecode"])
def test_contention_is_in_the_simulated_durations(name) -> None:
    """Given as durations, the contended seconds lead to the same times without any channel."""
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "mtbench", 3).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(2))
    case = Case(scenario, schedules()[name], make_policy({"N": 4, "mu": 2}))
    channels = {"cpu": Amount(value=8e9, source="made up for tests")}
    found = run_of(case, Roofline(scenario.hardware.model_copy(update={"channels": channels})))
    longer = 0.0
    for phase in found.phases:
        again = phase.priced.run(phase.graph)
        np.testing.assert_allclose(again.start_s, phase.simulated.start_s, rtol=1e-9, atol=1e-9)
        assert (phase.priced.task_s >= phase.alone_s * (1 - 1e-9)).all()
        longer += float((phase.priced.task_s - phase.alone_s).sum())
    rows = found.to_dict()["operations"]
    assert sum(row["contention_s"] for row in rows) == pytest.approx(longer)
    assert longer > 0
    assert found.to_dict()["gap_s"]["makespan"]["contention"] > 0
