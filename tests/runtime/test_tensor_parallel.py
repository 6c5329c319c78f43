"""Tensor parallelism on processes that torchrun starts, with gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate
from tests.runtime.checkpoints import save_checkpoint
from tests.runtime.parallel_worker import CASES, GEN_LEN, PROMPTS

ROOT = Path(__file__).parents[2]
TWO_LAYERS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def torchrun(world, *arguments):
    """Start the worker `world` times; one thread each, as they share the cores."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize("world", [2, 4])
def test_tokens_are_those_of_one_process(world, family, tmp_path):
    """Heads and widths split over 2 and 4; with 4, two processes share each KV head."""
    if world == 4 and family == "qwen2_moe":
        pytest.skip("two processes show what the shared expert adds")
    folder = save_checkpoint(tmp_path / "model", family)
    out = tmp_path / "found"
    end = torchrun(world, ROOT / "tests/runtime/parallel_worker.py", folder, out)
    assert end.returncode == 0, end.stderr[-2000:]
    expected = plain_generate(Checkpoint(folder), PROMPTS, GEN_LEN)
    for rank in range(world):
        found = json.loads(Path(f"{out}.{rank}").read_text())
        for name in CASES:
            assert found[name]["tokens"] == expected
            own = {f"gpu{rank}", "peer"}
            assert own <= set(found[name]["streams"])
            others = {f"{s}{r}" for s in ("gpu", "h2d", "d2h") for r in range(world) if r != rank}
            assert not others & set(found[name]["streams"])
            assert sum(found[name]["graph"]) > found[name]["tasks"]
