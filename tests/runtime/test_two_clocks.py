"""One program, two clocks: the runtime is issued what the simulator saw, task by task."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint import Checkpoint
from runtime.quantised import modified
from runtime.session import KERNELS
from schedules.lengths import Listed
from schedules.modifiers import make_modifiers
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from schedules.workload import Workload
from sim.engine import simulate_graph
from sim.hardware import load_hardware
from sim.scenario import Scenario, place
from tests.runtime.checkpoints import random_prompts, save_checkpoint
from tests.runtime.runs import ALL, policies, run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny Mixtral."""
    return Checkpoint(save_checkpoint(tmp_path_factory.mktemp("model"), "mixtral"))


def simulated(name, spec, policy, lengths, gen_len, found):
    """The graphs of prefill and of each decode step, as the simulator records them."""
    workload = Workload(
        name="test",
        prompt_lengths=Listed(lengths=lengths),
        gen_len=gen_len,
        padded=False,
        source="",
    )
    scenario = Scenario(spec, load_hardware("gcp-t4-24c"), workload, kernels=KERNELS)
    schedule = place(scenario, find_schedule(name), policy)
    if find_schedule(name).change == "mixed-precision":  # it decides by the gates' weights
        found.answers.tell(schedule.node.issuer)
    schedule.node.issuer._trace = answer(found.routing)
    graphs = []
    for step in range(1 + schedule.n_decode_steps(spec.is_encoder_decoder, gen_len)):
        if step == 0:
            schedule.run_prefill()
        else:
            schedule.run_decode_step(step)
        graphs.append(schedule.node.issuer.take())
    return graphs, schedule.node.issuer.peak_bytes


def answer(routing):
    """The gates of the run, asked for by the simulator."""

    def trace(gate):
        rows = routing[(routing["step"] == gate.step) & (routing["layer"] == gate.layer)]
        rows = rows[rows["micro_batch"] == gate.micro_batch]
        return rows.filter(like="expert_").to_numpy().astype(np.int64)

    return trace


def check_same(found, expected, peak):
    """The run's graphs are the simulator's, and both count the same memory."""
    assert len(found.graphs) == len(expected)
    for ours, theirs in zip(found.graphs, expected, strict=True):
        assert ours.same_structure(theirs)
        assert np.array_equal(ours.step, theirs.step)
        assert [ours.works[i] for i in ours.work] == [theirs.works[i] for i in theirs.work]
    assert found.predicted_bytes["gpu"] == peak["gpu"]


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=6)
@given(data=st.data())
def test_both_clocks_see_the_same_tasks(source, name, data):
    """Operations, streams, dependencies, waits, layers, micro-batches and all amounts of work."""
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=7))
    gen_len = data.draw(st.integers(1, 4))
    policy = data.draw(policies(name, len(lengths)))
    prompts = random_prompts(lengths)
    found = run(name, source, policy, prompts, gen_len)
    spec = source.architecture.spec
    expected, peak = simulated(name, spec, policy, tuple(lengths), gen_len, found)
    check_same(found, expected, peak)


MODIFIED = (
    {"experts": "int4", "group": 16},
    {"weights": "int8", "group": 16},
    {"skip": 0.5},
    {"experts": "int8", "group": 16, "skip": 0.7},
)


@pytest.mark.parametrize("name", [name for name in ALL if not find_schedule(name).decides])
@settings(max_examples=2)
@given(data=st.data())
def test_both_clocks_see_the_same_tasks_of_a_modified_model(source, name, data):
    """Those of the scenario with the same modifiers; skipped choices are told as such."""
    modifiers = make_modifiers(data.draw(st.sampled_from(MODIFIED)))
    spec = modifiers.applied(source.architecture.spec)
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=7))
    gen_len = data.draw(st.integers(1, 3))
    policy = data.draw(policies(name, len(lengths)))
    found = run(name, modified(source, spec), policy, random_prompts(lengths), gen_len)
    expected, peak = simulated(name, spec, policy, tuple(lengths), gen_len, found)
    check_same(found, expected, peak)


@pytest.mark.parametrize("name", ALL)
def test_the_measured_timeline_obeys_the_laws(source, name):
    """No stream runs two tasks at once, no task starts before its dependencies have ended, streams
    are FIFO, and an issuing thread that waits issues nothing meanwhile."""
    one = find_schedule(name).one_batch
    policy = make_policy({"N": 6, "mu": 6 if one else 2})
    found = run(name, source, policy, random_prompts([4, 9, 2, 7, 7, 3]), 4)
    frame = found.timeline.frame
    start = dict(zip(frame["task"], frame["start_s"], strict=True))
    end = dict(zip(frame["task"], frame["end_s"], strict=True))
    assert len(frame) == sum(map(len, found.graphs))
    for _, lane in frame.groupby("stream"):
        lane = lane.sort_values("task")
        assert (lane["start_s"].to_numpy()[1:] >= lane["end_s"].to_numpy()[:-1]).all()
    first = 0
    for graph in found.graphs:
        for i in range(len(graph)):
            for j in graph.dependencies_of(i):
                assert start[first + i] >= end[first + int(j)]
        for wait in graph.waits:
            after = [start[first + i] for i in range(wait.position, len(graph))]
            for task in wait.tasks:
                assert not after or min(after) >= end[first + task]
        durations = np.array([end[first + i] - start[first + i] for i in range(len(graph))])
        begin = min(start[first + i] for i in range(len(graph)))
        assert simulate_graph(graph, durations).makespan_s <= max(end.values()) - begin + 1e-9
        first += len(graph)
