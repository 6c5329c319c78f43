"""One process of a tensor-parallel run, started by torchrun: worker.py CHECKPOINT OUT.json."""

import json
import sys
from pathlib import Path

from runtime.checkpoint import Checkpoint
from runtime.distributed import process_group
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts
from tests.runtime.runs import run

PROMPTS = random_prompts([5, 3, 9, 1, 7])
GEN_LEN = 4
CASES = {
    "cgopipe": {"N": 5, "mu": 2, "r_w": 0.3},
    "fastdecode": {"N": 5, "mu": 3},
    "gpu-only": {"N": 5, "mu": 5},
}


def main() -> None:
    """Run every case; rank 0 writes the tokens, each rank's tasks and their structure."""
    source = Checkpoint(sys.argv[1])
    found = {}
    with process_group("cpu") as (rank, world):
        for name, policy in CASES.items():
            done = run(name, source, make_policy(policy), PROMPTS, GEN_LEN, rank=rank, world=world)
            found[name] = {
                "tokens": done.tokens,
                "streams": sorted(done.timeline.frame["stream"].unique()),
                "tasks": len(done.timeline),
                "graph": [len(graph) for graph in done.graphs],
            }
        Path(f"{sys.argv[2]}.{rank}").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
