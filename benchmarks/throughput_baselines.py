"""What `throughput.py` times: a system, and the baselines, as such."""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hugging_face import offloaded, offloaded_behind_link
from hugging_face import run_transformers as generate
from systems import Prompts, Timed, free_memory
from throughput_model import Size
from transformers import AutoModelForCausalLM

from runtime.device import DeviceOptions

LIBRARY = "accelerate (Hugging Face)"
RESIDENT_SHARE = 0.5  # of the budget that accelerate may fill with weights; the rest computes


@dataclass
class System:
    """Something that generates, and all its rounds.

    Parameters
    ----------
    batch, micro_batch: N and mu. note: what else its policy says.
    run: one round.
    """

    name: str
    batch: int
    micro_batch: int
    note: str
    run: Callable[[], Timed]
    rounds: list[Timed] = field(default_factory=list)

    def median(self, value: Callable[[Timed], float | None]) -> float | None:
        """Over the rounds; None where there is no value."""
        values = [v for v in map(value, self.rounds) if v is not None]
        return statistics.median(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        rates = [r.tokens_per_s for r in self.rounds]
        last = self.rounds[-1]
        return {
            "name": self.name,
            "N": self.batch,
            "mu": self.micro_batch,
            "policy": self.note,
            "tokens_per_s": statistics.median(rates),
            "tokens_per_s_min": min(rates),
            "tokens_per_s_max": max(rates),
            "decode_tokens_per_s": self.median(lambda r: r.decode_tokens_per_s),
            "prefill_s": self.median(lambda r: r.prefill_s),
            "bound_share": self.median(lambda r: _ratio(r.bound_s, r.makespan_s)),
            "simulated_share": self.median(lambda r: _ratio(r.simulated_s, r.makespan_s)),
            "peak_bytes": last.peak_bytes,
            "predicted_bytes": last.predicted_bytes,
            "issue_s_per_task": self.median(lambda r: r.issue_s),
            "rounds": rates,
        }


def _ratio(value: float | None, of: float) -> float | None:
    return None if value is None else value / of


def load(folder: Path, size: Size) -> Any:
    """The checkpoint in transformers, with its fastest attention."""
    kind = getattr(torch, size.dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="sdpa")
    return model.eval()


def transformers_system(
    folder: Path, size: Size, options: DeviceOptions, prompts: Prompts
) -> System:
    """transformers with all weights resident, outside any budget."""
    model = load(folder, size)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def run() -> Timed:
        free_memory()
        if options.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
            model.cuda()
        with computing_with(cores):
            try:
                return generate(model, prompts, size.gen_len, len(prompts), options.device)
            finally:
                if options.device == "cuda":
                    model.cpu()

    return System("transformers (resident)", len(prompts), len(prompts), "", run)


def accelerate_system(folder: Path, size: Size, options: DeviceOptions, prompts: Prompts) -> System:
    """accelerate's offload within the budget; the batch is halved until it fits."""
    resident = int(options.gpu_memory_bytes * RESIDENT_SHARE)
    model = offloaded(load(folder, size), resident)

    def run() -> Timed:
        free_memory()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.gpu_memory_bytes / total))
        torch.cuda.reset_peak_memory_stats()
        while True:
            free_memory()
            try:
                return generate(model, prompts, size.gen_len, system.batch, "cuda")
            except torch.OutOfMemoryError:
                if system.batch == 1:
                    raise
                system.batch = system.micro_batch = -(-system.batch // 2)

    system = System(LIBRARY, len(prompts), len(prompts), "max_memory", run)
    return system


def paced_accelerate_system(
    folder: Path, size: Size, options: DeviceOptions, prompts: Prompts, batch: int
) -> System:
    """accelerate's offload behind the link of a host device, all weights on its far side."""
    model = offloaded_behind_link(load(folder, size), size.link_bytes_per_s)

    def run() -> Timed:
        with computing_with(options.threads[0]):
            return generate(model, prompts, size.gen_len, batch, "cpu")

    return System(LIBRARY, batch, batch, "", run)


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """PyTorch has so many threads for an operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
