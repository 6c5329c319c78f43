"""How far each throughput schedule is from the best order of its tasks, in the steady state.

    python benchmarks/optimality.py [--time-limit 60] [SCHEDULE ...]

Mixtral 8x7B on one T4 (batch 504, micro-batch 36; ZeRO-Inference and accelerate, which take one
batch, the best that fits) and on one L4 (each schedule's best policy). Prints the rows of the table
in docs/optimal.md.
"""

import argparse
from collections.abc import Sequence

from schedules.schedule import find_schedule
from sim.optimal.optimum import Optimum
from sim.optimal.question import optimal
from sim.optimal.solver import Limits
from sim.question import Question

SCHEDULES = ("cgopipe", "fastdecode", "flexgen", "flexgen-cpu", "zero-inference", "accelerate")
MACHINES = ("gcp-t4-24c", "gcp-l4-24c")
S1 = (504, 36)


def row(found: Optimum, hardware: str) -> str:
    """A row of a Markdown table: milliseconds per layer, gaps in per cent."""
    binds = max(found.bounds_s, key=lambda name: found.bounds_s[name])
    policy = found.policy
    cells = [
        hardware,
        found.schedule,
        f"{policy.N} / {policy.mu}",
        f"{1e3 * found.schedule_s:.1f}",
        f"{1e3 * found.best_s:.1f}",
        f"{1e3 * found.bound_s:.1f}",
        binds,
        f"{100 * found.gap:.1f}",
        f"{100 * found.bound_gap:.1f}",
        found.status,
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The optimality gap of the throughput schedules.")
    parser.add_argument("schedules", nargs="*", default=SCHEDULES)
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds, of each")
    parser.add_argument("--hardware", nargs="*", default=MACHINES)
    chosen = parser.parse_args(arguments)
    for hardware in chosen.hardware:
        for name in chosen.schedules:
            fixed = hardware == "gcp-t4-24c" and not find_schedule(name).one_batch
            batch, micro_batch = S1 if fixed else (None, None)
            found = optimal(
                name,
                Question("mixtral-8x7b", hardware, "mtbench", None, batch, micro_batch),
                periodic=True,
                limits=Limits(chosen.time_limit),
            )
            print(row(found, hardware), flush=True)


if __name__ == "__main__":
    main()
