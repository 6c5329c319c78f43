"""The library's front door: `from sim import simulate, compare`."""

import json
from pathlib import Path

import numpy as np
import pytest

from schedules.errors import BadInput, Infeasible
from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.policy import Policy, make_policy
from schedules.schedule import find_schedule
from schedules.timeline import Timeline
from schedules.workload import Workload
from schedules.workload_presets import load_workload
from sim import Comparison, compare, simulate
from sim.api import Unfeasible, given_policy, make_scenario, run
from sim.cost import Roofline
from sim.hardware import load_hardware

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")  # MoE-Lightning's first setting
SMALL = (*S1, 3, 8, 2)
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "torch_dtype": "float16",
}
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


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_instead_of_names(tmp_path, kind):
    (tmp_path / "box.toml").write_text(
        'based_on = "gcp-t4-24c"\nname = "box"\ndescription = "as the preset"\n'
    )
    (tmp_path / "w.csv").write_text("prompt_len\n10\n30\n")
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    found = simulate(
        "cgopipe",
        kind(tmp_path),
        kind(tmp_path / "box.toml"),
        kind(tmp_path / "w.csv"),
        gen_len=2,
        batch=4,
        micro_batch=2,
        padded=False,
    )
    lengths = Listed(lengths=(10, 30))
    workload = Workload(name="w", prompt_lengths=lengths, gen_len=2, padded=False, source="-")
    expected = simulate("cgopipe", *S1[:2], workload, batch=4, micro_batch=2)
    assert found.makespan_s == expected.makespan_s
    assert found.scenario.hardware.name == "box"
    assert found.scenario.model.parameters == load_model(S1[0]).parameters


def test_changes_to_a_workload_object():
    """A generation length beside an object counts, as it does beside a name."""
    workload = load_workload("mtbench")
    found = simulate("cgopipe", *S1[:2], workload, 3, 8, 2, padded=False)
    by_name = simulate("cgopipe", *S1, 3, 8, 2, padded=False)
    assert found.scenario.workload.gen_len == 3
    assert found.scenario.workload.padded is False
    assert found.to_dict() == by_name.to_dict()
    assert load_workload("mtbench") == workload


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen_len": 0}, "gen_len is 0"),
        ({"gen_len": 2.5}, r"gen_len is 2\.5"),
        ({"gen_len": float("nan")}, "gen_len is nan"),
        ({"padded": "yes"}, "workload mtbench: padded is 'yes'"),
        ({"seed": -1}, "seed is -1; it must be >= 0"),
    ],
)
def test_impossible_changes(changes, message):
    with pytest.raises(BadInput, match=message):
        make_scenario(*S1[:2], load_workload("mtbench"), **changes)


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
    ("given", "values"),
    [
        ((None, None, None), {}),
        ((8, None, None), {"N": 8}),
        ((8, 2, {"r_w": 0.1}), {"N": 8, "mu": 2, "r_w": 0.1}),
        ((None, None, {"batch": 8, "micro_batch": 2}), {"N": 8, "mu": 2}),
        ((None, 2, {"batch_size": 8}), {"N": 8, "mu": 2}),
        ((None, None, {"micro_batch_size": "4"}), {"mu": "4"}),
        ((8, None, {"weights_on_gpu": 0.1, "attention_on_gpu": 1}), {"N": 8, "r_w": 0.1, "A_g": 1}),
        ((None, None, {"cache_on_gpu": 1, "activations_on_gpu": 0}), {"r_c": 1, "r_h": 0}),
    ],
)
def test_standard_names(given, values):
    assert given_policy(*given) == values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((8, None, {"N": 4}), "N is given twice, as 4 and as 8"),
        ((None, 2, {"mu": 2}), "mu is given twice"),
        ((None, None, {"r_w": 0.1, "weights_on_gpu": 0.2}), "r_w is given twice"),
        ((8, 16, None), "mu = 16 is larger than the batch N = 8"),
        ((0, None, None), "N = 0"),
        ((8.5, None, None), r"N = 8\.5: input should be a valid integer"),
        ((float("nan"), None, None), "N = nan"),
        ((None, -3, None), "^policy: mu = -3"),
        ((None, None, {"r_w": None}), "r_w = None"),
        ((None, None, {"r_w": float("nan")}), "r_w = nan: input should be a finite number"),
        ((None, None, {"r_w": 1.5}), "r_w = 1.5"),
        ((None, None, {"A_g": 2}), "A_g = 2"),
        ((None, None, {"pool": "gpu"}), "unknown key 'pool'"),
        ((100_001, None, None), "N = 100001; a batch has at most 100,000 sequences"),
        ((100_000, 9, None), "make 11,112 micro-batches; a batch has at most 10,000"),
    ],
)
def test_impossible_policies(given, message):
    with pytest.raises(BadInput, match=message):
        given_policy(*given)
    with pytest.raises(BadInput, match=message):
        simulate("cgopipe", *S1, 3, *given)
    with pytest.raises(BadInput, match=message):
        compare(["cgopipe", "flexgen"], *S1, 3, *given)


def test_the_largest_batch_can_be_asked_for():
    assert given_policy(100_000, 10, None) == {"N": 100_000, "mu": 10}


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


def test_comparison_as_a_table():
    found = compare(["cgopipe", "gpu-only"], *SMALL)
    table = found.to_pandas()
    assert table["schedule"].tolist() == ["cgopipe", "gpu-only"]
    assert table["feasible"].tolist() == [True, False]
    assert np.isnan(table["throughput_tok_s"][1])
    page = found._repr_html_()
    assert page.startswith("<table")
    assert "gpu-only" in page


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
