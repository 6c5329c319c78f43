"""The conscience of the project: published figures beside what the simulator says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from schedules.errors import BadInput, MoelabError
from schedules.layer import LayerWork
from schedules.lengths import Fixed, Spread
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_presets import load_routing, routing_names
from schedules.schedule import Schedule, find_schedule
from schedules.task import Work
from schedules.workload import Workload
from sim.ablation import WHOLE, Ablation
from sim.accuracy import Checked, pairwise_order, summary
from sim.api import run
from sim.bound_times import BoundTimes, bound_times
from sim.cost import Roofline
from sim.hardware import load_hardware
from sim.published import METRICS, PublishedRow
from sim.result import Result
from sim.scenario import Scenario

__all__ = [
    "Checked",
    "check_row",
    "pairwise_order",
    "policy_of",
    "scenario_of",
    "simulate_row",
    "summary",
    "validate",
]

ROUTING = "switch-base-128"
"""Routing of Switch Transformers of whose own nothing is published."""

UNMEASURED: Mapping[str, Any] = {"metric": METRICS[0], "value": 1.0}
"""Of a row, where it does not matter what was measured."""


def validate(
    rows: Sequence[PublishedRow],
    progress: Callable[[Checked], None] | None = None,
    ablation: Ablation = WHOLE,
) -> dict[str, Any]:
    """Simulate every row; `{"rows": [...], "summary": {...}}` as plain values.

    The summary has the median and 90th percentile of the absolute error, over all rows, by kind, by
    source and by metric within it, and the share of pairs within a cell (same metric, model,
    hardware, workload and generation length) whose order is right. A row that cannot be simulated
    counts as 100 % wrong, and so do its pairs.
    """
    checked = []
    for row in rows:
        checked.append(check_row(row, ablation))
        if progress is not None:
            progress(checked[-1])
    return {"rows": [c.to_dict() for c in checked], "summary": summary(checked)}


def check_row(row: PublishedRow, ablation: Ablation = WHOLE) -> Checked:
    """Simulate one row; a row that cannot be simulated carries the reason."""
    try:
        return Checked(row, simulate_row(row, ablation))
    except MoelabError as error:
        return Checked(row, None, str(error))


def simulate_row(row: PublishedRow, ablation: Ablation = WHOLE) -> float:
    """What the simulator says for a row, in its unit. Raises `MoelabError` where it cannot."""
    if row.metric not in METRICS:
        raise BadInput(f"metric '{row.metric}' is not known; known: {', '.join(METRICS)}")
    if row.metric.startswith("op_s:"):
        return operation_s(row, ablation)
    result = _result(row.model_copy(update={"id": "", "note": "", **UNMEASURED}), ablation)
    if row.metric == "peak_gpu_gb":
        pools = (v for k, v in result.peak_memory_bytes.items() if k.startswith("gpu"))
        return (max(pools) + result.scenario.hardware.gpu.process.value) / 1e9
    bound = None if ablation.seconds == "events" else bound_times(result, ablation.seconds)
    if row.metric == "moe_block_ms":
        return moe_block_s(result, bound) * 1e3
    makespan_s = result.makespan_s if bound is None else bound.makespan_s
    return result.policy.N * result.scenario.workload.gen_len / makespan_s


@lru_cache(maxsize=16)
def _result(row: PublishedRow, ablation: Ablation) -> Result:
    """The run of a row; rows of other metrics of the same run need not repeat it."""
    kind, scenario = find_schedule(schedule_of(row)), scenario_of(row)
    changed = replace(
        scenario,
        hardware=ablation.hardware(scenario.hardware),
        routing=ablation.routing(scenario.routing),
        kernels=ablation.kernels(kind.kernels),
    )
    return run(changed, kind, policy_of(row), recorder=ablation.recorder)


def scenario_of(row: PublishedRow) -> Scenario:
    """Model, machine and workload of a row."""
    if row.prompt_len is None or row.gen_len is None:
        raise BadInput("prompt_len and gen_len must be given for this metric")
    longest = row.prompt_len_max or row.prompt_len
    lengths = (
        Fixed(tokens=longest)
        if longest == row.prompt_len
        else Spread(average=row.prompt_len, longest=longest)
    )
    workload = Workload(
        name=row.workload or "published",
        prompt_lengths=lengths,
        gen_len=row.gen_len,
        padded=bool(row.padded),
        source=row.source,
    )
    model = _model(row)
    return Scenario(model, load_hardware(row.hardware), workload, row.n_gpus, _routing(model))


def _routing(model: ModelSpec) -> Routing:
    """What is published of a model's routing; uniform where nothing is."""
    if not model.is_encoder_decoder:
        return Routing()
    return load_routing(model.name if model.name in routing_names() else ROUTING)


