"""How fast tasks are issued, priced and simulated, per task, and a whole generation.

Run `python benchmarks/engine.py [REPEATS]`; it prints medians. Timings vary with the machine and
its load, so compare figures of one run only.
"""

import statistics
import sys
import time
from collections.abc import Callable

from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim.api import Question, run
from sim.cost import Roofline, price
from sim.engine import simulate_graph
from sim.scenario import place

POLICIES = {
    "cgopipe": {"N": 504, "mu": 36},
    "flexgen": {"N": 1280, "mu": 32, "pinned": False},
    "zero-inference": {"N": 60, "mu": 60},
}


def seconds(action: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(name: str, repeats: int) -> dict[str, float]:
    """Medians for one schedule at S1: microseconds a task for each stage, seconds in all."""
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "mtbench", 128).scenario()
    kind, policy = find_schedule(name), make_policy(POLICIES[name])
    schedule = place(scenario, kind, policy)
    cost = Roofline(scenario.hardware)
    schedule.run_prefill()
    schedule.node.issuer.take()
    samples: dict[str, list[float]] = {"issue_us": [], "price_us": [], "simulate_us": []}
    for step in range(1, repeats + 1):
        issue = seconds(lambda s=step: schedule.run_decode_step(s))
        graph = schedule.node.issuer.take()
        pricing = seconds(lambda g=graph: price(g, cost))
        durations, issuing = price(graph, cost)
        engine = seconds(
            lambda g=graph, d=durations, i=issuing: simulate_graph(g, d, i, cost.sync_s)
        )
        for key, value in zip(samples, (issue, pricing, engine), strict=True):
            samples[key].append(value / len(graph) * 1e6)
    whole = [seconds(lambda: run(scenario, kind, policy)) for _ in range(repeats)]
    medians = {key: statistics.median(values) for key, values in samples.items()}
    return {"tasks": len(graph)} | medians | {"generation_s": statistics.median(whole)}


def main(repeats: int = 5) -> None:
    """Print one line per schedule."""
    print(
        f"{'schedule':15} {'tasks':>8} {'issue':>8} {'price':>8} {'simulate':>9} {'generation':>11}"
    )
    print(f"{'':15} {'a step':>8} {'us/task':>8} {'us/task':>8} {'us/task':>9} {'s':>11}")
    for name in POLICIES:
        m = measure(name, repeats)
        print(
            f"{name:15} {m['tasks']:8,} {m['issue_us']:8.2f} {m['price_us']:8.2f} "
            f"{m['simulate_us']:9.2f} {m['generation_s']:11.3f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
