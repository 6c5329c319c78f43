"""moelab run under torchrun: one process per GPU, one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.journal import read_journal
from tests.moelab.runs import HERE, RESULTS, UNFINISHED, files, lines, result, write_prompts

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0


def torchrun(*words):
    """Two processes; one thread each, as they share the cores."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, "--nproc-per-node", "2", "-m", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def words(model, tmp_path):
    """Three batches."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    asked = ["--checkpoint", model, "--prompts", prompts, "--gen-len", 4, "--ignore-eos"]
    return ["run", "cgopipe", *map(str, asked), "-N", "2", *HERE.split(), "--out"]


@pytest.mark.slow
def test_a_process_that_dies_and_the_run_that_goes_on(cli, words):
    """The other process ends with a sentence; resumed, the tokens are those of one process."""
    end = torchrun("tests.moelab.mortal_run", f"out/{UNFINISHED}", *words, "out")
    assert end.returncode != 0
    said = [line for line in end.stderr.splitlines() if line.startswith("moelab")]
    sentence = (
        "moelab (rank 0): task 'all_reduce' (layer 0, step 2) failed: the connection to another "
        "process of the run is lost; its own message says why"
    )
    assert said in ([sentence], [])  # none where torchrun was faster and ended it
    assert files("out") - {"run.lock"} == {UNFINISHED, "parts"}
    assert {s.index for s in read_journal(Path("out", UNFINISHED))[1]} == {0, 1}

    alone = cli(*words, "out", "--resume")  # removes the lock of a process that was ended
    assert alone.code == 2
    assert "holds a run of another question (n_gpus was 2, now it is 1)" in alone.err

    end = torchrun("moelab", *words, "out", "--resume")
    assert end.returncode == 0, end.stderr
    assert end.stdout.count("Written: ") == 1  # by one process
    assert files("out") == RESULTS
    assert cli(*words, "alone").code == 0
    assert lines("out") == lines("alone")
    found = result("out")
    assert found["provenance"]["presets"]["n_gpus"] == 2
    assert {"gpu0", "gpu1"} <= found["peak_memory_bytes"].keys()
    assert found["measured"]["measured_sequences"] == 5
