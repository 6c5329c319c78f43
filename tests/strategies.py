"""Random programs for the issuer, random runs of the schedules, and an issuer that watches.

A program is a list of instructions of plain integers; `issue` gives each of them a meaning, modulo
what there is at that moment, so every list is a valid program and shrinks well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from schedules.errors import Infeasible
from schedules.graph import RecordingIssuer, TaskGraph
from schedules.lengths import Listed
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from schedules.modifiers import Modifiers, make_modifiers
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule
from schedules.task import NOTHING, Buffer, Task
from schedules.workload import Workload
from sim.hardware import Hardware, load_hardware
from sim.scenario import Scenario, place

POOLS = {"gpu": 20, "cpu": 35}
DEVICE_STREAMS = ("h2d", "gpu", "d2h", "cpu")


class Access(NamedTuple):
    """What one task touches."""

    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]


class WatchedIssuer(RecordingIssuer):
    """Records which buffers each task touches, all there ever were, and which were freed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.accesses: list[Access] = []
        self.buffers: list[Buffer] = []
        self.freed: set[int] = set()

    def task(self, op, stream, reads=(), writes=(), *args, **kwargs) -> Task:
        task = super().task(op, stream, reads, writes, *args, **kwargs)
        self.accesses.append(Access(tuple(reads), tuple(writes)))
        return task

    def buffer(self, *args, **kwargs) -> Buffer:
        made = super().buffer(*args, **kwargs)
        self.buffers.append(made)
        return made

    def free(self, buffer) -> None:
        super().free(buffer)
        self.freed.add(id(buffer))


# -- random programs -------------------------------------------------------------------------------

Instruction = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Program:
    """What the issuing threads do, in order; `seconds` are the tasks' durations, repeated."""

    hosts: int
    n_streams: int
    instructions: tuple[Instruction, ...]
    seconds: tuple[float, ...]
    issue_s: float
    sync_s: float

    @property
    def host_streams(self) -> tuple[str, ...]:
        """One for each issuing thread; `host` when there is only one."""
        return ("host",) if self.hosts == 1 else tuple(f"host{i}" for i in range(self.hosts))

    @property
    def device_streams(self) -> tuple[str, ...]:
        return DEVICE_STREAMS[: self.n_streams]

    @property
    def streams(self) -> tuple[str, ...]:
        return (*self.host_streams, *self.device_streams)


@dataclass(frozen=True, eq=False)
class Issued:
    """A program's graph with its times, and the issuer that watched."""

    graph: TaskGraph
    duration_s: np.ndarray
    issue_s: np.ndarray
    sync_s: float
    issuer: WatchedIssuer


small = st.integers(0, 11)
instructions = st.one_of(
    st.tuples(st.just("task"), st.tuples(small, small, small, small, small)),
    st.tuples(st.just("task"), st.tuples(small, small, small, small, small)),
    st.tuples(st.just("buffer"), st.tuples(st.integers(0, 1), st.integers(0, 14))),
    st.tuples(st.just("free"), st.tuples(small)),
    st.tuples(st.just("wait"), st.tuples(small, small)),
    st.tuples(st.just("routing"), st.tuples(small, small)),
    st.tuples(st.just("barrier"), st.tuples(small, small)),
)
whole_seconds = st.integers(0, 4).map(float)  # many ties, and sums that are exact
any_seconds = st.floats(0, 10, allow_nan=False).map(lambda x: round(x, 6))


def programs(max_hosts: int = 3, times=whole_seconds | any_seconds) -> st.SearchStrategy[Program]:
    """Random programs of up to 40 instructions on up to four streams beside the hosts' own."""
    return st.builds(
        Program,
        hosts=st.integers(1, max_hosts),
        n_streams=st.integers(1, len(DEVICE_STREAMS)),
        instructions=st.lists(instructions, min_size=1, max_size=40).map(tuple),
        seconds=st.lists(times, min_size=1, max_size=12).map(tuple),
        issue_s=st.sampled_from([0.0, 0.25, 0.1]),
        sync_s=st.sampled_from([0.0, 0.5, 0.3]),
    )


def issue(
    program: Program, streams: Sequence[str] | None = None, lanes: Mapping[str, int] | None = None
) -> Issued:
    """Run the program against a watched issuer, with the streams listed in any order."""

    def trace(gate: Task) -> np.ndarray:
        return np.zeros((1, 1), np.int64)

    names = streams or program.streams
    issuer = WatchedIssuer(names, POOLS, program.hosts, trace, lanes)
    _Interpreter(program, issuer).run()
    issuer.barrier()
    graph = issuer.take()
    seconds = np.resize(np.array(program.seconds), len(graph)).astype(np.float64)
    issue_s = np.full(len(graph), program.issue_s)
    return Issued(graph, seconds, issue_s, program.sync_s, issuer)


