"""What must always hold (laws 1 to 3 of the design), on random programs and on every schedule.

Law 1: no stream runs two tasks at once; no task starts before its dependencies end; no buffer is
written while another task touches it; memory never exceeds a pool. Law 2: same inputs, same result,
bit for bit. Law 3: simulated time is never below the lower bound of the work.
"""

from dataclasses import replace
from unittest.mock import patch

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schedules.lengths import Fixed
from schedules.model_presets import load_model
from schedules.modifiers import make_modifiers
from schedules.policy import make_policy
from schedules.schedule import find_schedule, schedules
from schedules.workload import Workload
from sim.cost import Roofline, price
from sim.engine import simulate_graph
from sim.generation import Generation, Phase
from sim.hardware import load_hardware
from sim.phase_frame import phase_frame
from sim.result import Result
from sim.scenario import Scenario, place
from tests.strategies import (
    MODELS,
    POOLS,
    Case,
    Issued,
    Program,
    WatchedIssuer,
    cases,
    feasible,
    issue,
    programs,
)

QUANTISED = ("weights", "experts", "kv")
WITH_EXPERTS = ("mixtral-8x7b", "qwen3-30b-a3b", "switch-base-8")
ROUNDING = 1e-12  # relative: sums of the same seconds in another order


def simulate(issued: Issued):
    return simulate_graph(issued.graph, issued.duration_s, issued.issue_s, issued.sync_s)


# -- law 1, each clause checked from the recorded accesses and the times alone ---------------------


def check_streams(graph, run):
    """One at a time, in issue order."""
    for stream in range(len(graph.streams)):
        mine = np.flatnonzero(graph.stream == stream)
        assert np.all(run.start_s[mine][1:] >= run.end_s[mine][:-1])


def check_dependencies(graph, run):
    for task in range(len(graph)):
        for before in graph.dependencies_of(task):
            assert before < task
            assert run.start_s[task] >= run.end_s[before]


def check_buffers(accesses, run):
    """In issue order: a writer comes after all who touched the buffer, a reader after writers."""
    touched: dict[int, float] = {}
    written: dict[int, float] = {}
    for task, (reads, writes) in enumerate(accesses):
        start, end = run.start_s[task], run.end_s[task]
        for buffer in reads:
            assert start >= written.get(id(buffer), 0.0)
        for buffer in writes:
            assert start >= touched.get(id(buffer), 0.0)
            written[id(buffer)] = max(end, written.get(id(buffer), 0.0))
        for buffer in (*reads, *writes):
            touched[id(buffer)] = max(end, touched.get(id(buffer), 0.0))


def check_host_streams(graph):
    """What runs on an issuing thread is issued by it, so it cannot run beside another such task."""
    for stream, name in enumerate(graph.streams):
        if name.startswith("host"):
            assert len(set(graph.host[graph.stream == stream].tolist())) <= 1, name


def check_waits(graph, run):
    """What an issuing thread issues after a wait starts after what it has waited for."""
    for wait in graph.waits:
        later = np.flatnonzero(graph.host == wait.host)
        later = later[later >= wait.position]
        if wait.tasks and later.size:
            assert run.start_s[later].min() >= run.end_s[list(wait.tasks)].max()


def check_pools(issuer, capacities, run):
    """Bytes in use at any time: a buffer holds its memory from its first task to its last.

    One that is never freed holds it for ever; one that is read first held data from the start.
    """
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for task, (reads, writes) in enumerate(issuer.accesses):
        for buffer in (*reads, *writes):
            held = id(buffer) not in first and buffer in reads
            start = 0.0 if held else run.start_s[task]
            first[id(buffer)] = min(start, first.get(id(buffer), np.inf))
            last[id(buffer)] = max(run.end_s[task], last.get(id(buffer), 0.0))
    for pool, capacity in capacities.items():
        changes = []  # (time, bytes), gifts before claims
        for buffer in issuer.buffers:
            if buffer.pool != pool or id(buffer) not in first:
                continue
            end = last[id(buffer)] if id(buffer) in issuer.freed else np.inf
            if end > first[id(buffer)]:
                changes += [(first[id(buffer)], buffer.bytes), (end, -buffer.bytes)]
        in_use = np.cumsum([size for _, size in sorted(changes)])
        assert np.all(in_use <= capacity), f"{pool}: {in_use.max()} of {capacity} bytes"


