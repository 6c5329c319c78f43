"""The processes of a run on several GPUs: one for each, as torchrun starts them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from schedules.errors import BadInput, MoelabError

TIMEOUT = timedelta(minutes=10)  # a process that fails must not leave the others waiting for ever


@contextmanager
def process_group(device: str) -> Iterator[tuple[int, int]]:
    """Rank and number of the processes; (0, 1) unless torchrun has started several.

    NCCL on CUDA, where each process takes the GPU of its local rank; gloo on the CPU.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield 0, 1
        return
    if device == "cuda":
        local, there = _number("LOCAL_RANK"), torch.cuda.device_count()
        if local >= there:
            raise BadInput(f"{world} processes were started, but there are {there} CUDA devices")
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:  # variables that are missing, processes that are
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MoelabError(f"the {world} processes of WORLD_SIZE do not meet: {text}") from None
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int | None = None) -> int:
    """A variable that torchrun sets."""
    text = os.environ.get(name, "" if default is None else str(default))
    if not re.fullmatch("[0-9]{1,6}", text) or (name == "WORLD_SIZE" and not int(text)):
        raise BadInput(f"the variable {name} is '{text}'; start several processes with torchrun")
    return int(text)
