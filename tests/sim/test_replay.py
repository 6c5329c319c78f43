"""Replay: a simulation with the durations that were measured."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.routing import Routing
from schedules.schedule import Schedule, schedules
from schedules.task import Task
from schedules.timeline import COLUMNS, Timeline
from schedules.workload import Workload
from sim.cost import Roofline
from sim.generation import Generation
from sim.replay import recorded_routing, replay
from sim.result import Result
from sim.scenario import Scenario, place
from tests.strategies import cases, feasible, toy_hardware

LOAD_S, COMPUTE_S = 2.0, 3.0


class DoubleBuffer(Schedule):
    """Three layers through two buffers, and the CPU after the first of them."""

    name, title, paper = "double-buffer", "", ""

    def prefill(self) -> None:
        issuer = self.node.issuer
        home = issuer.buffer("home", "cpu", 30)
        slots = [issuer.buffer(f"slot[{i}]", "gpu", 10) for i in range(2)]
        for layer in range(3):
            slot = slots[layer % 2]
            issuer.task("load", "h2d", [home], [slot], layer=layer)
            issuer.task("compute", "gpu", [slot], layer=layer)
            if layer == 0:
                issuer.task("count", "host", layer=layer)

    decode_step = prefill


def placed(gen_len: int = 2, model: str = "mixtral-8x7b") -> Schedule:
    lengths = Listed(lengths=(4,))
    workload = Workload(
        name="one", prompt_lengths=lengths, gen_len=gen_len, padded=False, source=""
    )
    one_layer = load_model(model).with_layers(1)
    scenario = Scenario(one_layer, toy_hardware(), workload)
    return place(scenario, DoubleBuffer, make_policy({"N": 1, "mu": 1}))


def measured(late_s: float = 0.0, steps: int = 2, **changes: object) -> Timeline:
    """What a machine leaves whose workers begin each task `late_s` too late."""
    rows = []
    for step in range(steps):
        t = 100.0 * step
        loads = [t, t + 2 + late_s, t + 5 + late_s]
        computes = [t + 2 + late_s, t + 5 + 2 * late_s, t + 8 + 3 * late_s]
        for layer in range(3):
            rows.append(("load", "h2d", layer, step, loads[layer], LOAD_S))
            rows.append(("compute", "gpu", layer, step, computes[layer], COMPUTE_S))
        rows.append(("count", "host", 0, step, t, 0.5))
    frame = pd.DataFrame(
        [
            (i, op, stream, layer, -1, step, start, start + length, 0.0, 0.0, 0.0)
            for i, (op, stream, layer, step, start, length) in enumerate(rows)
        ],
        columns=list(COLUMNS),
    )
    for column, value in changes.items():
        frame.loc[3, column] = value
    return Timeline(frame, ("host", "h2d", "gpu", "gpu7"), "by hand")


def test_durations_are_the_measured_ones_and_starts_are_the_simulators() -> None:
    """Load 0-2, 2-4, 5-7 (its slot is free at 5); compute 2-5, 5-8, 8-11."""
    found = replay(measured(late_s=0.25), placed())
    assert found.phase_s.tolist() == [11.0, 11.0]
    assert (found.prefill_s, found.decode_s, found.makespan_s) == (11.0, 11.0, 22.0)
    frame = found.timeline.frame
    first = frame[frame["step"] == 0]
    assert first.loc[first["stream"] == "h2d", "start_s"].tolist() == [0.0, 2.0, 5.0]
    assert first.loc[first["stream"] == "gpu", "start_s"].tolist() == [2.0, 5.0, 8.0]
    assert frame.loc[frame["step"] == 1, "start_s"].min() == 11.0
    assert frame["task"].tolist() == list(range(14))
    assert (found.busy_s["h2d"], found.busy_s["gpu"]) == (12.0, 18.0)
    assert (found.busy_s["host"], found.busy_s["cpu"]) == (1.0, 0.0)


def test_the_first_token_of_an_encoder_comes_with_the_first_decode_step() -> None:
    """A run measures both as prefill."""
    found = replay(measured(), placed(gen_len=1, model="switch-base-8"))
    assert found.phase_s.tolist() == replay(measured(), placed()).phase_s.tolist()
    assert (found.prefill_s, found.decode_s) == (found.phase_s.sum(), 0.0)
    assert found.makespan_s == found.phase_s.sum()


def test_issuing_delays_the_first_tasks_and_counts_as_work_of_the_host() -> None:
    """Each task takes 1 s to issue: load 1-3, compute 3-6; the host counts at 3-3.5."""
    found = replay(measured(steps=1), placed(), issue_s=1.0)
    frame = found.timeline.frame
    assert frame.loc[frame["stream"] == "h2d", "start_s"].tolist() == [1.0, 4.5, 6.5]
    assert frame.loc[frame["stream"] == "host", "start_s"].tolist() == [3.0]
    assert found.makespan_s == 12.5
    assert found.busy_s["host"] == 7.5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"op": "store"}, "task 1 is 'store' of layer 1, micro-batch -1, not 'compute' of layer 1"),
        ({"layer": 2}, "stream 'gpu' has 3 tasks in step 0, 3 are issued; task 1 is"),
        ({"micro_batch": 0}, "is 'compute' of layer 1, micro-batch 0, not"),
        ({"stream": "h2d"}, "stream 'h2d' has 4 tasks in step 0, 3 are issued"),
        ({"step": 5}, "by hand' lacks step 2 of 5"),
    ],
)
def test_the_timeline_of_another_run(changes: dict, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        replay(measured(**changes), placed())


def test_streams_that_the_node_has_not() -> None:
    with pytest.raises(BadInput, match="it has tasks on the stream 'gpu7'"):
        replay(measured(stream="gpu7"), placed())


def test_more_steps_than_were_asked_for() -> None:
    with pytest.raises(BadInput, match="it has 2 decode steps, the run 1"):
        replay(measured(steps=3), placed())


def test_fewer_steps_than_were_asked_for() -> None:
    """All sequences may end early."""
    assert len(replay(measured(steps=2), placed(gen_len=9)).phase_s) == 2


def test_no_tasks() -> None:
    with pytest.raises(BadInput, match="has no tasks: nothing to replay"):
        replay(Timeline(measured().frame[:0], ("gpu",), "by hand"), placed())


def issued_at_once(scenario: Scenario, gpus: int) -> Roofline:
    cost = Roofline(scenario.hardware, gpus)
    cost.issue_s = cost.sync_s = 0.0
    return cost


@pytest.mark.parametrize("name", sorted(schedules()))
@settings(max_examples=6)
@given(data=st.data())
def test_a_simulated_timeline_gives_the_same_makespan(name, data, tmp_path_factory) -> None:
    """Through the file and back, on one GPU and on several."""
    case = feasible(data.draw(cases(schedules()[name], "mixtral-8x7b", max_gen_len=4)))
    cost = issued_at_once(case.scenario, case.scenario.gpus_for(case.kind))
    result = Result(case.scenario, case.policy, Generation(place(*case), cost))
    path = tmp_path_factory.mktemp("replay") / "t.parquet"
    result.timeline(range(result.generation.steps + 1)).to_parquet(path)
    found = replay(Timeline.from_parquet(path), place(*case))
    assert found.makespan_s == pytest.approx(result.makespan_s, rel=1e-9)
    assert found.prefill_s == pytest.approx(result.prefill_s, rel=1e-9)
    np.testing.assert_allclose(found.phase_s[1:], result.step_s, rtol=1e-9)
    for stream, busy_s in result.busy_s.items():
        assert found.busy_s[stream] == pytest.approx(busy_s, rel=1e-9, abs=1e-12)


def gate(step: int, layer: int, micro_batch: int) -> Task:
    return Task(0, "gate", "gpu", layer, micro_batch, step)


def test_recorded_routing_answers_in_the_recorded_order() -> None:
    drawn = {
        (step, layer, mb): Routing(seed=3).expert_ids(5, 8, 2, layer, step, mb)
        for step in range(2)
        for layer in range(3)
        for mb in range(2)
    }
    rows = pd.concat(
        [
            pd.DataFrame(ids.astype(np.int16), columns=["expert_0", "expert_1"]).assign(
                step=step, layer=layer, micro_batch=mb
            )
            for (step, layer, mb), ids in drawn.items()
        ]
    )
    trace = recorded_routing(rows)
    for place_, ids in drawn.items():
        assert trace(gate(*place_)).tolist() == ids.tolist()
        assert trace(gate(*place_)).dtype == np.int64
    with pytest.raises(BadInput, match="lacks step 2, layer 0, micro-batch 1"):
        trace(gate(2, 0, 1))
