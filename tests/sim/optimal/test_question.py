"""The schedules' own orders against the best: decode steps and steady states."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.errors import BadInput, Infeasible
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim.optimal.cycle import cycle
from sim.optimal.period import best_period
from sim.optimal.question import guesses, optimal, settled
from sim.optimal.recorded import cut, recorded
from sim.optimal.solver import Limits
from sim.question import Question
from tests.sim.optimal.test_period import judge_period

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")
QUICK = Limits(1.0)
SMALL = Question(*S1, batch=144, micro_batch=36)


def test_cgopipe_is_optimal_in_the_steady_state_of_s1():
    found = optimal("cgopipe", Question(*S1, batch=504, micro_batch=36), periodic=True)
    assert (found.status, found.form, found.layers, found.tasks) == ("optimal", "period", 1, 98)
    assert found.gap == pytest.approx(0, abs=1e-9)
    assert found.bound_s == pytest.approx(found.bounds_s["pin"])


@pytest.mark.parametrize(
    ("name", "binds", "sequences"),
    [("fastdecode", "places", 36), ("zero-inference", "h2d", 60), ("accelerate", "places", 60)],
)
def test_schedules_whose_memory_or_link_binds(name, binds, sequences):
    found = optimal(name, Question(*S1, batch=sequences, micro_batch=sequences), periodic=True)
    assert found.status == "optimal"
    assert found.schedule_s == pytest.approx(found.bounds_s[binds])


GPU_ONLY = Question("switch-base-8", "a100-80g-epyc64", "fixed-64", 8, batch=8, micro_batch=4)


def test_gpu_only_has_nothing_to_gain():
    found = optimal("gpu-only", GPU_ONLY, limits=Limits(1.0))
    assert (found.status, found.gap) == ("optimal", pytest.approx(0, abs=1e-9))
    assert found.bound_s == pytest.approx(found.bounds_s["gpu"])


def test_a_schedule_that_does_not_go_layer_by_layer_has_no_period():
    with pytest.raises(BadInput, match="layers 3 and 4 differ, so no period of 1 layer repeats"):
        optimal("gpu-only", GPU_ONLY, periodic=True)


@pytest.mark.parametrize("periodic", [False, True])
def test_flexgen_gains_by_a_better_order(periodic):
    found = optimal("flexgen", SMALL, micro_batches=3, periodic=periodic, limits=QUICK)
    assert found.schedule_s > found.best_s * 1.03
    assert found.bound_s <= found.best_s
    assert found.changes
    own, better = (set(t.frame.op) for t in found.timelines)
    assert own == better
    plain = found.to_dict()
    assert plain["gap"] == pytest.approx(found.schedule_s / found.best_s - 1)
    assert plain["micro_batches"] == 3


@pytest.mark.parametrize("name", ["cgopipe", "fastdecode", "flexgen", "flexgen-cpu"])
def test_the_better_order_keeps_every_rule_and_the_engine_runs_it(name):
    kind = find_schedule(name)
    policy = make_policy({"N": 144, "mu": 36})
    scenario, policy = cut(Question(*S1).scenario(), kind, policy, 11, 3)
    step = recorded(scenario, kind, policy)
    repeated = cycle(step.graph, step.duration_s, step.flow, step.first, 1)
    best = best_period(repeated, *settled(step, repeated), guesses(repeated, step.graph), QUICK)
    judge_period(repeated, step.graph, best.turns)


def test_both_timelines_hold_the_same_tasks_and_no_stream_overlaps():
    found = optimal("flexgen", SMALL, micro_batches=2, layers=1, limits=QUICK)
    lengths = [len(timeline) for timeline in found.timelines]
    assert lengths == [found.tasks, found.tasks]
    for timeline in found.timelines:
        for _, rows in timeline.frame.groupby("stream"):
            rows = rows[rows["end_s"] > rows["start_s"]].sort_values("start_s")
            gaps = rows["start_s"].to_numpy()[1:] - rows["end_s"].to_numpy()[:-1]
            assert (gaps >= -1e-9).all()
    better = found.timelines[1].frame
    assert better["end_s"].max() == pytest.approx(found.best_s)
    assert np.isclose(found.timelines[0].frame["end_s"].max(), found.schedule_s)


def test_issuing_costs_stand_beside_the_order():
    found = optimal("cgopipe", SMALL, micro_batches=2, limits=QUICK)
    assert found.issued_s > found.schedule_s


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"micro_batches": 5}, "5 micro-batches were asked for; the batch has 4, at least 1"),
        ({"micro_batches": 0}, "0 micro-batches were asked for"),
        ({"layers": 0}, "0 layers were asked for; it must be 1 or more"),
    ],
)
def test_mistakes(changes, said):
    with pytest.raises(BadInput, match=said):
        optimal("cgopipe", SMALL, **changes)


def test_no_decode_step():
    with pytest.raises(BadInput, match="has no decode step to be ordered; give --gen-len 2 or mo"):
        optimal("cgopipe", replace(SMALL, gen_len=1))


def test_what_does_not_fit():
    with pytest.raises(Infeasible, match="pool 'gpu' is too small"):
        optimal("gpu-only", SMALL, layers=32)
