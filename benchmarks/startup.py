"""How long `moelab simulate` takes as a whole process, and what of it goes into imports.

    python benchmarks/startup.py --runs 15

Setting 1 of MoE-Lightning (arXiv 2411.11217, table 2): Mixtral 8x7B on one T4, 504 sequences, 128
tokens. Processor time is of the process with its children; wall time is of use on an idle machine
only. Imports are timed in runs of their own (`python -X importtime`, which slows them a little);
the share of a package is what its own modules took, without those that they import in turn.
"""

import argparse
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

WORDS = "simulate cgopipe -m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 128 -N 504 -u 36"
COMMAND = (sys.executable, "-m", "moelab", *WORDS.split())
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*([^.\s]+)")
LEAST_S = 0.003  # a package that takes less is not shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command again and again, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="runs of the process")
    parser.add_argument("--import-runs", type=int, default=5, help="runs with imports timed")
    asked = parser.parse_args(arguments)
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)  # kernels are compiled, once
    print(f"moelab {WORDS}")
    show_times([process_s(COMMAND) for _ in range(asked.runs)])
    show_imports([imports_s() for _ in range(asked.import_runs)])


def process_s(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor (user and system) seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, processor_s


def imports_s() -> Counter[str]:
    """Seconds that the modules of each top-level package take, without those they import."""
    command = [COMMAND[0], "-X", "importtime", *COMMAND[1:]]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Counter[str] = Counter()
    for microseconds, package in IMPORT.findall(run.stderr):
        found[package] += int(microseconds) / 1e6
    return found


def show_times(runs: Sequence[tuple[float, float]]) -> None:
    for name, values in zip(("wall", "processor"), zip(*runs, strict=True), strict=True):
        print(f"{name:9} min {min(values):.3f} s, median {median(values):.3f} s")


def show_imports(runs: Sequence[Counter[str]]) -> None:
    print(f"imports   median {median(sum(run.values()) for run in runs):.3f} s, of which")
    medians = {name: median(run[name] for run in runs) for name in set().union(*runs)}
    for name, value in sorted(medians.items(), key=lambda item: -item[1]):
        if value >= LEAST_S:
            print(f"  {name:18} {value:.3f} s")


if __name__ == "__main__":
    main()
