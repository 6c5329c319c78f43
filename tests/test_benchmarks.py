"""Benchmarks run once, small, so that they do not rot; what they measure is not checked here."""

import importlib.util
from pathlib import Path
from types import ModuleType

from sim.published import read_published

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_engine():
    measured = load("engine").measure("zero-inference", repeats=1)
    assert measured["tasks"] == 3 * 32  # for each layer a copy, a gather, a computation
    assert all(value > 0 for value in measured.values())


def test_validation_table():
    table = load("validation_table")
    row = {"id": "x", "published": 2.0, "simulated": 3.0, "error": 0.5, "reason": None}
    missing = row | {"simulated": None, "error": None, "reason": "no such schedule"}
    assert table.rows([row, missing]).splitlines()[2:] == [
        "| x | 2 | 3 | +50.0% |",
        "| x | 2 |  | no such schedule |",
    ]
    wanted = {row.id: table.wanted(row) for row in read_published()}
    assert wanted["flexgen/opt-30b/256"]
    assert wanted["moe-lightning/figure9/moe_ffn/32"]
    assert wanted["pre-gated/moe_block_ms/switch-base-8/on-demand/b1"]
    assert not wanted["pre-gated/moe_block_ms/switch-base-8/prefetch-all/b1"]
    assert not wanted["pre-gated/cache/lru/0.01/on-demand"]
