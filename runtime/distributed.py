"""The processes of a run on several GPUs: one for each, as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from schedules.errors import BadInput

TIMEOUT = timedelta(minutes=10)  # a process that fails must not leave the others waiting for ever


@contextmanager
def process_group(device: str) -> Iterator[tuple[int, int]]:
    """Rank and number of the processes; (0, 1) unless torchrun has started several.

    NCCL on CUDA, where each process takes the GPU of its local rank; gloo on the CPU.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    if device == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise BadInput(f"{world} processes were started, but there are {there} CUDA devices")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()
