"""Benchmarks run once, small, so that they do not rot; what they measure is not checked here."""

import importlib.util
from pathlib import Path
from types import ModuleType

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
