"""Decode attention on the CPU against plain reading of the same memory, and against PyTorch.

Run `python benchmarks/cpu_attention.py [--json FILE]`; `--help` lists what can be chosen. It prints
GB/s of keys and values, medians of repetitions in turns; the ratio is the median of the
repetitions' ratios. Timings vary with the machine and its load, so compare figures of one run only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from runtime.calibration.reading import plain_reading
from runtime.cpu_attention import decode_attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def in_pytorch(
    q: Tensor, keys: Tensor, values: Tensor, context: int, threads: int
) -> Callable[[], None]:
    """PyTorch's attention at its best: the heads of a group stand as queries of their KV head."""
    n, _, d = q.shape
    grouped = q.view(n, keys.shape[1], -1, d)
    k, v = (cached.view(n, context, -1, d).transpose(1, 2) for cached in (keys, values))

    def attend() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        scaled_dot_product_attention(grouped, k, v)
        torch.set_num_threads(before)

    return attend


def actions(
    dtype: str, heads: tuple[int, int, int], context: int, threads: int, n_bytes: float
) -> tuple[dict[str, Callable[[], object]], int]:
    """What is compared, by name, and the bytes of keys and values that each reads."""
    n_heads, kv_heads, d = heads
    kind = DTYPES[dtype]
    n = max(1, round(n_bytes / (2 * context * kv_heads * d * kind.itemsize)))
    torch.manual_seed(0)
    keys, values = (torch.empty(n * context, kv_heads, d, dtype=kind).uniform_() for _ in "kv")
    q = torch.randn(n, n_heads, d).to(kind)
    out = torch.empty_like(q)
    offsets, contexts = torch.arange(n) * context, torch.full((n,), context)
    compared = {
        "reading": plain_reading((keys, values), threads),
        "kernel": lambda: decode_attention(q, keys, values, offsets, contexts, out, threads),
        "torch": in_pytorch(q, keys, values, context, threads),
    }
    return compared, 2 * keys.nbytes


def measure(
    dtype: str,
    heads: tuple[int, int, int],
    context: int,
    threads: int,
    repeats: int,
    n_bytes: float = 256e6,
) -> dict[str, float]:
    """Medians of GB/s, and of the kernel's ratio to plain reading."""
    compared, read_bytes = actions(dtype, heads, context, threads, n_bytes)
    speeds: dict[str, list[float]] = {name: [] for name in compared}
    for names in (("reading", "kernel"), ("torch",)):  # PyTorch's threads spin for a while
        for repeat in range(repeats + 1):
            for name in names:
                start = time.perf_counter()
                compared[name]()
                if repeat:  # the first one compiles
                    speeds[name].append(read_bytes / (time.perf_counter() - start) / 1e9)
    ratios = [a / b for a, b in zip(speeds["kernel"], speeds["reading"], strict=True)]
    medians = {f"{name}_gb_per_s": statistics.median(s) for name, s in speeds.items()}
    return medians | {"ratio": statistics.median(ratios)}


def parse() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", default="32/8/128", help="heads/KV heads/head width")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser.parse_args()


def main() -> None:
    """Print one line per dtype, number of threads and context."""
    asked = parse()
    n_heads, kv_heads, d = (int(part) for part in asked.heads.split("/"))
    print(f"{n_heads} heads over {kv_heads} KV heads of {d}, GB/s of keys and values")
    print(f"{'dtype':9} {'threads':>7} {'context':>7}   reading  kernel  ratio   torch")
    rows = []
    for dtype in asked.dtypes:
        for threads in asked.threads:
            for context in asked.contexts:
                m = measure(dtype, (n_heads, kv_heads, d), context, threads, asked.repeats)
                rows.append({"dtype": dtype, "threads": threads, "context": context} | m)
                print(
                    f"{dtype:9} {threads:7} {context:7} {m['reading_gb_per_s']:9.2f} "
                    f"{m['kernel_gb_per_s']:7.2f} {m['ratio']:6.2f} {m['torch_gb_per_s']:7.2f}",
                    flush=True,
                )
    if asked.json:
        asked.json.write_text(json.dumps({"heads": asked.heads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
