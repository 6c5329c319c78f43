"""Small timelines and results whose numbers can be worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from schedules.timeline import COLUMNS, Timeline

STREAMS = ("host", "h2d", "gpu", "cpu")
STEP_S = 1.0
LAYER_S = 0.25
"""A decode step of the pipeline has 4 layers of 0.25 s, after 2 s of prefill."""


def make_timeline(rows: list[tuple[Any, ...]], name: str = "demo") -> Timeline:
    """Rows are (op, stream, layer, micro_batch, step, start_s, end_s[, flops, bytes, link])."""
    full = [(i, *row, *(0.0,) * (10 - len(row))) for i, row in enumerate(rows)]
    return Timeline(pd.DataFrame(full, columns=list(COLUMNS)), STREAMS, name)


def pipeline_rows(micro_batches: int, steps: int) -> list[tuple[Any, ...]]:
    """Each layer: one load for 80 % of its time, and a GPU and a CPU task per micro-batch."""
    rows: list[tuple[Any, ...]] = [("prefill", "gpu", -1, -1, 0, 0.0, 2.0, 8e12, 4e9, 0.0)]
    slot = LAYER_S / micro_batches
    for step in range(1, steps + 1):
        for layer in range(4):
            t = 2.0 + (step - 1) * STEP_S + layer * LAYER_S
            rows.append(("load", "h2d", layer, -1, step, t, t + 0.8 * LAYER_S, 0.0, 0.0, 2e9))
            for mb in range(micro_batches):
                a = t + mb * slot
                rows.append(("experts", "gpu", layer, mb, step, a, a + slot / 2, 1e12, 1e9, 0.0))
                rows.append(("attention", "cpu", layer, mb, step, a, a + slot, 1e9, 1e9, 0.0))
    return rows


@pytest.fixture
def make() -> Callable[..., Timeline]:
    return make_timeline


@pytest.fixture
def pipeline() -> Timeline:
    """Prefill and 5 decode steps of 4 layers and 4 micro-batches: 181 tasks."""
    return make_timeline(pipeline_rows(4, 5), "pipeline")


@pytest.fixture
def long_pipeline() -> Timeline:
    """Prefill and 40 decode steps of 4 layers and 10 micro-batches: 3361 tasks."""
    return make_timeline(pipeline_rows(10, 40), "long pipeline")


def make_result(name: str, speed: float, **busy: float) -> dict[str, Any]:
    """A result with a makespan of 100 s whose streams work for `busy` seconds."""
    busy = busy or {"h2d": 80.0, "gpu": 40.0, "cpu": 0.0}
    return {
        "schedule": name,
        "model": "tiny",
        "hardware": "box",
        "workload": "chat",
        "policy": {"N": 504, "mu": 36, "A_g": 0, "r_w": 0.05, "pinned": None},
        "feasible": True,
        "throughput_tok_s": speed,
        "prefill_s": 20.0,
        "decode_s": 80.0,
        "makespan_s": 100.0,
        "ttft_s": 20.0,
        "tpot_s": 1.25,
        "utilization": {stream: s / 100 for stream, s in busy.items()},
        "busy_s": busy,
        "idle_s": {stream: 100 - s for stream, s in busy.items()},
        "peak_memory_bytes": {"gpu": 13.1e9, "cpu": 100e9},
        "capacity_bytes": {"gpu": 15.8e9, "cpu": 192e9},
        "tasks": 1000,
        "lower_bound_s": 80.0,
        "bound_ratio": 1.25,
        "provenance": {
            "version": "0.1.0",
            "seed": 7,
            "presets": {"model": "tiny", "hardware": "box", "routing": {"kind": "uniform"}},
        },
    }


def make_misfit(name: str) -> dict[str, Any]:
    names = {"model": "tiny", "hardware": "box", "workload": "chat"}
    return {"schedule": name, **names, "feasible": False, "reason": "pool 'gpu' is too small"}


@pytest.fixture
def result() -> Callable[..., dict[str, Any]]:
    return make_result


@pytest.fixture
def misfit() -> Callable[..., dict[str, Any]]:
    return make_misfit


@pytest.fixture
def results() -> list[dict[str, Any]]:
    """Slow first, so that a table has to sort them; the last does not fit."""
    slow = make_result("slow", 20.0, h2d=90.0, gpu=10.0, cpu=0.0)
    return [slow, make_result("fast", 50.0), make_misfit("big")]


@pytest.fixture
def files_in(tmp_path: Path) -> Callable[[], list[str]]:
    """The names of everything in the temporary folder, hidden files included."""
    return lambda: sorted(path.name for path in tmp_path.iterdir())
