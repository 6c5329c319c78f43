"""The library's front door: `from sim import simulate, compare`."""

import json

import numpy as np
import pytest

from schedules.errors import BadInput, Infeasible
from schedules.model_presets import load_model
from schedules.policy import Policy, make_policy
from schedules.schedule import find_schedule
from schedules.timeline import Timeline
from schedules.workload_presets import load_workload
from sim import Comparison, compare, simulate
from sim.api import Unfeasible, run
from sim.cost import Roofline
from sim.hardware import load_hardware

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")  # MoE-Lightning's first setting
SMALL = (*S1, 3, 8, 2)
ORDER = ["cgopipe", "fastdecode", "flexgen", "flexgen-cpu"]
ORDER += ["on-demand", "zero-inference", "accelerate"]


@pytest.fixture(scope="module")
def small():
    return simulate("cgopipe", *SMALL)


@pytest.fixture(scope="module")
def s1():
    """Schedules at S1, padded, 128 tokens, each with the best policy that is found."""
    return compare([*ORDER, "gpu-only"], *S1, gen_len=128, padded=True)


# -- names, paths, objects -------------------------------------------------------------------------


def test_objects_instead_of_names(small):
    model, hardware, workload = load_model(S1[0]), load_hardware(S1[1]), load_workload(S1[2])
    found = simulate("cgopipe", model, hardware, workload, 3, 8, 2)
    assert found.to_dict() == small.to_dict()


@pytest.mark.parametrize(
    ("position", "near"), [(0, "cgopipe"), (1, "mixtral-8x7b"), (2, "gcp-t4-24c"), (3, "mtbench")]
)
def test_unknown_names_come_with_the_nearest(position, near):
    arguments = ["cgopipe", *S1]
    arguments[position] += "x"
    with pytest.raises(BadInput, match=rf"'{near}x', did you mean '{near}'"):
        simulate(*arguments, 3, 8, 2)
    with pytest.raises(BadInput, match=rf"'{near}x', did you mean '{near}'"):
        compare(["flexgen", arguments[0]], *arguments[1:], 3, 8, 2)


# -- numbers ---------------------------------------------------------------------------------------


def test_twice_the_same(small):
    again = simulate("cgopipe", *SMALL)
    assert json.dumps(again.to_dict()) == json.dumps(small.to_dict())
    assert again.timeline().frame.equals(small.timeline().frame)


def test_numbers_of_numpy(small):
    found = simulate("cgopipe", *S1, np.int64(3), np.int64(8), np.int64(2), {"r_w": np.float64(0)})
    assert found.throughput_tok_s == small.throughput_tok_s
    json.dumps(found.to_dict())


def test_a_result_is_a_timeline_as_well(small):
    timeline = small.timeline([1])
    assert isinstance(timeline, Timeline)
    assert set(timeline.frame["stream"]) <= set(small.streams)


def test_twice_the_rates_half_the_time(small):
    """All rates doubled and all fixed costs halved: everything takes half as long."""

    class Twice(Roofline):
        def limits(self, work):
            return [seconds / 2 for seconds in super().limits(work)]

        def call_seconds(self, work):
            return super().call_seconds(work) / 2

        def issue_seconds(self, work):
            return super().issue_seconds(work) / 2

    cost = Twice(small.scenario.hardware)
    cost.sync_s /= 2
    fast = run(small.scenario, find_schedule("cgopipe"), small.policy, cost)
    assert fast.makespan_s == pytest.approx(small.makespan_s / 2)
    assert fast.utilization == pytest.approx(small.utilization)


def test_a_policy_object(small):
    found = run(small.scenario, find_schedule("cgopipe"), Policy(N=8, mu=2))
    assert found.to_dict() == small.to_dict()


def test_a_seed_is_on_record():
    assert simulate("cgopipe", *SMALL, seed=5).provenance["seed"] == 5


def test_padding_costs_time(small):
    unpadded = simulate("cgopipe", *SMALL, padded=False)
    assert unpadded.prefill_s < small.prefill_s
    assert simulate("cgopipe", *SMALL, padded=True).prefill_s == small.prefill_s


# -- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "policy", "message"),
    [
        ("zero-inference", {"r_w": 0.5}, "has no use for r_w = 0.5; it takes N, mu, pinned"),
        ("flexgen", {"A_g": 1}, "has no use for A_g = 1"),
        ("cgopipe", {"r_c": 0.5}, "r_c = 0.5 needs A_g = 1"),
        ("gpu-only", {"pinned": False}, "has no use for pinned = False"),
        ("accelerate", {}, "mu = 2 must equal N = 8"),
    ],
)
def test_simulate_refuses_what_means_nothing(name, policy, message):
    with pytest.raises(BadInput, match=message):
        simulate(name, *SMALL, policy)


def test_what_is_given_stays():
    given = {"r_w": 0.25, "A_g": 1}
    policy = simulate(
        "cgopipe", "switch-base-8", "rtx4090-pc", "fixed-8", 2, 6, policy=given
    ).policy
    assert (policy.N, policy.r_w, policy.A_g) == (6, 0.25, 1)
    policy = simulate("flexgen", "switch-base-8", "rtx4090-pc", "fixed-8", 2, None, 4).policy
    assert policy.mu == 4
    other = {"weights_on_gpu": 0.25}
    policy = simulate(
        "flexgen", "switch-base-8", "rtx4090-pc", "fixed-8", 2, 6, policy=other
    ).policy
    assert (policy.N, policy.r_w) == (6, 0.25)


