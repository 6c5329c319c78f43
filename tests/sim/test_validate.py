"""Published figures beside what the simulator says: by hand, then those that come with moelab."""

import numpy as np
import pytest

from sim import simulate
from sim.hardware import load_hardware
from sim.published import read_published
from sim.validate import (
    Checked,
    check_row,
    pairwise_order,
    policy_of,
    scenario_of,
    summary,
    validate,
)
from tests.sim.figures import RUN, row

OPERATION = RUN.model_copy(update={"schedule": "", "hardware": "gcp-l4-24c", "batch_size": None})


def simulated(base=RUN, **changes) -> float:
    found = check_row(row(base, **changes))
    assert found.reason is None
    return found.simulated


def reason(base=RUN, **changes) -> str:
    found = check_row(row(base, **changes))
    assert found.simulated is None
    assert found.error is None
    assert found.abs_error == 1.0
    return found.reason


# -- operations, by hand ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def l4():
    return load_hardware("gcp-l4-24c")


@pytest.mark.parametrize(("size", "context"), [(32, 128), (128, 512), (256, 2048)])
def test_copy_of_the_cache(l4, size, context):
    """One layer of Mixtral: 2 x 8 heads x 128 x 2 bytes a token, over PCIe at 12.35 GB/s."""
    bytes_per_token = 2 * 8 * 128 * 2
    expected = size * context * bytes_per_token / 12.35e9
    fixed = l4.link_call_s.value + l4.host.issue_s.value + l4.host.sync_s.value
    found = simulated(OPERATION, metric="op_s:kv_transfer", micro_batch=size, prompt_len=context)
    assert found == pytest.approx(expected + fixed, rel=1e-12)


def test_attention_on_the_cpu(l4):
    """The cache is read once at 45.3 GB/s, with queries and outputs of 4096 and new KV of 2048."""
    size, context = 64, 512
    moved = (size * context * 2048 + size * (4096 + 2048) + size * 4096) * 2
    expected = moved / 45.3e9 + 38e-6
    found = simulated(OPERATION, metric="op_s:cpu_attention", micro_batch=size, prompt_len=context)
    assert found == pytest.approx(expected, rel=1e-12)


def test_experts(l4):
    """32 tokens touch all experts of a layer; reading them at 225 GB/s is what takes time."""
    size, h, width = 32, 4096, 14336
    touched = 8 * (1 - (6 / 8) ** size)  # a token leaves out an expert with probability 6/8
    weights = touched * 3 * h * width + 8 * h + h  # and the router and the norm
    activations = size * (2 * h + 2 * (2 * h + 3 * width))
    launches = 10 * l4.gpu.call_s.value + l4.host.issue_s.value + l4.host.sync_s.value
    found = simulated(OPERATION, metric="op_s:moe_ffn", micro_batch=size)
    assert found == pytest.approx((weights + activations) * 2 / 225e9 + launches, rel=1e-9)


def test_an_operation_takes_the_batch_where_there_is_no_micro_batch():
    changes = {"metric": "op_s:moe_ffn", "micro_batch": None}
    assert simulated(OPERATION, **changes, batch_size=32) == simulated(
        OPERATION, metric="op_s:moe_ffn", micro_batch=32
    )


# -- runs ------------------------------------------------------------------------------------------


def test_throughput_is_that_of_simulate():
    expected = simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "fixed-100", 3, 8, 2)
    assert simulated() == expected.throughput_tok_s
    expected = simulate("zero-inference", "mixtral-8x7b", "gcp-t4-24c", "fixed-100", 3, 8, 8)
    assert simulated(schedule="zero-inference") == expected.throughput_tok_s
    expected = simulate("cgopipe", "mixtral-8x7b", "gcp-t4x2-32c", "fixed-100", 3, 8, 2, gpus=2)
    assert simulated(hardware="gcp-t4x2-32c", n_gpus=2) == expected.throughput_tok_s


def test_average_and_longest_prompts():
    """As MTBench: 77 on average, at most 418."""
    changes = {"prompt_len": 77, "prompt_len_max": 418, "gen_len": 3}
    for padded in (True, False):
        expected = simulate(
            "cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 3, 8, 2, None, padded
        )
        assert simulated(**changes, padded=padded) == expected.throughput_tok_s


