"""Orders of several GPUs: decode steps and steady states, kept to every rule by a judge."""

import pytest

from schedules.errors import BadInput
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim.optimal.cycle import cycle
from sim.optimal.makespan import best_order
from sim.optimal.period import best_period
from sim.optimal.problem import window
from sim.optimal.question import guesses, optimal, settled
from sim.optimal.recorded import cut, recorded
from sim.optimal.solver import Limits
from sim.question import Question
from tests.sim.optimal.orders import judge
from tests.sim.optimal.test_period import judge_period

QUICK = Limits(1.0)
TWO, FOUR = "gcp-t4x2-32c", "gcp-t4x4-32c"
SPLIT = pytest.mark.parametrize(
    ("name", "hardware"),
    [("cgopipe", TWO), ("cgopipe", FOUR), ("fastdecode", TWO), ("fastdecode", FOUR)],
)


def asked(hardware):
    return Question("mixtral-8x22b", hardware, "mtbench", 16, batch=16, micro_batch=8)


def step_of(name, hardware, layers):
    kind = find_schedule(name)
    policy = make_policy({"N": 16, "mu": 16 if kind.one_batch else 8})
    scenario = asked(hardware).scenario()
    scenario, policy = cut(scenario, kind, policy, layers, None)
    return recorded(scenario, kind, policy)


@pytest.mark.parametrize(("hardware", "gpus"), [(TWO, 2), (FOUR, 4)])
def test_cgopipe_is_optimal_in_the_steady_state(hardware, gpus):
    """One thread pins for all GPUs, and never waits."""
    found = optimal("cgopipe", asked(hardware), periodic=True, limits=QUICK)
    assert (found.status, found.tasks) == ("optimal", 4 + 16 * gpus)
    assert found.gap == pytest.approx(0, abs=1e-9)
    assert found.bound_s == pytest.approx(found.bounds_s["pin"])
    assert {f"{stream}{i}" for stream in ("gpu", "h2d") for i in range(gpus)} <= set(found.bounds_s)


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        *(("cgopipe", TWO), ("fastdecode", FOUR), ("gpu-only", TWO), ("zero-inference", TWO)),
        *(("flexgen", TWO), ("flexgen", FOUR), ("fusionai", TWO)),  # layers on different GPUs
    ],
)
def test_the_better_order_of_a_step_keeps_every_rule(name, hardware):
    step = step_of(name, hardware, 4)
    problem = window(step.graph, step.duration_s, step.flow, step.first)
    judge(problem, step.run.start_s, step.run.end_s)
    found = best_order(problem, step.run.start_s, step.run.end_s, QUICK)
    judge(problem, found.start_s, found.start_s + step.duration_s)
    assert found.bound_s <= found.makespan_s * (1 + 1e-9)
    assert found.makespan_s <= step.run.makespan_s * (1 + 1e-9)


@SPLIT
def test_the_better_order_of_a_period_keeps_every_rule(name, hardware):
    step = step_of(name, hardware, 11)
    repeated = cycle(step.graph, step.duration_s, step.flow, step.first, 1)
    best = best_period(repeated, *settled(step, repeated), guesses(repeated, step.graph), QUICK)
    judge_period(repeated, step.graph, best.turns)


def test_the_timelines_show_the_streams_of_all_gpus():
    found = optimal("flexgen", asked(TWO), layers=4, limits=QUICK)
    assert found.schedule_s > found.best_s
    for timeline, seconds in zip(found.timelines, (found.schedule_s, found.best_s), strict=True):
        assert {"gpu0", "gpu1", "h2d0", "h2d1"} <= set(timeline.frame["stream"])
        assert len(timeline) == found.tasks
        assert timeline.frame["end_s"].max() == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["flexgen", "flexgen-cpu", "fusionai"])
def test_layers_on_different_gpus_have_no_period(name):
    said = "the layers of .* are spread over 2 GPUs, each with its own, so no layer repeats on all"
    with pytest.raises(BadInput, match=said):
        optimal(name, asked(TWO), periodic=True)


def test_a_pipeline_needs_a_layer_for_each_gpu():
    with pytest.raises(BadInput, match="needs a layer for each of 4 GPUs"):
        optimal("flexgen", asked(FOUR), layers=2)