def schedule_of(row: PublishedRow) -> str:
    """The schedule of a row: GPU-only of Pre-gated MoE leaves the encoder's experts on the host."""
    pre_gated = row.source.startswith("Pre-gated")
    return "decoder-resident" if pre_gated and row.schedule == "gpu-only" else row.schedule


def _model(row: PublishedRow) -> ModelSpec:
    if row.dtype not in ("float16", "bfloat16", "float32"):
        raise BadInput(f"dtype '{row.dtype}' is not one of float16, bfloat16, float32")
    return load_model(row.model).model_copy(update={"dtype": row.dtype})


def policy_of(row: PublishedRow) -> dict[str, Any]:
    """The published policy; what is not published is left to the search.

    Facts about the runs that are the same for all rows of a system: FlexGen's port in MoE-Lightning
    copies from pageable memory, FlexGen itself page-locks its weights (its `pin_weight`), and both
    keep KV cache and hidden states on the CPU unless everything is on the GPU. A GPU-only run holds
    all weights, whatever the column says.
    """
    kind = find_schedule(schedule_of(row))
    policy: dict[str, Any] = {}
    if row.batch_size is not None:
        policy["N"] = row.batch_size
        policy["mu"] = row.micro_batch or row.batch_size
        if kind.one_batch:
            policy["mu"] = row.batch_size
    if "r_w" in kind.knobs:
        policy["r_w"] = row.weights_on_gpu or 0.0
    if "A_g" in kind.knobs and row.cpu_attention is not None:
        policy["A_g"] = int(not row.cpu_attention)
    if row.cache_policy:
        policy |= {"cache": row.cache_policy, "cache_ratio": row.cache_ratio or 0.0}
    if row.schedule in ("flexgen", "flexgen-cpu"):
        everything = row.weights_on_gpu == 1
        policy |= {"pinned": row.source.startswith("FlexGen"), "r_h": float(everything)}
        if "r_c" in kind.knobs:
            policy["r_c"] = float(everything)
    return policy


def moe_block_s(result: Result, bound: BoundTimes | None = None) -> float:
    """Mean latency of a decoder layer with an MoE FFN, attention included; `bound`: by its times.

    Raises `BadInput` when there is no decode step or no such layer.
    """
    if not result.generation.steps:
        raise BadInput("gen_len must be at least 2 for this metric: there is no decode step")
    found = result.movement.moe_block_s if bound is None else bound.moe_block_s
    if found is None:
        raise BadInput(f"model '{result.scenario.model.name}' has no MoE layer")
    return found


def operation_s(row: PublishedRow, ablation: Ablation = WHOLE) -> float:
    """Seconds of one operation of one layer and one micro-batch, timed on its own from the host."""
    hardware, model = ablation.hardware(load_hardware(row.hardware)), _model(row)
    if row.n_gpus > hardware.gpu.count:
        raise BadInput(f"n_gpus = {row.n_gpus}; '{row.hardware}' has {hardware.gpu.count}")
    size = row.micro_batch or row.batch_size
    if size is None:
        raise BadInput("micro_batch must be given for an operation")
    work = LayerWork(model, Routing(), ablation.kernels(Schedule.kernels), row.n_gpus)
    cost = Roofline(hardware, row.n_gpus)
    task = _operation(row, work, size)
    if ablation.seconds == "resources":
        return max(cost.limits(task))
    host = 0.0 if task.device == "cpu" else cost.issue_s + cost.sync_s
    return cost.seconds(task) + host


def _operation(row: PublishedRow, work: LayerWork, size: int) -> Work:
    layer = next((s for s in work.model.decoder_layers if s.is_moe), work.model.decoder_layers[0])
    if row.metric == "op_s:moe_ffn":
        return work.ffn(layer, size)
    if row.prompt_len is None:
        raise BadInput("prompt_len, the context in tokens, must be given for this operation")
    context = size * row.prompt_len
    if row.metric == "op_s:cpu_attention":
        return work.cpu_attention(layer, size, context)
    return work.copy("h2d", work.kv_bytes(layer, context))
