"""Cost models: they turn `Work` into seconds, and nothing else does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import numpy as np

from schedules.errors import BadInput, suggest
from schedules.graph import FloatArray, TaskGraph
from schedules.task import Work
from sim.hardware import Hardware
from sim.hardware_parts import LINKS

_PLACE: dict[str, int] = {name: place for place, name in enumerate(LINKS)}


class CostModel(ABC):
    """Seconds of a task on its stream, and of the thread that issues it.

    A task takes as long as the slowest of the resources that it uses, and fixed costs beside. What
    each resource needs is affine in the amounts of work; so the steps of a generation, whose
    amounts are affine in the step, can be priced from two of them.
    """

    sync_s: float
    """Seconds of the issuing thread for a wait that is over."""

    channels: Mapping[str, float] = {}
    """Bytes/s of the channels that tasks share (see `sim.channels`)."""

    @abstractmethod
    def limits(self, work: Work) -> list[float]:
        """Seconds that each resource alone needs for it, in an order that never changes."""

    @abstractmethod
    def call_seconds(self, work: Work) -> float:
        """Seconds of launches and other fixed costs, beside those."""

    @abstractmethod
    def issue_seconds(self, work: Work) -> float:
        """Seconds that issuing it takes."""

    @final
    def seconds(self, work: Work) -> float:
        """Seconds that the task takes once it runs, alone."""
        return max(self.limits(work)) + self.call_seconds(work)


class Roofline(CostModel):
    """The hierarchical roofline (MoE-Lightning, arXiv 2411.11217, section 3), plus fixed costs.

        t = max(sum over kernels of flops / rate, bytes / bandwidth of each memory,
                bytes / rate of each link) + calls x fixed cost

    All rates are the hardware's sustained ones; `share` of the device's are the task's. Several
    GPUs behind one host link share it evenly.

    Parameters
    ----------
    hardware: rates and fixed costs.
    gpus: how many GPUs are in use.
    """

    def __init__(self, hardware: Hardware, gpus: int = 1) -> None:
        self.hardware = hardware
        self.channels = {name: rate.value for name, rate in hardware.channels.items()}
        evenly = hardware.shared_host_link.value and "host_link" not in self.channels
        shared = gpus > 1 and evenly
        self._host_link_share = 1.0 / gpus if shared else 1.0
        self._memory = {
            "gpu": hardware.gpu.memory_bandwidth.sustained,
            "cpu": hardware.cpu.memory_bandwidth.sustained,
        }
        self._call_s = {
            "gpu": hardware.gpu.call_s.value,
            "cpu": hardware.cpu.call_s.value,
            "link": hardware.link_call_s.value,
            "host": hardware.host.ffn_s.value,
            "none": 0.0,
        }
        self._peer_call_s = (hardware.peer_call_s or hardware.link_call_s).value
        self.issue_s = hardware.host.issue_s.value
        self.sync_s = hardware.host.sync_s.value

    @property
    def limit_names(self) -> tuple[str, ...]:
        """What `limits` are of: arithmetic, each memory, each link."""
        return ("compute", *self._memory, *LINKS)

    def limits(self, work: Work) -> list[float]:
        compute = sum(
            flops / self.hardware.compute_rate(work.device, kernel, work.dtype).sustained
            for kernel, flops in work.flops.items()
            if flops
        )
        for memory in work.bytes:
            if memory not in self._memory and memory != "disk":  # that is reached over its link
                raise BadInput(f"no memory '{memory}'{suggest(memory, self._memory)}")
        memories = [work.bytes.get(m, 0.0) / (r * work.share) for m, r in self._memory.items()]
        links = [0.0] * len(LINKS)
        for link, size in work.link_bytes.items():
            if size:
                links[_PLACE[link]] = size / self.link_rate(link)
        return [compute / work.share, *memories, *links]

    def call_seconds(self, work: Work) -> float:
        call_s = self._peer_call_s if "peer" in work.link_bytes else self._call_s[work.device]
        return work.calls * call_s

    def issue_seconds(self, work: Work) -> float:
        return 0.0 if work.device == "host" else work.calls * self.issue_s

    def link_rate(self, link: str) -> float:
        """Bytes/s that one GPU gets from a link."""
        rate = self.hardware.link_rate(link).sustained
        return rate * (self._host_link_share if link.startswith(("h2d", "d2h")) else 1.0)


def price(graph: TaskGraph, cost: CostModel) -> tuple[FloatArray, FloatArray]:
    """Seconds of each task and of issuing it, both of shape (n,)."""
    seconds = np.array([cost.seconds(work) for work in graph.works], dtype=np.float64)
    issue = np.array([cost.issue_seconds(work) for work in graph.works], dtype=np.float64)
    return seconds[graph.work], issue[graph.work]