def test_dtype():
    model = scenario_of(row(dtype="float32")).model
    assert model.dtype == "float32"
    roomy = {"hardware": "gcp-l4-24c"}
    assert simulated(dtype="float32", **roomy) < simulated(**roomy)


def test_without_a_batch_the_best_is_searched():
    searched = simulate("zero-inference", "mixtral-8x7b", "gcp-t4-24c", "fixed-100", 3)
    found = simulated(schedule="zero-inference", batch_size=None, micro_batch=None)
    assert found == searched.throughput_tok_s


def test_peak_memory():
    result = simulate("gpu-only", "switch-base-8", "rtx4090-pc", "fixed-100", 3, 8, 2)
    found = simulated(
        metric="peak_gpu_gb",
        schedule="gpu-only",
        model="switch-base-8",
        dtype="float32",
        hardware="rtx4090-pc",
    )
    outside = load_hardware("rtx4090-pc").gpu.process.value
    assert found == (result.peak_memory_bytes["gpu"] + outside) / 1e9


def test_latency_of_a_block():
    """All layers of Mixtral are MoE blocks: together they are the step, from first to last."""
    result = simulate("accelerate", "mixtral-8x7b", "gcp-t4-24c", "fixed-100", 4, 8, 8)
    frame = result.timeline([1]).frame
    layers = frame[frame["layer"] >= 0]
    expected = (layers["end_s"].max() - layers["start_s"].min()) / 32 * 1e3
    found = simulated(metric="moe_block_ms", schedule="accelerate", gen_len=4)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_block_of_a_pipeline_takes_time_too():
    changes = {"schedule": "flexgen", "hardware": "gcp-t4x2-32c", "n_gpus": 2}
    assert simulated(metric="moe_block_ms", **changes) > 0


def test_only_layers_with_experts_are_blocks():
    """Of Switch's 12 decoder layers every second has experts."""
    question = ("gpu-only", "switch-base-8", "rtx4090-pc", "fixed-100", 3, 8, 8)
    result = simulate(*question, routing="switch-base-128")
    frame = result.timeline([1]).frame
    ends = frame[frame["layer"] >= 0].groupby("layer")["end_s"].max()
    spans = [ends[layer] - ends[layer - 1] for layer in range(1, 12, 2)]
    found = simulated(
        metric="moe_block_ms",
        schedule="gpu-only",
        model="switch-base-8",
        dtype="float32",
        hardware="rtx4090-pc",
        micro_batch=8,
    )
    assert found == pytest.approx(np.mean(spans) * 1e3, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, {"N": 8, "mu": 2, "r_w": 0.0}),
        ({"cpu_attention": True}, {"N": 8, "mu": 2, "r_w": 0.0, "A_g": 0}),
        ({"cpu_attention": False}, {"N": 8, "mu": 2, "r_w": 0.0, "A_g": 1}),
        ({"micro_batch": None}, {"N": 8, "mu": 8, "r_w": 0.0}),
        ({"batch_size": None}, {"r_w": 0.0}),
        ({"weights_on_gpu": 0.1}, {"N": 8, "mu": 2, "r_w": 0.1}),
        ({"schedule": "zero-inference", "weights_on_gpu": 0}, {"N": 8, "mu": 8}),
        ({"schedule": "gpu-only", "weights_on_gpu": 0}, {"N": 8, "mu": 2}),
        (
            {"schedule": "flexgen", "weights_on_gpu": 0.07},
            {"N": 8, "mu": 2, "r_w": 0.07, "pinned": False, "r_h": 0.0, "r_c": 0.0},
        ),
        (
            {"schedule": "flexgen", "weights_on_gpu": 1, "source": "FlexGen, table 2"},
            {"N": 8, "mu": 2, "r_w": 1.0, "pinned": True, "r_h": 1.0, "r_c": 1.0},
        ),
        (
            {"schedule": "flexgen-cpu", "weights_on_gpu": 0.2, "source": "FlexGen, table 2"},
            {"N": 8, "mu": 2, "r_w": 0.2, "pinned": True, "r_h": 0.0},
        ),
    ],
)
def test_published_policies(changes, policy):
    assert policy_of(row(**changes)) == policy