def check_law_1(graph, issuer, run, capacities):
    assert np.all(run.end_s >= run.start_s)
    check_streams(graph, run)
    check_host_streams(graph)
    check_dependencies(graph, run)
    check_buffers(issuer.accesses, run)
    check_waits(graph, run)
    check_pools(issuer, capacities, run)


@settings(max_examples=200)
@given(programs())
@example(  # two small buffers take the place of a large one whose last task still runs
    Program(
        hosts=1,
        n_streams=2,
        instructions=(
            ("buffer", (0, 20)),  # a: all of the pool
            ("task", (0, 1, 2, 0, 0)),  # written on h2d
            ("free", (1,)),
            ("buffer", (0, 1)),  # b: a little of it
            ("buffer", (0, 14)),  # c: more of it
            ("task", (0, 2, 3, 0, 0)),  # c is written on gpu
        ),
        seconds=(5.0, 1.0),
        issue_s=0.0,
        sync_s=0.0,
    )
)
def test_law_1_on_random_programs(program):
    issued = issue(program)
    check_law_1(issued.graph, issued.issuer, simulate(issued), POOLS)


# -- law 2 -----------------------------------------------------------------------------------------


@given(programs())
def test_law_2_the_same_program_has_the_same_times_bit_for_bit(program):
    one, two = issue(program), issue(program)
    assert one.graph.same_structure(two.graph)
    first, second = simulate(one), simulate(two)
    assert first.start_s.tobytes() == second.start_s.tobytes()
    assert first.end_s.tobytes() == second.end_s.tobytes()
    assert first.makespan_s == second.makespan_s
    assert first.issuing_s.tobytes() == second.issuing_s.tobytes()


@given(programs(), st.randoms(use_true_random=False))
def test_law_2_the_order_in_which_streams_are_listed_changes_no_time(program, random):
    shuffled = random.sample(program.streams, len(program.streams))
    one, two = simulate(issue(program)), simulate(issue(program, shuffled))
    assert one.start_s.tolist() == two.start_s.tolist()
    assert one.end_s.tolist() == two.end_s.tolist()
    assert one.makespan_s == two.makespan_s


@given(programs(times=st.integers(0, 2).map(float)))
def test_law_2_timeline_rows_that_start_together_are_in_the_order_of_the_streams(program):
    issued = issue(program)
    graph, run = issued.graph, simulate(issued)
    frame = phase_frame(Phase(graph, run, issued.duration_s))
    place_of = {name: i for i, name in enumerate(graph.streams)}
    rows = zip(frame["start_s"], frame["stream"], frame["task"], strict=True)
    keys = [(start, place_of[stream], task) for start, stream, task in rows]
    assert keys == sorted(keys)
    assert sorted(frame["task"]) == list(range(len(graph)))


# -- law 3 -----------------------------------------------------------------------------------------


def longest_chain(graph, duration_s) -> float:
    """Seconds of the longest path over data and stream edges."""
    net = graph.to_networkx()
    finish = dict.fromkeys(net, 0.0)
    for task in nx.topological_sort(net):
        before = max((finish[i] for i in net.predecessors(task)), default=0.0)
        finish[task] = before + duration_s[task]
    return max(finish.values(), default=0.0)


def busiest(graph, duration_s) -> float:
    return np.bincount(graph.stream, duration_s, minlength=len(graph.streams)).max()


@given(programs())
def test_law_3_no_time_is_below_the_busiest_stream_or_the_longest_chain(program):
    issued = issue(program)
    makespan = simulate(issued).makespan_s * (1 + ROUNDING)
    assert makespan >= busiest(issued.graph, issued.duration_s)
    assert makespan >= longest_chain(issued.graph, issued.duration_s)


# -- the built-in schedules ------------------------------------------------------------------------


def generate(schedule) -> int:
    """Issue the whole generation; returns the number of decode steps."""
    steps = schedule.n_decode_steps(schedule.node.model.is_encoder_decoder, schedule.node.gen_len)
    schedule.run_prefill()
    for step in range(1, steps + 1):
        schedule.run_decode_step(step)
    return steps


every_run = pytest.mark.parametrize(
    ("name", "model"), [(name, model) for name in sorted(schedules()) for model in MODELS]
)


