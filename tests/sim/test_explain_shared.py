"""The explanation of generations whose tasks share channels."""

import math
from dataclasses import asdict, replace

import pytest

from schedules.schedule import find_schedule, schedules
from sim.api import Question, run
from sim.explain import explain
from sim.explanation import TABLES
from sim.hardware import load_hardware
from sim.hardware_parts import Amount
from sim.sensitivity import DIFFERENCES, PATH
from tests.sim.explained import with_rate
from tests.sim.test_channels import results
from tests.sim.test_explain import check_sums

ROOM = 1e15  # bytes/s that no tasks together demand
TIGHT = {"cpu": 25e9, "gpu": 200e9}


@pytest.fixture(scope="module", params=["cgopipe", "flexgen", "flexgen-cpu"])
def tight(request):
    return explain(results(request.param, **TIGHT))


@pytest.mark.parametrize("name", sorted(schedules()))
def test_parts_add_up(name):
    check_sums(explain(results(name, cpu=8e9, gpu=100e9)))


@pytest.mark.parametrize("channels", [{"host_link": 10e9}, {"cpu": 30e9, "gpu": 250e9}])
@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "zero-inference", "gpu-only"])
def test_parts_of_two_gpus_add_up(name, channels):
    amounts = {k: Amount(value=v, source="made up for this test") for k, v in channels.items()}
    hardware = load_hardware("gcp-t4x2-32c").model_copy(update={"channels": amounts})
    scenario = Question("mixtral-8x7b", hardware, "fixed-64", 4).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(2))
    kind = find_schedule(name)
    found = explain(run(scenario, kind, {"N": 16, "mu": 16 if kind.one_batch else 4}))
    check_sums(found)
    assert {row.channel for row in found.sharing} <= {"host_link", "cpu", "gpu0", "gpu1"}


def test_tables_have_what_is_lost_and_the_method(tight):
    values = tight.to_dict()
    assert values["method"] == tight.method == DIFFERENCES
    assert values["sharing"] == [asdict(row) for row in tight.sharing]
    assert {row.channel for row in tight.sharing} <= {"cpu", "gpu"}
    assert all(0 <= row.critical_s <= row.lost_s for row in tight.sharing)
    assert sum(one.critical_s for one in tight.sensitivities) == pytest.approx(
        tight.result.makespan_s
    )


def test_tasks_of_a_step_have_what_they_lose(tight):
    last = tight.result.generation.steps
    steps = [tight.tasks(step) for step in range(last + 1)]
    for step, rows in enumerate(steps):
        phase = tight.result.generation.step(step) if step else tight.result.generation.prefill
        begin_s = tight.result.start_s(step)
        assert rows["end_s"].to_numpy() - begin_s == pytest.approx(phase.run.end_s)
        longer = phase.run.end_s - phase.run.start_s - phase.duration_s
        assert rows["lost_s"].to_numpy() == pytest.approx(longer, abs=1e-9)
        assert (rows["channel"].isna() == (rows["lost_s"] == 0)).all()
    lost_s = sum(rows["lost_s"].sum() for rows in steps)
    assert lost_s == pytest.approx(sum(row.lost_s for row in tight.sharing))
    critical_s = sum(rows.loc[rows["critical"], "lost_s"].sum() for rows in steps)
    assert critical_s == pytest.approx(sum(row.critical_s for row in tight.sharing))


def test_elasticities_are_those_of_machines_with_other_rates(tight):
    for found in tight.sensitivities:
        sides = [with_rate(tight.result, found.resource, 1 + h) for h in (-1e-5, 1e-5)]
        log = math.log(sides[1].throughput_tok_s / sides[0].throughput_tok_s)
        share = log / math.log((1 + 1e-5) / (1 - 1e-5))
        assert found.elasticity == pytest.approx(share, rel=1e-2, abs=1e-4)


def test_larger_changes_are_those_of_a_machine_that_has_them(tight):
    for found in tight.sensitivities:
        for gain, factor in ((found.faster, 1.1), (found.slower, 0.9)):
            other = with_rate(tight.result, found.resource, factor)
            exact = other.throughput_tok_s / tight.result.throughput_tok_s - 1
            assert gain == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "flexgen-cpu", "on-demand"])
def test_channels_with_room_for_all_explain_as_none(name):
    alone, room = explain(results(name)), explain(results(name, cpu=ROOM, gpu=ROOM))
    assert room.method == PATH
    for table in TABLES:
        rows = [row for row in getattr(room, table) if getattr(row, "kind", "") != "channel"]
        for row, other in zip(rows, getattr(alone, table), strict=True):
            for mine, its in zip(asdict(row).values(), asdict(other).values(), strict=True):
                same = pytest.approx(its, rel=1e-12, abs=1e-12) if type(its) is float else its
                assert mine == same, (table, row)
    assert room.bottleneck == alone.bottleneck
    assert (room.tasks(1)["lost_s"] == 0).all()
    assert room.tasks(1)[alone.tasks(1).columns].equals(alone.tasks(1))


def test_a_full_channel_is_the_bottleneck():
    """As pinning, DMA and CPU attention share the DRAM, more of it gains most."""
    found = explain(results("cgopipe", **TIGHT))
    assert found.bottleneck == ("channels.cpu",)
    assert found.sensitivities[0].elasticity > 0.3
    assert found.sensitivities[0].critical_s > 0.2 * found.result.makespan_s
    channels = [bound for bound in found.bounds if bound.kind == "channel"]
    assert {bound.what for bound in channels} == {"cpu", "gpu"}
    assert all(bound.ratio >= 1 for bound in channels)


def test_the_reference_engine_is_explained_by_the_same_times():
    fast, reference = (
        explain(results("cgopipe", engine, cpu=25e9)) for engine in ("compiled", "simpy")
    )
    assert fast.sharing == reference.sharing
    assert fast.critical_path == reference.critical_path