def test_what_does_not_fit():
    with pytest.raises(
        Infeasible, match=r"pool 'gpu' is too small: 'expert weights' needs 90\.19 GB"
    ):
        simulate("gpu-only", *SMALL)
    with pytest.raises(Infeasible, match="pool 'gpu' is too small"):
        simulate("gpu-only", *S1, 3)


# -- comparisons -----------------------------------------------------------------------------------


def test_several_schedules(small):
    found = compare(["cgopipe", "gpu-only", "flexgen"], *SMALL)
    assert isinstance(found, Comparison)
    first, misfit, last = found.results
    assert first.to_dict() == small.to_dict()
    assert last.to_dict() == simulate("flexgen", *SMALL).to_dict()
    assert isinstance(misfit, Unfeasible)
    assert misfit.reason.startswith("pool 'gpu' is too small")
    speeds = [r.throughput_tok_s for r in found.feasible]
    assert speeds == sorted(speeds, reverse=True)
    assert found.winner == found.feasible[0].schedule
    assert found.to_dict() == {
        "results": [first.to_dict(), misfit.to_dict(), last.to_dict()],
        "winner": found.winner,
    }


def test_none_can_run():
    found = compare(["gpu-only"], *SMALL)
    assert found.winner is None
    assert found.feasible == ()
    assert len(found.to_pandas()) == 1


def test_no_schedule():
    with pytest.raises(BadInput, match="no schedule to compare; name at least one"):
        compare([], *SMALL)


def test_one_name(small):
    assert compare("cgopipe", *SMALL).results[0].to_dict() == small.to_dict()
    assert len(compare((name for name in ["cgopipe", "flexgen"]), *SMALL).results) == 2


def test_values_go_where_they_mean_something():
    given = {"r_w": 0.02, "A_g": 1, "r_h": 1.0}
    found = compare(["cgopipe", "flexgen", "accelerate"], *SMALL, policy=given)
    cgopipe, flexgen, accelerate = (r.policy for r in found.results)
    assert cgopipe == make_policy({"N": 8, "mu": 2, "r_w": 0.02, "A_g": 1})
    assert flexgen == make_policy({"N": 8, "mu": 2, "r_w": 0.02, "r_h": 1.0})
    assert accelerate == make_policy({"N": 8, "mu": 8})


def test_values_that_mean_nothing_to_any():
    with pytest.raises(BadInput, match="none of the schedules has a use for A_g, r_c"):
        compare(["zero-inference", "accelerate"], *SMALL, policy={"A_g": 1, "r_c": 1})
    with pytest.raises(BadInput, match="none of the schedules has a use for F_g"):
        compare(None, *SMALL, policy={"ffn_on_gpu": 1})


def test_a_schedule_that_cannot_follow_says_why():
    """r_c means something to CGOPipe too, but not with attention on the CPU."""
    found = compare(["cgopipe", "flexgen"], *SMALL, policy={"r_c": 0.5})
    cgopipe, flexgen = found.results
    assert not cgopipe.feasible
    assert "r_c = 0.5 needs A_g = 1" in cgopipe.reason
    assert flexgen.policy.r_c == 0.5
    with pytest.raises(BadInput, match=r"r_c = 0\.5 needs A_g = 1"):
        compare(["cgopipe"], *SMALL, policy={"r_c": 0.5})


def test_several_gpus():
    arguments = ("mixtral-8x7b", "gcp-t4x2-32c", "mtbench", 2, 8, 2)
    found = compare(["cgopipe", "accelerate"], *arguments, gpus=2)
    assert [r.feasible for r in found.results] == [True, False]
    assert "uses one GPU, but 2 were asked for" in found.results[1].reason
    default = compare(["cgopipe", "accelerate"], *arguments)
    used = [r.provenance["presets"]["n_gpus"] for r in default.results]
    assert used == [2, 1]
    with pytest.raises(BadInput, match="3 GPUs were asked for; hardware 'gcp-t4x2-32c' has 2"):
        compare(["cgopipe", "accelerate"], *arguments, gpus=3)


def test_order_of_the_schedules_at_s1(s1):
    """MoE-Lightning, figure 7: CGOPipe before FlexGen before ZeRO-Inference; no GPU-only run.

    On-demand copies all experts of a large batch, as ZeRO-Inference does, but keeps the rest.
    """
    assert [r.schedule for r in s1.results] == [*ORDER, "gpu-only"]
    assert [r.schedule for r in s1.feasible] == ORDER
    assert [r.schedule for r in s1.results if not r.feasible] == ["gpu-only"]
    assert s1.winner == "cgopipe"


def test_searched_policies_beat_the_published_ones_at_s1(s1):
    """Figure 7 gives N = 504, mu = 36 for CGOPipe and 1112, 8 for FlexGen at 128 tokens."""
    speeds = {r.schedule: r.throughput_tok_s for r in s1.feasible}
    published = simulate("cgopipe", *S1, 128, 504, 36, padded=True)
    assert speeds["cgopipe"] >= published.throughput_tok_s
    assert speeds["cgopipe"] == max(speeds.values())
    for result in s1.feasible:
        assert result.policy.N >= result.policy.mu >= 1
        assert result.bound_ratio >= 1
