"""A whole generation from a few steps, against all steps in one graph and against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.batch import CGOPipe
from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.schedule import find_schedule, schedules
from schedules.workload import Workload
from sim.api import Question
from sim.cost import Roofline, price
from sim.engine import simulate_graph
from sim.generation import Generation, Phase, simulate_phase
from sim.hardware import load_hardware
from sim.scenario import Scenario, place
from tests.strategies import Case, cases, feasible

# -- all phases in one graph -----------------------------------------------------------------------


def in_one_graph(schedule, steps: int, cost) -> Phase:
    """Prefill and every decode step, issued one after the other and simulated at once."""
    schedule.run_prefill()
    for step in range(1, steps + 1):
        schedule.run_decode_step(step)
    graph = schedule.node.issuer.take()
    duration_s, issue_s = price(graph, cost)
    return Phase(graph, simulate_graph(graph, duration_s, issue_s, cost.sync_s), duration_s)


def check_proof(case):
    """Makespan and busy times of the series equal those of the one graph."""
    cost = Roofline(case.scenario.hardware, case.scenario.gpus_for(case.kind))
    generation = Generation(place(*case), cost)
    whole = in_one_graph(place(*case), generation.steps, cost)
    total = generation.prefill.totals
    if generation.steps:
        total = total + generation.decode.sum(axis=0)
    # Of several issuing threads each goes on when its own wait is over; in the series all do at the
    # end of the phase, some microseconds later.
    threads = case.scenario.gpus_for(case.kind) if case.kind.multi_gpu else 1
    np.testing.assert_allclose(total, whole.totals, rtol=1e-9 if threads == 1 else 1e-4)
    assert generation.decode.shape[0] == generation.steps
    steps = range(1, generation.steps + 1)
    tasks = [len(generation.step(step).graph) for step in steps] if generation.first else []
    assert len(whole.graph) == len(generation.prefill.graph) + sum(tasks)
    assert generation.alike == generation.schedule.steps_alike
    if generation.alike and generation.first:
        assert tasks == [len(generation.first.graph)] * generation.steps


@pytest.mark.parametrize("name", sorted(schedules()))
@pytest.mark.parametrize("model", ["mixtral-8x7b", "opt-6.7b", "switch-base-8"])
@settings(max_examples=5)
@given(data=st.data())
def test_the_series_equals_all_phases_in_one_graph(name, model, data):
    check_proof(feasible(data.draw(cases(schedules()[name], model, max_gen_len=12))))


def small(gen_len, model="mixtral-8x7b", layers=2, machine="gcp-t4-24c", lengths=(30, 50, 7, 100)):
    workload = Workload(
        name="small",
        prompt_lengths=Listed(lengths=lengths),
        gen_len=gen_len,
        padded=False,
        source="made up",
    )
    return Scenario(load_model(model).with_layers(layers), load_hardware(machine), workload)


@pytest.mark.parametrize("name", ["flexgen", "flexgen-cpu"])
def test_the_series_equals_one_graph_when_several_processes_issue(name):
    """Two pipeline stages; the second process comes later to the barrier at a step's end."""
    scenario = small(gen_len=6, machine="gcp-t4x2-32c")
    check_proof(Case(scenario, find_schedule(name), make_policy({"N": 9, "mu": 4})))


def test_a_series_with_kinks_equals_one_graph():
    """The attention on the CPU outgrows first the GPU's work, then the hidden states' transfers."""
    scenario = small(gen_len=200, model="opt-6.7b", lengths=(100,))
    kind, policy = find_schedule("fastdecode"), make_policy({"N": 64, "mu": 16, "pinned": True})
    case = Case(scenario, kind, policy)
    generation = Generation(place(*case), Roofline(scenario.hardware, 1))
    slopes = np.diff(generation.decode[:, 0])
    assert slopes[-1] > 2.9 * slopes[0]
    assert len(set(slopes.round(12))) > 2
    check_proof(case)


