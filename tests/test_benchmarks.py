"""Benchmarks run once, small, so that they do not rot; what they measure is not checked here."""

import importlib.util
from pathlib import Path
from types import ModuleType

from sim.ablation_study import study
from sim.published import read_published
from sim.validate import check_row

PUBLISHED = (
    "moe-lightning/S6/zero-inference/32",
    "moe-lightning/figure9/moe_ffn/256",
    "pre-gated/peak_gpu_gb/switch-base-8/on-demand/b1",
)
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


def test_validation_page():
    page = load("validation_page")
    row = {"id": "x", "published": 2.0, "simulated": 3.0, "error": 0.5, "reason": None}
    missing = row | {"simulated": None, "error": None, "reason": "no such schedule"}
    assert page.rows([row, missing]).splitlines()[2:] == [
        "| x | 2 | 3 | +50.0% |",
        "| x | 2 |  | no such schedule |",
    ]
    few = [figure for figure in read_published() if figure.id in PUBLISHED]
    written = page.page([check_row(figure) for figure in few], study(few, []))
    assert "Of 3 figures 3 are simulated" in written
    assert "| `none` | the simulator as it is |" in written
    assert "{{" not in written


def test_validation_picture():
    """A point for each figure, operations in milliseconds, beside the band and the line."""
    few = [figure for figure in read_published() if figure.id in PUBLISHED]
    drawn = load("validation_picture").picture([check_row(figure) for figure in few])
    points = {trace.name: trace for trace in drawn.data if trace.mode == "markers"}
    assert sorted(points) == ["ZeRO-Inference", "on-demand", "operations (figure 9)"]
    assert points["operations (figure 9)"].x == (13.0,)
    assert len(drawn.data) == len(points) + 2 * 3


def test_routing():
    seconds = load("routing").seconds
    assert all(seconds(kind, 8, 2, 100_000) > 0 for kind in ("uniform", "zipf", "markov"))


def test_optimality(capsys):
    load("optimality").main(["zero-inference", "--hardware", "gcp-t4-24c", "--time-limit", "1"])
    (row,) = capsys.readouterr().out.splitlines()
    assert row.startswith("| gcp-t4-24c | zero-inference | 60 / 60 | 261.4 | 261.4 | 261.4 | h2d |")


def test_startup(capsys):
    load("startup").main(["--runs", "1", "--import-runs", "1"])
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert words[:4] == ["moelab", "wall", "processor", "imports"]
    assert "numpy" in words