# -- rows that cannot be simulated -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedule": "cgopip"}, "unknown schedule 'cgopip', did you mean 'cgopipe'?"),
        ({"schedule": ""}, "unknown schedule ''"),
        ({"model": "mixtral"}, "no model is named 'mixtral', did you mean 'mixtral-8x7b'"),
        ({"hardware": "gcp-t4"}, "no hardware is named 'gcp-t4', did you mean 'gcp-t4-24c'"),
        ({"metric": "joules"}, "metric 'joules' is not known; known: throughput_tok_s, "),
        ({"dtype": "int4"}, "dtype 'int4' is not one of float16, bfloat16, float32"),
        ({"cache_policy": "lru", "cache_ratio": 0.1}, "has no use for cache_ratio = 0.1"),
        ({"prompt_len": None}, "prompt_len and gen_len must be given for this metric"),
        ({"gen_len": None}, "prompt_len and gen_len must be given for this metric"),
        ({"prompt_len_max": 50}, "50"),
        ({"n_gpus": 2}, "2 GPUs were asked for; hardware 'gcp-t4-24c' has 1"),
        (
            {"schedule": "accelerate", "n_gpus": 2, "hardware": "gcp-t4x2-32c"},
            "uses one GPU, but 2",
        ),
        ({"schedule": "gpu-only"}, "pool 'gpu' is too small"),
        ({"micro_batch": 16}, "micro-batch mu = 16 is larger than the batch N = 8"),
        ({"batch_size": 10**9}, "a batch has at most 100,000 sequences"),
        ({"metric": "moe_block_ms", "gen_len": 1}, "gen_len must be at least 2 for this metric"),
        ({"metric": "moe_block_ms", "model": "opt-6.7b"}, "model 'opt-6.7b' has no MoE layer"),
        (
            {"metric": "op_s:moe_ffn", "batch_size": None, "micro_batch": None},
            "micro_batch must be",
        ),
        ({"metric": "op_s:kv_transfer", "prompt_len": None}, "prompt_len, the context in tokens"),
        ({"metric": "op_s:kv_transfer", "n_gpus": 9}, "n_gpus = 9; 'gcp-t4-24c' has 1"),
        ({"metric": "op_s:moe_ffn", "hardware": "t4"}, "no hardware is named 't4'"),
    ],
)
def test_reasons(changes, why):
    assert why in reason(**changes)


# -- many rows -----------------------------------------------------------------------------------


def test_nothing_to_sum_up():
    found = validate([])
    assert found == {
        "rows": [],
        "summary": {
            "n": 0,
            "n_simulated": 0,
            "median_abs_error": None,
            "p90_abs_error": None,
            "pairwise_order": None,
            "by_kind": {},
            "by_source": {},
        },
    }


def test_validate_tells_of_each_row_as_it_goes():
    rows = [row(OPERATION, id=name, metric="op_s:moe_ffn", micro_batch=8) for name in "abc"]
    seen: list[str] = []
    found = validate(rows, progress=lambda c: seen.append(c.row.id))
    assert seen == [entry["id"] for entry in found["rows"]] == ["a", "b", "c"]
    assert found["summary"]["n"] == found["summary"]["n_simulated"] == 3


# -- the figures that come with moelab -------------------------------------------------------------

SHIPPED = {figure.id: figure for figure in read_published()}
OPERATIONS = [r for r in SHIPPED.values() if r.metric.startswith("op_s:")]
RUNS = [
    r
    for r in SHIPPED.values()
    if r.metric == "throughput_tok_s" and r.id.startswith(("moe-lightning/", "flexgen/"))
]


@pytest.fixture(scope="module")
def runs():
    """Every published run of MoE-Lightning and FlexGen, simulated: most of a minute."""
    return {r.id: check_row(r) for r in RUNS}