class _Interpreter:
    """Fresh memory is written before it is read; freed memory is left alone."""

    def __init__(self, program: Program, issuer: WatchedIssuer) -> None:
        self.program = program
        self.issuer = issuer
        first = [issuer.buffer(f"weights[{i}]", "cpu", 5) for i in range(2)]  # hold data already
        self.live = first
        self.filled = {id(buffer) for buffer in first}
        self.tasks: list[Task] = []

    def run(self) -> None:
        for name, numbers in self.program.instructions:
            getattr(self, name)(*numbers)

    def task(self, host: int, stream: int, read: int, write: int, both: int) -> None:
        host %= self.program.hosts
        own = self.program.host_streams[host]
        names = (own, *self.program.device_streams, *self.program.device_streams)
        chosen = [self.live[i % len(self.live)] for i in ((read, both) if both % 3 else (read,))]
        target = self.live[write % len(self.live)]
        reads = [b for b in chosen if id(b) in self.filled]
        writes = [b for b in chosen if id(b) not in self.filled]
        writes += [target] if write % 2 and target not in writes else []
        self.filled |= {id(b) for b in writes}
        self.issuer.host = host
        name = names[stream % len(names)]
        self.tasks.append(self.issuer.task(f"op{stream % 3}", name, reads, writes, NOTHING))

    def buffer(self, pool: int, size: int) -> None:
        try:
            self.live.append(self.issuer.buffer("buffer", ("gpu", "cpu")[pool], size))
        except Infeasible:
            return  # a schedule may try, and go on with less

    def free(self, which: int) -> None:
        if len(self.live) > 1:
            self.issuer.free(self.live.pop(1 + which % (len(self.live) - 1)))

    def wait(self, host: int, task: int) -> None:
        if self.tasks:
            self.issuer.host = host % self.program.hosts
            self.issuer.wait(self.tasks[task % len(self.tasks)])

    def routing(self, host: int, gate: int) -> None:
        if self.tasks:
            self.issuer.host = host % self.program.hosts
            self.issuer.routing(self.tasks[gate % len(self.tasks)])

    def barrier(self, host: int, streams: int) -> None:
        self.issuer.host = host % self.program.hosts
        if streams == 0:
            self.issuer.barrier()
        else:
            self.issuer.barrier(self.program.streams[: 1 + streams % len(self.program.streams)])


# -- random runs of the built-in schedules ---------------------------------------------------------

MODELS = (
    "mixtral-8x7b",
    "dbrx",
    "qwen3-30b-a3b",
    "deepseek-v2-lite",
    "opt-6.7b",
    "switch-base-8",
)
MACHINES = ("gcp-t4-24c", "gcp-t4x2-32c", "h200-16c")


OTHER_KNOBS: dict[str, st.SearchStrategy[object]] = {
    "expert_slots": st.sampled_from([0, 1, 3]),
    "preload": st.integers(1, 3),
    "accuracy": st.sampled_from([None, 0.0, 0.7, 1.0]),
    "cache_ratio": st.sampled_from([0.0, 0.3, 1.0]),
    "cache": st.sampled_from(["lru", "lfu", "fifo", "lifo", "hobbit", "edgemoe", "moe-infinity"]),
    "per_layer": st.booleans(),
    "sync": st.sampled_from([None, False, True]),
    "values": st.sampled_from([1, 84]),
}
"""Those whose values go with any others."""


class Case(NamedTuple):
    """A schedule's run: a small model on a machine, with a policy that suits the schedule."""

    scenario: Scenario
    kind: type[Schedule]
    policy: Policy

    def __repr__(self) -> str:
        scenario = self.scenario
        workload = f"{scenario.workload.prompt_lengths}, gen_len={scenario.workload.gen_len}"
        return (
            f"{self.kind.name}: {scenario.model.name} on {scenario.hardware.name}; {workload}, "
            f"padded={scenario.workload.padded}; {self.policy}; {scenario.modifiers.told()}"
        )


@st.composite
def cases(draw, kind: type[Schedule], model: str, max_gen_len: int = 3, machines=MACHINES):
    """Runs of one schedule and model; not every one of them fits in memory."""
    machine = load_hardware(draw(st.sampled_from(machines)))
    gpus = machine.gpu.count if kind.multi_gpu else 1
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=5))
    workload = Workload(
        name="random",
        prompt_lengths=Listed(lengths=tuple(lengths)),
        gen_len=draw(st.integers(1, max_gen_len)),
        padded=draw(st.booleans()),
        source="drawn",
    )
    plain = load_model(model).with_layers(draw(st.integers(gpus, 3)))
    changed = _modifiers(draw, plain, kind)
    scenario = Scenario(changed.applied(plain), machine, workload, modifiers=changed)
    batch = draw(st.integers(gpus, 12))
    policy = {"N": batch, "mu": batch if kind.one_batch else draw(st.integers(1, batch))}
    return Case(scenario, kind, make_policy(policy | _knobs(draw, scenario, kind)))


