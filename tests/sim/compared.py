"""What the tests of compared runs share: a program and prices that can be worked out by hand."""

from collections.abc import Sequence

import pandas as pd

from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.schedule import Schedule
from schedules.task import Work
from schedules.timeline import COLUMNS, Timeline
from schedules.workload import Workload
from sim.compare_run import BatchClocks, Clocks, clocks_of
from sim.cost import CostModel
from sim.scenario import Scenario, place
from tests.strategies import toy_hardware

LOAD = Work(device="link", link_bytes={"h2d": 4.0}, bytes={"cpu": 4.0})
COMPUTE = Work(device="gpu", flops={"gemm": 4.0})
COUNT = Work(device="cpu", bytes={"cpu": 4.0})
STREAMS = ("host", "h2d", "gpu", "cpu")
OPS = ("load", "compute", "count")


class DoubleBuffer(Schedule):
    """Three layers through two buffers; every phase is the same."""

    name, title, paper = "double-buffer", "", ""

    def prefill(self) -> None:
        issuer = self.node.issuer
        home = issuer.buffer("home", "cpu", 30)
        slots = [issuer.buffer(f"slot[{i}]", "gpu", 10) for i in range(2)]
        for layer in range(3):
            slot = slots[layer % 2]
            issuer.task("load", "h2d", [home], [slot], work=LOAD, layer=layer)
            issuer.task("compute", "gpu", [slot], work=COMPUTE, layer=layer)

    decode_step = prefill


class Abreast(Schedule):
    """A load, a computation and a count that have nothing to do with one another."""

    name, title, paper = "abreast", "", ""

    def prefill(self) -> None:
        issuer = self.node.issuer
        issuer.task("load", "h2d", work=LOAD)
        issuer.task("compute", "gpu", work=COMPUTE)
        issuer.task("count", "cpu", work=COUNT)

    decode_step = prefill


class Prices(CostModel):
    """So many seconds of each kind of task; `sharing`: bytes/s of the host's memory."""

    def __init__(
        self,
        load: float,
        compute: float,
        count: float = 0.0,
        issue_s: float = 0.0,
        sync_s: float = 0.0,
        sharing: float | None = None,
    ) -> None:
        self.by_device = {"link": load, "gpu": compute, "cpu": count}
        self.issue_s, self.sync_s = issue_s, sync_s
        self.channels = {} if sharing is None else {"cpu": sharing}

    def limits(self, work: Work) -> list[float]:
        return [self.by_device[work.device]]

    def call_seconds(self, work: Work) -> float:
        return 0.0

    def issue_seconds(self, work: Work) -> float:
        return self.issue_s


def placed(kind: type[Schedule] = DoubleBuffer, gen_len: int = 2) -> Schedule:
    """On the toy machine, with one sequence."""
    lengths = Listed(lengths=(4,))
    asked = Workload(name="one", prompt_lengths=lengths, gen_len=gen_len, padded=False, source="")
    model = load_model("mixtral-8x7b").with_layers(1)
    return place(Scenario(model, toy_hardware(), asked), kind, make_policy({"N": 1, "mu": 1}))


Row = tuple[str, str, int, float, float]
"""Operation, stream, layer, start and end."""


def measured(phases: Sequence[Sequence[Row]]) -> Timeline:
    """The timeline of a run."""
    rows = [
        (0, op, stream, layer, -1, step, start_s, end_s, 0.0, 0.0, 0.0)
        for step, tasks in enumerate(phases)
        for op, stream, layer, start_s, end_s in tasks
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Timeline(frame.assign(task=range(len(frame))), STREAMS, "by hand")


def late_phase(begin_s: float = 0.0, late_s: float = 0.25) -> list[Row]:
    """Loads of 2 s, computations of 3 s, which begin `late_s` after their loads."""
    t = begin_s
    loads = [t, t + 2, t + 5 + late_s]
    computes = [t + 2 + late_s, t + 5 + late_s, t + 8 + 2 * late_s]
    return [
        row
        for layer in range(3)
        for row in (
            ("load", "h2d", layer, loads[layer], loads[layer] + 2),
            ("compute", "gpu", layer, computes[layer], computes[layer] + 3),
        )
    ]


def by_hand(cost: CostModel, issue_s: float = 0.0) -> BatchClocks:
    """A late prefill of 12 s and a late step of 13 s, each of 11.5 s from first to last."""
    run = measured([late_phase(0.0), late_phase(100.0)])
    return clocks_of(run, placed(), cost, (12.0, 13.0), issue_s)


def abreast(cost: CostModel) -> Clocks:
    """All three take 3 s, at once."""
    rows = [(op, s, -1, 0.0, 3.0) for op, s in zip(OPS, STREAMS[1:], strict=True)]
    return clocks_of(measured([rows]), placed(Abreast, 1), cost, (3.0, 0.0)).phases[0]
