"""Tools of the schedules' tests: a roomy machine, and pictures of lanes.

A picture has one row per lane and one cell per second; it may go on in further rows below, as
music does. The row `s` counts the seconds. A cell names the task that starts there, `---` goes on
with it, `...` is idle:

    s   | 0   1   2   3
    h2d | h0a w1b --- ...

A task's name is the letter of its operation, its layer, and its micro-batch (a, b, c, ...); a layer
or micro-batch that a task does not have is left out. Each test's legend says which letter means
which operation; `load_weights (ffn)` are those of an FFN where the attention's travel separately.
"""

from collections import Counter

import numpy as np
import pytest

from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.routing import Routing
from schedules.workload import Workload
from sim.engine import simulate_graph
from sim.hardware import load_hardware
from sim.scenario import Scenario, place

MACHINES = {1: "gcp-t4-24c", 2: "gcp-t4x2-32c", 4: "gcp-t4x4-32c"}  # by number of GPUs
MICRO_BATCHES = "abcdefghijklmnopqrstuvwxyz"
LARGE = 100e6  # bytes; the attention weights of a layer of Mixtral 8x7B are 84e6, its FFN's 2.8e9


class Lab:
    """What the tests of the schedules share."""

    @staticmethod
    def build(
        kind,
        n=3,
        mu=1,
        layers=2,
        gpus=1,
        prompts=(10,),
        gen_len=8,
        model="mixtral-8x7b",
        routing=None,
        **policy,
    ):
        """A schedule on a machine with memory enough, for the first `layers` of a model; N = `n`.

        The prompts' lengths, in tokens, are repeated to fill the batch. `model` is a preset's name
        or a `ModelSpec`; `routing` says which experts are chosen.
        """
        machine = (
            load_hardware(MACHINES[gpus]).with_rate("gpu.memory", 100).with_rate("cpu.memory", 10)
        )
        lengths = Listed(lengths=tuple(prompts))
        workload = Workload(
            name="test", prompt_lengths=lengths, gen_len=gen_len, padded=False, source="this test"
        )
        spec = load_model(model) if isinstance(model, str) else model
        scenario = Scenario(spec.with_layers(layers), machine, workload, gpus, routing or Routing())
        return place(scenario, kind, make_policy({"N": n, "mu": mu, **policy}))

    @staticmethod
    def prefill(schedule):
        """The graph of the prefill."""
        schedule.run_prefill()
        return schedule.node.issuer.take()

    @classmethod
    def decode(cls, schedule, step=1):
        """The graph of a decode step, and before it the prefill and the steps before."""
        cls.prefill(schedule)
        for s in range(1, step + 1):
            schedule.run_decode_step(s)
            graph = schedule.node.issuer.take()
        return graph

    @staticmethod
    def letters(graph, ops):
        """The letter of each task's operation."""
        letter = {op: key for key, op in ops.items()}
        works = [graph.works[w] for w in graph.work]
        names = [graph.ops[op] for op in graph.op]
        wide = [
            f"{name} (ffn)" if work.total_link_bytes > LARGE else name
            for name, work in zip(names, works, strict=True)
        ]
        return [letter.get(w, letter.get(n)) for w, n in zip(wide, names, strict=True)]

    @classmethod
    def order(cls, graph, ops):
        """The tasks' names in issue order."""
        letters = cls.letters(graph, ops)
        places = zip(letters, graph.layer.tolist(), graph.micro_batch.tolist(), strict=True)
        return [
            letter + (str(layer) if layer >= 0 else "") + (MICRO_BATCHES[j] if j >= 0 else "")
            for letter, layer, j in places
        ]

    @classmethod
    def check_order(cls, graph, ops, expected):
        """The tasks are issued in this order; `expected` has their names in words and lines."""
        assert cls.order(graph, ops) == expected.split()

    @classmethod
    def simulate(cls, graph, ops, seconds, sync_s=0.0):
        """(lane, start, end, name) of every task, when a letter takes its seconds; and the run."""
        duration = np.array([seconds[letter] for letter in cls.letters(graph, ops)], dtype=float)
        run = simulate_graph(graph, duration, sync_s=sync_s)
        lanes = [graph.streams[s] for s in graph.stream]
        order = cls.order(graph, ops)
        bars = zip(lanes, run.start_s.tolist(), run.end_s.tolist(), order, strict=True)
        return sorted(bars), run

    @classmethod
    def check(cls, graph, ops, seconds, picture, sync_s=0.0):
        """Every task starts and ends as in the picture, and there are no others."""
        bars, _ = cls.simulate(graph, ops, seconds, sync_s)
        assert bars == cls.read(picture)

    @staticmethod
    def read(picture):
        """(lane, start, end, name) of every task of a picture."""
        bars, first, width = [], 0, 0
        running = {}  # lane: its latest bar
        for line in filter(str.strip, picture.splitlines()):
            lane, cells = line.split("|")
            lane, cells = lane.strip(), cells.split()
            if lane == "s":
                first, width = first + width, len(cells)
                assert cells == [str(first + i) for i in range(width)], f"seconds: {line}"
                continue
            assert len(cells) == width, f"lane {lane} from {first} on has {len(cells)} cells"
            for second, cell in enumerate(cells, start=first):
                if cell == "---":
                    assert running[lane][2] == second, f"nothing goes on at {second} on {lane}"
                    running[lane][2] = second + 1
                elif cell != "...":
                    running[lane] = [lane, second, second + 1, cell]
                    bars.append(running[lane])
        return sorted(map(tuple, bars))

    @staticmethod
    def moved(graph):
        """Bytes moved over each link."""
        total = Counter()
        for work in graph.work:
            total.update(graph.works[work].link_bytes)
        return dict(total)

    @staticmethod
    def sizes(graph, op, stream=None):
        """Bytes of each copy with this operation, in issue order."""
        return [
            graph.works[graph.work[i]].total_link_bytes
            for i in range(len(graph))
            if graph.ops[graph.op[i]] == op and stream in (None, graph.streams[graph.stream[i]])
        ]


@pytest.fixture(scope="session")
def lab():
    return Lab
