"""Small programs to be ordered, and an independent judge of orders."""

from collections.abc import Callable, Sequence

import numpy as np

from schedules.task import Work
from sim.optimal.flow import AccessIssuer, flow
from sim.optimal.problem import NO_TASK, Problem, window

STREAMS = ("host", "h2d", "gpu", "d2h")
COPY = Work(device="link", link_bytes={"h2d": 1.0})
COMPUTE = Work(device="gpu", flops={"gemm": 1.0})


def issuer() -> AccessIssuer:
    return AccessIssuer(STREAMS, {"gpu": 100, "cpu": 1000})


def problem_of(program: Callable[[AccessIssuer], Sequence[float]]) -> Problem:
    """What the program issues; it returns the seconds of each task."""
    made = issuer()
    seconds = np.array(program(made), dtype=np.float64)
    made.barrier()
    graph = made.take()
    return window(graph, seconds, flow(made.accesses), 0)


def jobs(times: Sequence[tuple[float, float]], slots: int) -> Callable:
    """Each job is brought into one of the slots and then computed with."""

    def program(made: AccessIssuer) -> list[float]:
        home = made.buffer("home", "cpu", 90)
        places = [made.buffer(f"slot[{i}]", "gpu", 10) for i in range(slots)]
        for i, _ in enumerate(times):
            slot = places[i % slots]
            made.task("load", "h2d", [home], [slot], COPY, layer=0, micro_batch=i)
            made.task("compute", "gpu", [slot], [], COMPUTE, layer=0, micro_batch=i)
        return [seconds for pair in times for seconds in pair]

    return program


def judge(problem: Problem, start: np.ndarray, end: np.ndarray) -> None:
    """Raises `AssertionError` where a task comes too early or something finds no place."""
    close = 1e-9 * max(1.0, float(end.max()))
    np.testing.assert_allclose(end - start, problem.duration_s, atol=close)
    assert start.min() >= 0
    for before, after in problem.before:
        assert start[after] >= end[before] - close
    for stream, _ in enumerate(problem.graph.streams):
        tasks = np.flatnonzero((problem.graph.stream == stream) & (problem.duration_s > 0))
        tasks = tasks[np.argsort(start[tasks])]
        assert (start[tasks[1:]] >= end[tasks[:-1]] - close).all()
    judge_places(problem, start, end, close)


def judge_places(problem: Problem, start: np.ndarray, end: np.ndarray, close: float) -> None:
    for kind, places in enumerate(problem.places):
        spans = []
        for stay in problem.stays:
            if stay.kind == kind:
                begin = 0.0 if stay.opens == NO_TASK else start[stay.opens]
                over = np.inf if stay.stays else max((end[u] for u in stay.users), default=0.0)
                spans.append((begin, over))
        for moment, _ in spans:
            inside = [a for a, b in spans if a <= moment + close and b > moment + 2 * close]
            assert len(inside) <= places, f"{problem.kinds[kind]}: {len(inside)} at {moment}"