@every_run
@settings(max_examples=4)
@given(data=st.data())
def test_laws_1_and_3_on_every_schedule(name, model, data):
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        case = feasible(data.draw(cases(schedules()[name], model)))
        schedule = place(*case)
    generate(schedule)
    issuer = schedule.node.issuer
    graph = issuer.take()
    cost = Roofline(case.scenario.hardware, case.scenario.gpus_for(case.kind))
    duration_s, issue_s = price(graph, cost)
    run = simulate_graph(graph, duration_s, issue_s, cost.sync_s)
    capacities = {name: pool.capacity_bytes for name, pool in issuer.pools.items()}
    check_law_1(graph, issuer, run, capacities)
    assert all(issuer.peak_bytes[name] <= size for name, size in capacities.items())
    makespan = run.makespan_s * (1 + ROUNDING)
    assert makespan >= busiest(graph, duration_s)
    assert makespan >= longest_chain(graph, duration_s)


@pytest.mark.parametrize("name", ["flexgen", "flexgen-cpu"])
def test_each_process_of_a_pipeline_pins_its_own_weights(name):
    """From the first load on: no process is held up by what another one copies."""
    workload = Workload(
        name="w", prompt_lengths=Fixed(tokens=9), gen_len=2, padded=False, source="made up"
    )
    model, machine = load_model("opt-6.7b").with_layers(2), load_hardware("gcp-t4x2-32c")
    policy = make_policy({"N": 4, "mu": 2, "pinned": False})
    schedule = place(Scenario(model, machine, workload), find_schedule(name), policy)
    generate(schedule)
    check_host_streams(schedule.node.issuer.take())


def simulated(case: Case) -> Result:
    cost = Roofline(case.scenario.hardware, case.scenario.gpus_for(case.kind))
    return Result(case.scenario, case.policy, Generation(place(*case), cost))


@every_run
@settings(max_examples=2)
@given(data=st.data())
def test_laws_2_and_3_on_the_results_of_every_schedule(name, model, data):
    case = feasible(data.draw(cases(schedules()[name], model)))
    one, two = simulated(case), simulated(case)
    assert one.to_dict() == two.to_dict()
    assert 0 < one.lower_bound_s <= one.makespan_s * (1 + ROUNDING)
    assert all(0 <= busy <= one.makespan_s * (1 + ROUNDING) for busy in one.busy_s.values())
    frame = one.timeline().frame
    assert np.all(frame["end_s"] >= frame["start_s"])
    assert frame["end_s"].max() <= one.makespan_s * (1 + ROUNDING)


# -- modifiers -------------------------------------------------------------------------------------


def modified(case: Case, values: dict[str, object]) -> Case:
    """The same question with these modifiers alone."""
    changed = make_modifiers(values)
    plain = load_model(case.scenario.model.name.rsplit("-", 1)[0])
    model = changed.applied(plain.with_layers(case.scenario.model.n_layers))
    return case._replace(scenario=replace(case.scenario, model=model, modifiers=changed))


@pytest.mark.parametrize("name", sorted(schedules()))
@settings(max_examples=2)
@given(data=st.data())
def test_fewer_bits_in_fused_kernels_make_no_schedule_slower(name, data):
    """No task takes longer then, and what depends on sizes only finds more room."""
    kind, model = schedules()[name], data.draw(st.sampled_from(MODELS))
    case = data.draw(cases(kind, model, machines=["h200-16c"]))
    part = "kv" if "experts" in kind.decides else data.draw(st.sampled_from(QUANTISED))
    bits = ({}, {part: "int8", "fused": True}, {part: "int4", "fused": True})
    times = [simulated(modified(case, values)).makespan_s for values in bits]
    assert times[0] * (1 + ROUNDING) >= times[1]
    assert times[1] * (1 + ROUNDING) >= times[2]


@pytest.mark.parametrize("name", sorted(schedules()))
@settings(max_examples=1)
@given(data=st.data())
def test_all_experts_kept_are_no_change(name, data):
    kind, model = schedules()[name], data.draw(st.sampled_from(WITH_EXPERTS))
    case = data.draw(cases(kind, model, machines=["h200-16c"]))
    every = load_model(model).n_experts
    one, other = (simulated(modified(case, values)) for values in ({}, {"keep": every}))
    assert one.makespan_s == other.makespan_s
    assert one.busy_s == other.busy_s
    assert one.peak_memory_bytes == other.peak_memory_bytes
