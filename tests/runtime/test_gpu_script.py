"""The GPU check runs on the CPU with tiny sizes, so that it does not rot; speeds do not count."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from schedules.schedule import runnable
from schedules.timeline import COLUMNS

ROOT = Path(__file__).parents[2]
FILES = {"results.json", "tests.txt", "timelines.parquet", "trace.json.gz", "log.txt"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Everything that one trial run leaves."""
    folder = tmp_path_factory.mktemp("out") / "results"
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--smoke", "--limit-s=500"]
    environment = os.environ | {"OUT": str(folder), "PYTHONPATH": str(ROOT)}
    end = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    log = folder / "log.txt"
    assert end.returncode == 0, end.stdout + end.stderr + (log.read_text() if log.exists() else "")
    return folder


@pytest.mark.slow
def test_it_leaves_few_small_files(out):
    assert {path.name for path in out.iterdir()} == FILES
    assert all(re.fullmatch(r"[\w.-]+", name) for name in FILES)
    assert all(path.stat().st_size < 16 << 20 for path in out.iterdir())


@pytest.mark.slow
def test_every_stage_has_run(out):
    found = json.loads((out / "results.json").read_text())
    stages = {stage["stage"]: stage["status"] for stage in found["stages"]}
    assert stages == dict.fromkeys(("tests", "micro", "schedules"), "done")
    assert found["tests"]["skipped"] > 0
    assert {"pin", "host read", "cpu attention", "gemm", "experts"} <= {
        row["what"] for row in found["micro"]
    }
    assert all(row["s"] > 0 for row in found["micro"])
    assert found["provenance"]["environment"]["device"]


@pytest.mark.slow
def test_every_schedule_has_run_with_the_same_tokens(out):
    found = json.loads((out / "results.json").read_text())
    rows = [row for row in found["schedules"] if "tokens_per_s" in row]
    missing = [row["system"] for row in found["schedules"] if "infeasible" in row]
    same = {name for name, kind in runnable().items() if kind.change is None}
    asked = {"transformers", *same} - {"decoder-resident"}
    assert {row["system"] for row in rows} == asked - set(missing)
    assert set(missing) <= {"gpu-only"}
    assert all(row["same_tokens"] == 1 for row in rows)
    own = [row for row in rows if row["bound_s"] is not None]
    assert all(0 < row["bound_share"] <= 1 for row in own)
    assert all(row["peak_bytes"] <= row["budget_bytes"] for row in own)
    assert {goal["memory"] for goal in found["goals"]} == {"pageable", "page-locked"}
    frame = pd.read_parquet(out / "timelines.parquet")
    assert set(COLUMNS) < set(frame)
    assert set(frame["schedule"]) == {row["system"] for row in own}


def test_without_a_gpu_it_says_so():
    end = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert end.returncode == 2
    assert "--smoke" in end.stdout