def test_operations_of_figure_9():
    found = [check_row(r) for r in OPERATIONS]
    assert len(found) >= 44
    assert all(c.simulated is not None for c in found)
    assert summary(found)["median_abs_error"] <= 0.08
    by_metric = next(iter(summary(found)["by_source"].values()))["by_metric"]
    assert {m: f["median_abs_error"] <= 0.08 for m, f in by_metric.items()} == dict.fromkeys(
        ["op_s:cpu_attention", "op_s:kv_transfer", "op_s:moe_ffn"], True
    )
    assert max(c.abs_error for c in found) < 0.2


def test_order_of_figure_9():
    """Equal caches take equally long in the simulator; the published times of such ties differ."""
    found = [check_row(r) for r in OPERATIONS]
    order = pairwise_order([c for c in found if not _ties(c, found)])
    assert order is not None
    assert order >= 0.95


def _ties(figure: Checked, others: list[Checked]) -> bool:
    """Whether another operation of the same kind moves as much."""
    size = figure.row.micro_batch * (figure.row.prompt_len or 0)
    same = [c for c in others if c.row.metric == figure.row.metric and c is not figure]
    return any(c.row.micro_batch * (c.row.prompt_len or 0) == size > 0 for c in same)


def test_cgopipe_before_flexgen_before_zero_inference():
    names = ("cgopipe-padded", "flexgen", "zero-inference")
    rows = [SHIPPED[f"moe-lightning/S1/{name}/32"] for name in names]
    found = [check_row(r).simulated for r in rows]
    assert None not in found
    assert found == sorted(found, reverse=True)
    assert [r.value for r in rows] == sorted((r.value for r in rows), reverse=True)


@pytest.mark.parametrize("name", ["opt-30b/256", "opt-30b/512", "opt-6.7b/256"])
def test_flexgen_on_opt(name):
    found = check_row(SHIPPED[f"flexgen/{name}"])
    assert found.abs_error <= 0.2


@pytest.mark.slow
def test_every_published_run_can_be_simulated(runs):
    assert len(runs) >= 36
    assert {name: c.reason for name, c in runs.items() if c.simulated is None} == {}


@pytest.mark.slow
def test_throughput_of_moe_lightning(runs):
    found = [c for name, c in runs.items() if name.startswith("moe-lightning/")]
    figures = summary(found)
    assert figures["n"] >= 33
    assert figures["median_abs_error"] <= 0.15
    assert figures["p90_abs_error"] <= 0.30
    assert figures["pairwise_order"] >= 0.95


@pytest.mark.slow
def test_order_at_s1(runs):
    """At every generation length CGOPipe is first, and FlexGen beats FlexGen with CPU attention."""
    for gen_len in (32, 64, 128):
        cgopipe, flexgen, zero, flexgen_cpu = (
            runs[f"moe-lightning/S1/{name}/{gen_len}"].simulated
            for name in ("cgopipe-padded", "flexgen", "zero-inference", "flexgen-cpu")
        )
        assert cgopipe > flexgen > max(zero, flexgen_cpu)


@pytest.mark.slow
def test_systems_that_move_experts():
    """The median error of Pre-gated MoE's figures is below 10 %, and the designs are in order."""
    runs = {r.id: check_row(r) for r in SHIPPED.values() if r.id.startswith("pre-gated/")}
    found = list(runs.values())
    assert len(found) == 48
    assert np.median([c.abs_error for c in found]) <= 0.10
    designs = ("gpu-only", "pre-gated", "on-demand", "prefetch-all")
    for metric in ("moe_block_ms", "throughput_tok_s"):
        for model in ("switch-base-8", "switch-base-128"):
            cells = [runs[f"pre-gated/{metric}/{model}/{name}/b1"] for name in designs]
            for values in ([c.simulated for c in cells], [c.row.value for c in cells]):
                assert values == sorted(values, reverse=metric == "throughput_tok_s")
    for n in (2, 4, 8, 16, 32):
        for model in ("switch-base-8", "switch-base-128"):
            ours, theirs = (
                runs[f"pre-gated/moe_block_ms/{model}/{name}/b{n}"].simulated
                for name in ("pre-gated", "on-demand")
            )
            assert ours < theirs
