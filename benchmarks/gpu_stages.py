"""The stages of `gpu.py` that run in processes of their own, and write rows as they come."""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from gpu_kernels import KERNELS
from gpu_kernels import LATER as LATER_KERNELS
from gpu_links import LATER, LINKS
from gpu_rows import read_rows
from gpu_timing import Machine

from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.validated import validated

BUDGETS_GIB = (16.0, 8.0, 24.0)  # the most important first
SMOKE_MB, SMOKE_LAYERS = (2.6,), 3

Write = Callable[[Mapping[str, Any]], None]


def child(asked: argparse.Namespace) -> int:
    """One stage; rows go to its journal as soon as they are there."""
    deadline = time.monotonic() + asked.limit_s
    if asked.smoke:
        torch.set_num_threads(1)
    path = asked.out / f"part-{asked.stage}.jsonl"
    with path.open("a", encoding="utf-8") as file:

        def write(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            print({k: v for k, v in row.items() if k not in ("step_s", "busy_s")}, flush=True)

        if asked.stage == "micro":
            return micro_stage(asked, write, deadline)
        return schedules_stage(asked, write, deadline, path)


def micro_stage(asked: argparse.Namespace, write: Write, deadline: float) -> int:
    """All micro-benchmarks; one that fails is a row with its error."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    small = {"scale": 64, "repeats": 2} if asked.smoke else {}
    device = "cpu" if asked.smoke else "cuda"
    dtype = torch.float32 if asked.smoke else getattr(torch, asked.dtype)
    machine, failed = Machine(device, dtype, cores, **small), 0
    for measure in (*LINKS, *KERNELS, *LATER, *LATER_KERNELS):
        if time.monotonic() > deadline:
            write({"what": measure.__name__, "skipped": "no time left"})
            continue
        try:
            for row in measure(machine):
                write(row)
        except Exception:
            write({"what": measure.__name__, "error": traceback.format_exc()})
            failed = 1
        if machine.cuda:
            with suppress(RuntimeError):
                torch.cuda.empty_cache()
    return failed


def schedules_stage(
    asked: argparse.Namespace,
    write: Write,
    deadline: float,
    path: Path,
) -> int:
    """All systems at all budgets."""
    from gpu_schedules import Runs, Setup
    from transformers.utils import logging

    logging.set_verbosity_error()
    begun = frozenset(row["begun"] for row in read_rows(path) if "begun" in row)
    host = int((asked.host_memory or host_memory_bytes() * 0.75 / 2**30) * 2**30)
    spec = model(asked, host)
    if asked.smoke:
        budgets = tuple(int(size * 1e6) for size in SMOKE_MB)
        setup = Setup("cpu", spec, 8, 6, 3, 2, budgets, host, deadline)
    else:
        budgets = tuple(int(size * 2**30) for size in BUDGETS_GIB)
        setup = Setup("cuda", spec, asked.prompts, 128, asked.gen_len, 8, budgets, host, deadline)
    write({"layers": spec.n_layers, "host_bytes": host, "setup": str(setup)})
    Runs(setup, asked.out, write, begun).all()
    return 0


def model(asked: argparse.Namespace, host_bytes: int) -> Any:
    """As many layers of Mixtral 8x7B as fit in host memory twice: ours, and accelerate's."""
    spec = load_model("mixtral-8x7b")
    changes: dict[str, Any] = {"dtype": "float32" if asked.smoke else asked.dtype}
    if asked.smoke:
        changes |= {"hidden_size": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
        changes |= {"expert_ffn_size": 96, "vocab_size": 160, "published_parameters": None}
        asked.layers = min(asked.layers, SMOKE_LAYERS)
    spec = validated(ModelSpec, dict(spec) | changes, spec.name)
    one = spec.with_layers(1).parameters
    layer = spec.with_layers(2).parameters - one
    room = host_bytes / 2 / spec.bytes_per_parameter - (one - layer)
    return spec.with_layers(max(1, min(asked.layers, int(room / layer))))


def host_memory_bytes() -> int:
    """Of the machine, or what this container may use of it."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)
