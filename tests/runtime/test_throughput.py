"""The runtime's benchmark runs, tiny; what it measures is not checked, what it generates is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from schedules.schedule import runnable

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_systems_yield_the_same_tokens(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/throughput.py"), "--size=tiny", "--rounds=1"]
    end = subprocess.run(
        [*command, "--pairs=1", f"--json={tmp_path / 'found.json'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert end.returncode == 0, end.stderr
    assert "the same greedy tokens in all systems: yes" in end.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["missing"]) == {"gpu-only", "decoder-resident"}
    same = [name for name, kind in runnable().items() if kind.change is None]
    names = {"transformers (resident)", "accelerate (Hugging Face)", *same} - {*found["missing"]}
    assert found["same_tokens"] == dict.fromkeys(names, True)
    for row in found["systems"]:
        assert row["tokens_per_s"] > 0
        if row["peak_bytes"]:
            assert row["predicted_bytes"] <= row["peak_bytes"] <= 2_200_000
            assert 0 < row["bound_share"] <= 1
    assert found["recording"]["ratio"] > 0
