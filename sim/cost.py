"""Cost models: they turn `Work` into seconds, and nothing else does."""

from typing import Protocol

import numpy as np

from schedules.errors import BadInput, suggest
from schedules.graph import FloatArray, TaskGraph
from schedules.task import Work
from sim.hardware import Hardware


class CostModel(Protocol):
    """Seconds of a task on its stream, and of the thread that issues it."""

    @property
    def sync_s(self) -> float:
        """Seconds of the issuing thread for a wait that is over."""

    def seconds(self, work: Work) -> float:
        """Seconds that the task takes once it runs."""

    def issue_seconds(self, work: Work) -> float:
        """Seconds that issuing it takes."""


class Roofline:
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
        shared = gpus > 1 and hardware.shared_host_link.value
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
        self.issue_s = hardware.host.issue_s.value
        self.sync_s = hardware.host.sync_s.value

    def seconds(self, work: Work) -> float:
        compute = sum(
            flops / self.hardware.compute_rate(work.device, kernel, work.dtype).sustained
            for kernel, flops in work.flops.items()
            if flops
        )
        limits = [compute / work.share]
        for memory, size in work.bytes.items():
            if memory == "disk":
                continue  # only reached over its link
            if memory not in self._memory:
                raise BadInput(f"no memory '{memory}'{suggest(memory, self._memory)}")
            limits.append(size / (self._memory[memory] * work.share))
        limits += [size / self.link_rate(link) for link, size in work.link_bytes.items() if size]
        return max(limits) + work.calls * self._call_s[work.device]

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