@pytest.mark.parametrize("name", sorted(schedules()))
def test_decode_steps_issue_the_same_tasks_unless_the_schedule_says_otherwise(name):
    """Foretelling needs it: only amounts of work differ from step to step.

    A schedule whose copies depend on the gates says that its steps are not alike.
    """
    scenario, kind = small(gen_len=8, layers=3), find_schedule(name)
    policy = make_policy({"N": 3, "mu": 3 if kind.one_batch else 2})
    generation = Generation(place(scenario, kind, policy), Roofline(scenario.hardware, 1))
    graphs = [generation.step(step).graph for step in (2, 3, 7)]
    same = all(generation.first.graph.same_structure(graph) for graph in graphs)
    assert same or not kind.steps_alike
    if name in ("on-demand", "pre-gated", "sida", "hobbit"):
        assert not same


# -- phases ----------------------------------------------------------------------------------------


def test_a_generation_of_one_token_is_prefill_alone():
    scenario = small(gen_len=1)
    schedule = place(scenario, find_schedule("cgopipe"), make_policy({"N": 4, "mu": 2}))
    generation = Generation(schedule, Roofline(scenario.hardware, 1))
    assert generation.steps == 0
    assert generation.first is None
    assert generation.decode.size == 0
    assert set(generation.prefill.graph.step.tolist()) == {0}


def test_a_phase_is_what_its_step_issues():
    scenario = small(gen_len=5)
    schedule = place(scenario, find_schedule("cgopipe"), make_policy({"N": 4, "mu": 2}))
    cost = Roofline(scenario.hardware, 1)
    for step in (0, 3, 1):
        phase = simulate_phase(schedule, step, cost)
        assert set(phase.graph.step.tolist()) == {step}
        assert phase.totals[0] == phase.run.makespan_s


def test_totals_are_the_makespan_and_each_stream_s_busy_time():
    """The issuing thread is busy with issuing, synchronising and its own tasks."""
    scenario = small(gen_len=3)
    schedule = place(scenario, find_schedule("flexgen"), make_policy({"N": 4, "mu": 2}))
    cost = Roofline(scenario.hardware, 1)
    phase = simulate_phase(schedule, 1, cost)
    graph, run = phase.graph, phase.run
    busy = dict(zip(graph.streams, phase.totals[1:], strict=True))
    for stream, name in enumerate(graph.streams):
        expected = sum(phase.duration_s[graph.stream == stream])
        if name == "host":
            calls = sum(graph.works[w].calls for w in graph.work)
            expected += calls * cost.issue_s + len(graph.waits) * cost.sync_s
        assert busy[name] == pytest.approx(expected)
    assert run.makespan_s >= max(busy.values()) * (1 - 1e-12)


class Twice(CGOPipe):
    """Issues its step twice in the middle of a generation, which sampling the steps can see."""

    def decode_step(self):
        super().decode_step()
        if self.node.step == 4:
            self.node.issuer.barrier()
            super().decode_step()


class Declared(CGOPipe):
    """Issues its step twice where sampling does not look, and says that steps are not alike."""

    steps_alike = False

    def decode_step(self):
        super().decode_step()
        if self.node.step == 2:
            self.node.issuer.barrier()
            super().decode_step()


@pytest.mark.parametrize(("kind", "odd"), [(Twice, 4), (Declared, 2)])
def test_steps_that_are_not_alike_are_all_simulated(kind, odd):
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "mtbench", gen_len=8).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(2))
    policy = make_policy({"N": 4, "mu": 2})
    generation = Generation(place(scenario, kind, policy), Roofline(scenario.hardware))
    plain = Generation(place(scenario, CGOPipe, policy), Roofline(scenario.hardware))
    once = plain.decode[:, 0]
    expected = [2 * t if s == odd else t for s, t in enumerate(once, start=1)]
    assert generation.decode[:, 0] == pytest.approx(expected, rel=1e-3)
