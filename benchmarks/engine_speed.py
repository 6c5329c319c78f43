"""Tasks per second of the engines, beside C loops over the same arrays.

Run `python -m benchmarks.engine_speed [--rounds 7] [--plot FILE.html]`. Every round runs each
contender once, in turn, so that a busy moment of the machine meets all of them; medians are
printed, with ratios to SimPy and to the branchless C loop. Needs a C compiler (`cc`).
"""

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.random_graph import random_graph
from schedules.graph import TaskGraph
from sim import batch, compiled, engine, kernels
from sim.padded import pad
from sim.sharing import Sharing

TASKS = 200_000
SCENARIOS = 64
SIMPY_TASKS = 20_000  # of which it does some hundred thousand a second
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
Contender = tuple[Callable[[], object], float]  # what runs, and how many tasks (x scenarios) it is


def c_loops(graph: TaskGraph, duration: np.ndarray) -> Mapping[str, Contender]:
    """The C loops over arrays of 32-bit numbers, compiled with -O3."""
    folder = Path(tempfile.mkdtemp())
    library = folder / "loop.so"
    source = Path(__file__).with_name("loop.c")
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    loops = ctypes.CDLL(str(library))
    n, small = len(graph), {"dtype": np.int32}
    stream, offsets = graph.stream.astype(**small), graph.offsets.astype(**small)
    flat, end, free = graph.dependencies.astype(**small), np.zeros(n + 1), np.zeros(8)
    before, first, second = padded(graph)

    def at(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def csr() -> None:
        loops.csr(ctypes.c_long(n), *map(at, (stream, offsets, flat, duration, free, end)))

    def branchless() -> None:
        loops.padded(ctypes.c_long(n), *map(at, (before, first, second, duration, end)))

    return {"C, CSR": (csr, n), "C, padded, no branches": (branchless, n)}


def padded(graph: TaskGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The task before on the stream, the first dependency and the last; one up, 0 for none."""
    n = len(graph)
    before, last = np.zeros(n, np.int32), dict[int, int]()
    for i, stream in enumerate(graph.stream.tolist()):
        before[i] = last.get(stream, -1) + 1
        last[stream] = i
    has = np.diff(graph.offsets) > 0
    first, second = np.zeros(n, np.int32), np.zeros(n, np.int32)
    first[has] = graph.dependencies[graph.offsets[:-1][has]] + 1
    second[has] = graph.dependencies[graph.offsets[1:][has] - 1] + 1
    return before, first, second


def contenders(n: int = TASKS) -> dict[str, Contender]:
    """What is compared, by name."""
    graph, rng = random_graph(n), np.random.default_rng(1)
    duration, issue = rng.random(n), np.zeros(n)
    little = random_graph(SIMPY_TASKS)
    plan, start, end, issuing = compiled.plan(graph), np.empty(n), np.empty(n), np.zeros(1)
    padding, longer = pad(graph), np.empty(n + 1)
    demand = rng.random((n, 2)) * np.array([1.0, 0.5])
    sharing = Sharing(("dram", "link"), np.array([2.0, 1.0]), demand)
    seconds = rng.random((SCENARIOS, len(graph.works)))
    return {
        "SimPy": (lambda: engine.simulate_graph(little, duration[:SIMPY_TASKS]), SIMPY_TASKS),
        "compiled, loop alone": (
            lambda: kernels.one_pass(plan, duration, issue, 0.0, start, end, issuing),
            n,
        ),
        "compiled, laid out": (
            lambda: kernels.padded_pass(padding, duration, issue, 0.0, start, longer, issuing),
            n,
        ),
        "compiled, from the graph": (lambda: compiled.simulate_graph(graph, duration), n),
        "compiled, contention": (
            lambda: compiled.simulate_graph(graph, duration, sharing=sharing),
            n,
        ),
        f"batch of {SCENARIOS}": (lambda: batch.makespans(graph, seconds), n * SCENARIOS),
        **c_loops(graph, duration),
    }


def rates(found: Mapping[str, Contender], rounds: int) -> dict[str, float]:
    """Tasks per second, medians of rounds in which each contender runs once."""
    for action, _ in found.values():
        action()  # compiles, and warms the caches
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (action, _) in found.items():
            begin = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - begin)
    return {name: found[name][1] / statistics.median(times) for name, times in seconds.items()}


def scaling(rounds: int) -> dict[int, float]:
    """Seconds of the compiled engine by number of tasks, the graph's arrays at hand."""
    found = {}
    for n in SIZES:
        graph = random_graph(n)
        duration, issue = np.random.default_rng(1).random(n), np.zeros(n)
        padding, start, end, issuing = pad(graph), np.empty(n), np.empty(n + 1), np.zeros(1)
        times = []
        for _ in range(rounds):
            begin = time.perf_counter()
            kernels.padded_pass(padding, duration, issue, 0.0, start, end, issuing)
            times.append(time.perf_counter() - begin)
        found[n] = statistics.median(times)
    return found


def plot(found: Mapping[int, float], path: Path) -> None:
    """Seconds over tasks, both logarithmic, beside a line through the largest."""
    import plotly.graph_objects as go

    sizes, seconds = list(found), list(found.values())
    figure = go.Figure()
    figure.add_scatter(x=sizes, y=seconds, mode="lines+markers", name="compiled engine")
    linear = [seconds[-1] * n / sizes[-1] for n in sizes]
    figure.add_scatter(x=sizes, y=linear, mode="lines", name="linear", line={"dash": "dot"})
    figure.update_layout(template="simple_white", width=640, height=360, margin={"t": 16})
    figure.update_xaxes(type="log", title="tasks")
    figure.update_yaxes(type="log", title="seconds")
    figure.write_html(path, config={"displayModeBar": False})


def main() -> None:
    """Print the table; write the plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    found = rates(contenders(), asked.rounds)
    simpy, branchless = found["SimPy"], found["C, padded, no branches"]
    print(f"{'':26} {'M tasks/s':>10} {'x SimPy':>9} {'x C':>6}")
    for name, rate in found.items():
        print(f"{name:26} {rate / 1e6:10.2f} {rate / simpy:9.0f} {rate / branchless:6.2f}")
    sizes = scaling(asked.rounds)
    for n, seconds in sizes.items():
        print(f"{n:>10,} tasks: {seconds * 1e3:9.3f} ms, {seconds / n * 1e9:6.2f} ns a task")
    if asked.plot is not None:
        plot(sizes, asked.plot)


if __name__ == "__main__":
    main()