def _knobs(draw, scenario: Scenario, kind: type[Schedule]) -> dict[str, object]:
    """Values of the schedule's own knobs that go together."""
    shares = st.sampled_from([0.0, 0.3, 1.0])
    values = {k: draw(shares) for k in ("r_w", "r_c", "r_h") if k in kind.knobs}
    if "pinned" in kind.knobs:
        values["pinned"] = draw(st.sampled_from([None, False, True]))
    if "A_g" in kind.knobs:
        values["A_g"] = draw(st.integers(0, 1)) if scenario.gpus_for(kind) == 1 else 0
    if {"A_g", "r_c"} <= values.keys():
        values["r_c"] = values["r_c"] * values["A_g"]
    if "experts_on_gpu" in kind.knobs:
        values["experts_on_gpu"] = draw(st.sampled_from([None, 0.0, 0.5]))
    if "cpu_tokens" in kind.knobs:
        values["cpu_tokens"] = draw(st.sampled_from([None, 0, 1, 100]))
    if "deferred" in kind.knobs:
        values["deferred"] = draw(st.integers(0, max(0, scenario.model.top_k - 1)))
    if "values" in kind.knobs:
        values["values"] = draw(st.sampled_from([1, 84]))
    if "level" in kind.knobs:
        blocks = sum(layer.is_moe for layer in scenario.model.decoder_layers)
        values["level"] = draw(st.integers(1, max(1, blocks - 1)))
    for key, drawn in OTHER_KNOBS.items():
        if key in kind.knobs:
            values[key] = draw(drawn)
    return values


def _modifiers(draw, model: ModelSpec, kind: type[Schedule]) -> Modifiers:
    """None in half of the cases; otherwise some that suit the model and the schedule."""
    if draw(st.booleans()):
        return Modifiers()
    quantised = {"kv"} | (set() if "experts" in kind.decides else {"weights", "experts"})
    width = st.sampled_from(["int8", "int4"])
    some: dict[str, st.SearchStrategy[object]] = dict.fromkeys(sorted(quantised), width)
    if model.top_k > 1 and "skip" not in kind.decides:
        some["skip"] = st.sampled_from([0.2, 0.5, 1.0])
    if model.n_experts > 1:
        some["keep"] = st.integers(max(2, model.top_k), model.n_experts)
    if "ssd" not in kind.decides:
        some["ssd"] = st.sampled_from(["serial", "overlapped"])
    values = draw(st.fixed_dictionaries({}, optional=some))
    if values.keys() & quantised:
        values["group"] = draw(st.sampled_from([8, 64, 128]))
        values["fused"] = draw(st.booleans())
    return make_modifiers(values)


def feasible(case: Case) -> Case:
    """The case, on the large machine where the drawn one is too small."""
    try:
        place(*case)
    except Infeasible:
        scenario = replace(case.scenario, hardware=load_hardware("h200-16c"))
        return case._replace(scenario=scenario)
    return case


# -- a machine with round numbers ------------------------------------------------------------------


def toy_hardware(gpus: int = 1, shared_host_link: bool = False, memory: float = 1e12) -> Hardware:
    """Sustained rates are powers of two or ten; every peak is ten times as high."""

    def rate(value):
        return {"peak": 10 * value, "sustained": value, "source": "made up for tests"}

    def amount(value):
        return {"value": value, "source": "made up for tests"}

    def compute(factor):
        return {"gemm": rate(1000 * factor), "experts": rate(500 * factor), "attention": rate(250)}

    links = {"h2d": 10, "d2h": 5, "h2d_pageable": 4, "d2h_pageable": 2, "pin": 8, "disk": 1}
    links |= {"pin_parallel": 16} | ({"peer": 20} if gpus > 1 else {})
    return Hardware.model_validate(
        {
            "name": "toy",
            "description": "made up for tests",
            "gpu": {
                "name": "toy GPU",
                "count": gpus,
                "memory": amount(memory),
                "memory_bandwidth": rate(100.0),
                "call_s": amount(0.5),
                "compute": {"float16": compute(1.0), "float32": compute(0.5)},
            },
            "cpu": {
                "name": "toy CPU",
                "cores": 4,
                "memory": amount(memory),
                "memory_bandwidth": rate(40.0),
                "call_s": amount(0.25),
                "compute": {"float16": compute(0.1)},
            },
            "links": {name: rate(float(value)) for name, value in links.items()},
            "link_call_s": amount(0.125),
            "shared_host_link": {"value": shared_host_link, "source": "made up for tests"},
            "host": {
                "issue_s": amount(0.0625),
                "sync_s": amount(0.03125),
                "pinnable_fraction": amount(0.5),
            },
            "disk": amount(memory),
        }
    )
