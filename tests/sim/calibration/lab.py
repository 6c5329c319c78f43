"""A made-up machine with known costs, and what a calibration would measure on it."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from schedules.sample import ISSUE, ISSUED, Sample
from schedules.task import Work
from sim.calibration.preset import Machine

COSTS = {
    "gpu": {"float32.gemm": 2e-11, "float32.attention": 1e-10, "bytes": 1e-10, "calls": 2e-5},
    "cpu": {"float32.attention": 5e-10, "bytes": 2e-10, "calls": 1e-4},
}
LINKS = {
    "h2d": 1e-9,
    "d2h": 2e-9,
    "h2d_pageable": 3e-9,
    "d2h_pageable": 4e-9,
    "pin": 2.5e-10,
    "pin_parallel": 1.25e-10,
}
COPY_S = 1e-5
TASK_S = 3e-6
MACHINE = Machine("lab", "made up", "host", "toy CPU", 1e9, 2e9, 0, 2, (1, 1), "made up for tests")


def point(bench, seconds, amount=None, at=0.0, **params):
    """A point of a micro-benchmark."""
    each = seconds if isinstance(seconds, tuple) else (seconds,) * 5
    return SimpleNamespace(bench=bench, params=params, amount=amount or {}, seconds=each, at=at)


def copies():
    """Copies of many sizes over all links, as the costs say."""
    for link, cost in LINKS.items():
        for size in (1e3, 1e4, 1e5, 1e6, 1e7):
            bench, threads = "copy", {}
            if link.startswith("pin"):
                bench, threads = "pin", {"threads": 1 if link == "pin" else 2}
            params = {"link": link, "size_bytes": int(size), **threads}
            yield point(bench, cost * size + COPY_S, {"bytes": size}, **params)


def points():
    """What a calibration needs of micro-benchmarks."""
    yield from copies()
    for what, calls, seconds in (
        ("kernel", 10, 1e-5),
        ("link_call", 10, 1e-5),
        ("task", 100, 1e-4),
        ("round_trip", 10, 1e-3),
    ):
        yield point("launch", seconds, {"calls": calls}, what=what)
    for threads, seconds in ((1, 1.0), (2, 1.25)):
        yield point("cores", seconds, {"flops": 1e9 * threads}, threads=threads)
    for threads, seconds in ((1, 0.2), (2, 0.125)):
        amount = {"bytes": 1e9}
        yield point("memory", seconds, amount, memory="cpu", what="read", threads=threads)
    for turn in range(3):
        yield point("steady", 1e-3, {"bytes": 1e6}, at=100.0 + turn, probe="copy", turn=turn)


class Priced(NamedTuple):
    """How the seconds of a device come about."""

    overlaps: bool = False
    noise: float = 0.0


PLAIN = Priced()


def samples(how=PLAIN, n=40, seed=0):
    """Operations of both devices, of varied amounts, and what issuing a task took."""
    rng = np.random.default_rng(seed)
    found = [Sample("here", ISSUE, "host", "decode", ISSUED, (TASK_S,))]
    for device, kinds in (("gpu", ("gemm", "attention")), ("cpu", ("attention",))):
        for i in range(n):
            flops = {kind: float(10 ** rng.uniform(6, 10)) for kind in kinds}
            moved, calls = float(10 ** rng.uniform(5, 9)), int(rng.integers(1, 60))
            work = Work(
                device=device, dtype="float32", flops=flops, bytes={device: moved}, calls=calls
            )
            seconds = priced(work, how) * float(np.exp(how.noise * rng.standard_normal()))
            found.append(Sample(f"run {i}", "operation", device, "decode", work, (seconds,) * 5))
    return found


def priced(work, how=PLAIN):
    """Seconds of an operation, by the costs of its device."""
    costs = COSTS[work.device]
    compute = sum(n * costs[f"float32.{kind}"] for kind, n in work.flops.items()) / work.share
    memory = work.bytes[work.device] * costs["bytes"] / work.share
    both = max(compute, memory) if how.overlaps else compute + memory
    return both + work.calls * costs["calls"]
