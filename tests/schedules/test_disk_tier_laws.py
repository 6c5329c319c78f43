"""What must hold of every schedule with an SSD tier: the laws of the design, and its own."""

from unittest.mock import patch

import numpy as np
import pytest

from schedules.schedule import schedules
from sim.cost import Roofline, price
from sim.engine import simulate_graph
from tests.schedules.ssd_runs import ACCEPT, build, scenario
from tests.sim.test_laws import ROUNDING, busiest, check_law_1, generate, longest_chain
from tests.strategies import Access, WatchedIssuer

MODELS = ("mixtral-8x7b", "switch-base-8", "deepseek-v2-lite", "opt-6.7b")


class Watched(WatchedIssuer):
    """Notes what tasks touch once staging has taken the place of what lies on the disk."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.touched = []

    def _issue(self, task, stream_id, dependencies, work, operands):
        self.touched.append(Access(tuple(operands.reads), tuple(operands.writes)))
        super()._issue(task, stream_id, dependencies, work, operands)


class Ran:
    """A whole generation of one schedule, issued and simulated as one graph."""

    def __init__(self, name, model, ssd):
        kind = schedules()[name]
        self.gpus = 2 if kind.multi_gpu else 1
        where = {"model": model, "gpus": self.gpus, "prompts": (9, 5), "layers": 4}
        policy = {"pinned": True} if "pinned" in kind.knobs else {}
        with patch("sim.scenario.RecordingIssuer", Watched):
            schedule = build(kind, ssd, 4, 4 if kind.one_batch else 2, where, **policy)
        generate(schedule)
        self.issuer = schedule.node.issuer
        self.graph = graph = self.issuer.take()
        hardware = scenario(ssd, self.gpus).hardware
        cost = Roofline(hardware, self.gpus)
        self.duration_s, issue_s = price(graph, cost)
        self.run = simulate_graph(graph, self.duration_s, issue_s, cost.sync_s)
        self.disk_bytes_per_s = hardware.link_rate("disk").sustained

    @property
    def reads(self):
        """Tasks that read the disk."""
        return [i for i in range(len(self.graph)) if self.work(i).link_bytes.get("disk")]

    def work(self, task):
        return self.graph.works[self.graph.work[task]]


def check_laws_1_and_3(ran):
    ran.issuer.accesses = ran.issuer.touched
    capacities = {name: pool.capacity_bytes for name, pool in ran.issuer.pools.items()}
    check_law_1(ran.graph, ran.issuer, ran.run, capacities)
    makespan = ran.run.makespan_s * (1 + ROUNDING)
    assert makespan >= busiest(ran.graph, ran.duration_s)
    assert makespan >= longest_chain(ran.graph, ran.duration_s)


def check_disk(ran):
    """One piece at a time, into staging; nothing but reads touches the disk."""
    reads = ran.reads
    assert np.all(ran.run.start_s[reads][1:] >= ran.run.end_s[reads][:-1])
    size = sum(ran.work(i).link_bytes["disk"] for i in reads)
    assert ran.run.makespan_s * (1 + ROUNDING) >= size / ran.disk_bytes_per_s
    for task, (touched, _) in enumerate(ran.issuer.touched):
        assert task in set(reads) or all(buffer.pool != "disk" for buffer in touched)


def amounts(graph, op):
    """What is moved and computed by all but the reads, in issue order."""
    return [graph.works[w] for w, o in zip(graph.work, graph.op, strict=True) if graph.ops[o] != op]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ACCEPT)
def test_laws_of_every_schedule(name, model):
    """Serial takes no less time than overlapped, and that no less than without; all else is the
    same work."""
    plain, overlapped, serial = (Ran(name, model, ssd) for ssd in (None, "overlapped", "serial"))
    assert not plain.reads
    assert plain.issuer.peak_bytes["disk"] == 0
    for ran in (overlapped, serial):
        check_laws_1_and_3(ran)
        check_disk(ran)
        assert amounts(ran.graph, "read_weights") == amounts(plain.graph, "")
    assert {overlapped.graph.streams[overlapped.graph.stream[i]] for i in overlapped.reads} <= {
        "disk"
    }
    assert len(serial.reads) == len(overlapped.reads)
    times = [ran.run.makespan_s for ran in (plain, overlapped, serial)]
    assert times[0] <= times[1] * (1 + ROUNDING)
    assert times[1] <= times[2] * (1 + ROUNDING)
    assert not overlapped.reads or times[0] < times[1]
