"""The explanation of whole generations; Show 3 of both schedules on S1."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.schedule import schedules
from sim.api import run, simulate
from sim.cost import CostModel
from sim.explain import explain
from sim.explanation import TABLES
from sim.sensitivity import PATH
from tests.sim.explained import small, with_rate
from tests.strategies import cases, feasible

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench", 32, 504, 36)


@pytest.fixture(scope="module", params=["cgopipe", "flexgen"])
def s1(request):
    return explain(simulate(request.param, *S1))


@pytest.mark.parametrize("name", sorted(schedules()))
def test_parts_add_up(name):
    check_sums(explain(small(name)))


@pytest.mark.parametrize("name", sorted(schedules()))
@pytest.mark.parametrize("model", ["mixtral-8x7b", "opt-6.7b", "switch-base-8"])
@settings(max_examples=3)
@given(data=st.data())
def test_parts_of_random_runs_add_up(name, model, data):
    """Policies, modifiers, one or two GPUs."""
    scenario, kind, policy = feasible(data.draw(cases(schedules()[name], model)))
    check_sums(explain(run(scenario, kind, policy)))


def check_sums(found):
    """Critical path, idle time, resources and slack account for all of it; no bound is above it."""
    result = found.result
    close = 1e-9 if found.method == PATH else 1e-5
    assert sum(one.elasticity for one in found.sensitivities) == pytest.approx(1, abs=close)
    alone = [bound for bound in found.bounds if not bound.what.partition("#")[0].endswith("width")]
    assert all(bound.ratio >= 1 - 1e-9 for bound in alone)  # a memory may be shared by streams
    total = sum(part.critical_s for part in found.critical_path)
    assert total == pytest.approx(result.makespan_s, rel=1e-9)
    assert sum(part.share for part in found.critical_path) == pytest.approx(1, abs=1e-9)
    for stream, idle_s in result.idle_s.items():
        own = sum(part.idle_s for part in found.idle if part.stream == stream)
        own += sum(part.lost_s for part in found.sharing if part.stream == stream)
        assert own == pytest.approx(idle_s, abs=1e-9 * result.makespan_s)
    by_phase = {part.phase: part.makespan_s for part in found.phases}
    expected = {"prefill": result.prefill_s, "decode": result.decode_s}
    assert by_phase == pytest.approx({name: s for name, s in expected.items() if s})
    steps = [result.generation.step(s) for s in range(1, result.generation.steps + 1)]
    graphs = [phase.graph for phase in (result.generation.prefill, *steps)]
    assert sum(part.tasks for part in found.slack) == sum(map(len, graphs))
    assert all(0 <= part.least_s <= part.mean_s <= part.most_s for part in found.slack)
    assert all(part.least_s == 0 for part in found.slack if part.critical)


def test_a_generation_without_decode_steps():
    found = explain(small("cgopipe", gen_len=1))
    assert [part.phase for part in found.phases] == ["prefill"]
    assert found.tasks(0)["step"].unique().tolist() == [0]


def test_only_a_roofline_can_be_explained():
    class Second(CostModel):
        sync_s = 0.0

        def limits(self, work):
            return [1.0]

        def call_seconds(self, work):
            return 0.0

        def issue_seconds(self, work):
            return 0.0

    result = small("cgopipe")
    other = run(result.scenario, type(result.generation.schedule), result.policy, Second())
    with pytest.raises(BadInput, match="only a roofline can be explained, not a Second"):
        explain(other)


# -- tasks and tables ------------------------------------------------------------------------------


def test_tasks_of_a_step_are_those_of_the_timeline():
    found = explain(small("cgopipe"))
    rows = found.tasks(2)
    frame = found.result.timeline([2]).frame
    ordered = rows.sort_values(["start_s", "task"])
    assert sorted(zip(rows["op"], rows["start_s"], strict=True)) == sorted(
        zip(frame["op"], frame["start_s"], strict=True)
    )
    assert ordered["end_s"].max() == frame["end_s"].max()
    last = rows.loc[rows["end_s"].idxmax()]
    assert last["critical"]
    assert last["slack_s"] == 0


def test_critical_tasks_as_a_timeline():
    found = explain(small("flexgen"))
    timeline = found.critical([0, 2, 2])
    assert timeline.frame["step"].unique().tolist() == [0, 2]
    expected = pd.concat([found.tasks(step) for step in (0, 2)])
    expected = expected[expected["critical"]].sort_values("start_s")
    for column in ("op", "stream", "layer", "micro_batch", "start_s", "end_s"):
        assert timeline.frame.sort_values("start_s")[column].tolist() == expected[column].tolist()


def test_unknown_steps_and_tables():
    found = explain(small("cgopipe"))
    with pytest.raises(BadInput, match=r"there is no step 3; steps are 0 \(prefill\) to 2"):
        found.tasks(3)
    with pytest.raises(BadInput, match="no table 'idel', did you mean 'idle'"):
        found.to_pandas("idel")


def test_tables_are_what_the_dictionary_has():
    found = explain(small("cgopipe"))
    values = found.to_dict()
    for table in TABLES:
        assert found.to_pandas(table).replace({np.nan: None}).to_dict("records") == values[table]
    assert values["bottleneck"] == list(found.bottleneck)
    assert values["makespan_s"] == found.result.makespan_s


# -- S1: does the throughput follow the bottleneck, and nothing else? ------------------------------

OTHERS = ("gpu.memory_bandwidth", "links.d2h", "host.issue_s", "link_call_s")


def change(found, resource, factor):
    """Relative change of the throughput on a machine with that resource `factor` times as fast."""
    other = with_rate(found.result, resource, factor)
    return other.throughput_tok_s / found.result.throughput_tok_s - 1


def test_the_throughput_follows_the_bottleneck(s1):
    (resource,) = s1.bottleneck
    assert resource == "gpu.compute.float16.experts"
    assert change(s1, resource, 1.1) > 0.05
    assert change(s1, resource, 0.9) < -0.05


@pytest.mark.parametrize("resource", OTHERS)
def test_the_throughput_does_not_follow_what_is_not_the_bottleneck(s1, resource):
    assert abs(change(s1, resource, 0.9)) < 5e-4
    assert abs(change(s1, resource, 1.1)) < 5e-4


def test_prefill_and_decode_of_cgopipe_have_different_bottlenecks():
    prefill, decode = explain(simulate("cgopipe", *S1)).phases
    assert prefill.resource == "gpu.compute.float16.experts"
    assert decode.resource == "links.pin"
    assert decode.share > 0.95


def test_where_two_bind_both_are_named():
    """With longer answers decode counts more, where CGOPipe's policy has balanced two of them."""
    found = explain(simulate("cgopipe", *S1[:3], 128, *S1[4:]))
    assert found.bottleneck == ("links.pin", "gpu.compute.float16.experts")
    first = found.sensitivities[0]
    assert first.faster < 0.01
    assert first.together > 0.09
    assert change(found, "links.pin", 1.1) == pytest.approx(first.faster, abs=1e-9)
    machine = found.result.scenario.hardware.with_rate("links.pin", 1.1)
    machine = machine.with_rate("gpu.compute.float16.experts", 1.1)
    both = simulate("cgopipe", "mixtral-8x7b", machine, "mtbench", 128, 504, 36)
    gain = both.throughput_tok_s / found.result.throughput_tok_s - 1
    assert first.together == pytest.approx(gain, abs=1e-9)
