"""One process of a tensor-parallel run on CUDA: cuda_worker.py CHECKPOINT OUT.json BUDGET."""

import json
import sys
from pathlib import Path

from runtime.checkpoint import Checkpoint
from runtime.device import DeviceOptions
from runtime.distributed import process_group
from schedules.policy import make_policy
from tests.runtime.parallel_worker import CASES, GEN_LEN, PROMPTS
from tests.runtime.runs import run


def main() -> None:
    """Run every case; each rank writes the tokens."""
    source, options = Checkpoint(sys.argv[1]), DeviceOptions("cuda", int(sys.argv[3]), 1 << 32)
    with process_group("cuda") as (rank, world):
        found = {
            name: run(
                name, source, make_policy(policy), PROMPTS, GEN_LEN, options, rank=rank, world=world
            ).tokens
            for name, policy in CASES.items()
        }
        Path(f"{sys.argv[2]}.{rank}").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
