"""The recorded routing that ships, and the page with the figures of the same runs."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from runtime.training.laboratory import PLANS, run_plan
from schedules.routing_recorded import recording

ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "schedules" / "presets" / "routing" / "recorded"
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """benchmarks/training.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("training", ROOT / "benchmarks" / "training.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["top-1", "top-2"])
def test_files_hold_what_their_names_say(name: str) -> None:
    plan = PLANS["small"]
    sizes = plan.models[name]
    path = RECORDED / f"pydoc-{sizes.experts}-experts-{name}.parquet"
    assert path.stat().st_size < MOST_BYTES
    found = recording(str(path))
    found.check(sizes.experts, sizes.top_k)
    found.check_layers(range(sizes.layers), prompts=True, needed_for="the model")
    found.check_layers(range(sizes.layers), prompts=False, needed_for="the model")
    half = sizes.context // 2
    assert found.of(True).lengths.tolist() == [half] * plan.requests
    assert found.of(False).lengths.tolist() == [half] * plan.requests


def test_the_page_has_a_row_for_every_figure(script: ModuleType) -> None:
    figures = run_plan("tiny", 0)[0]
    text = script.page([figures] * 3)
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == ["top-1", "top-2"]
    for model in figures["models"].values():
        value = f"{model['loss']['trained']:.3f}"
        assert f"| **trained: the original** | {value} ({value} to {value}) |" in text
        for tuned in model["pre_gates"][1:]:
            row = f"| pre-gates, level {tuned['level']}, fine-tuned | {tuned['after']:.3f} "
            assert row in text
        shares = " | ".join(f"{share:.0%}" for share in model["look_ahead"]["2"])
        assert f"| look-ahead from 2 before |  |  | {shares} |" in text
    written = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split(script.MARK)[1]
    titles = re.compile(r"^\| ([^|]+) \|", re.MULTILINE)
    assert [t for t in titles.findall(written) if "look-ahead" in t]
    assert titles.findall(written)[:5] == titles.findall(text)[:5]


def test_spread_is_mean_and_range(script: ModuleType) -> None:
    assert script.spread([1.0, 2.0, 6.0], "{:.1f}") == "3.0 (1.0 to 6.0)"
    assert script.layer_row("x", [[None, 0.2], [None, 0.4]], "{:.0%}") == "| x |  | 30% |"
