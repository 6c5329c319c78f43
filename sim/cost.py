"""Cost models: they turn `Work` into seconds, and nothing else does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import numpy as np

from schedules.errors import BadInput, suggest
from schedules.graph import FloatArray, TaskGraph
from schedules.task import Work
from sim.channels import OPERATION_PLACES, moved_bytes
from sim.hardware import Hardware
from sim.hardware_parts import LINKS, Emulated

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

    def moved(self, work: Work, channel: str) -> float:
        """What a task needs of a channel, all in all."""
        return moved_bytes(work, channel)

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
    GPUs behind one host link share it evenly. Of a device that does not overlap computation and
    memory, the first two add up; its memory's bandwidth then is that of its kernels, and the rate
    of a link says what copies get.

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
        devices = {"gpu": hardware.gpu, "cpu": hardware.cpu}
        self._adds_up = {name for name, unit in devices.items() if not unit.overlaps.value}
        self.issue_s = hardware.host.issue_s.value
        self._task_s = None if hardware.host.task_s is None else hardware.host.task_s.value
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
        memories = {m: work.bytes.get(m, 0.0) / (r * work.share) for m, r in self._memory.items()}
        compute /= work.share
        for device in self._adds_up:
            own = memories[device] if device == work.device else 0.0
            compute, memories[device] = compute + own, 0.0
        links = [0.0] * len(LINKS)
        for link, size in work.link_bytes.items():
            if size:
                links[_PLACE[link]] = size / self.link_rate(link)
        return [compute, *memories.values(), *links]

    def call_seconds(self, work: Work) -> float:
        call_s = self._peer_call_s if "peer" in work.link_bytes else self._call_s[work.device]
        return work.calls * call_s

    def issue_seconds(self, work: Work) -> float:
        if self._task_s is not None:
            return self._task_s
        return 0.0 if work.device == "host" else work.calls * self.issue_s

    def moved(self, work: Work, channel: str) -> float:
        """Bytes over a channel; of `cores` and `queue`, seconds of those who are there."""
        emulated = self.hardware.emulated
        if channel == "cores":
            return self._thread_s(work, emulated)
        if channel == "queue":
            return self._queue_s(work, emulated) if emulated else 0.0
        if channel == "cpu" and emulated:
            return moved_bytes(work, "cpu") + moved_bytes(work, "gpu")
        return moved_bytes(work, channel)

    def _thread_s(self, work: Work, emulated: Emulated | None) -> float:
        if work.device == "cpu":
            threads = emulated.cpu_threads if emulated else self.hardware.cpu.cores
            return threads * work.share * self.seconds(work)
        if work.device == "gpu":
            return emulated.gpu_threads * self.seconds(work) if emulated else 0.0
        if emulated:
            return sum(work.link_bytes.values()) / emulated.copy_rate.sustained
        copying = {"pin": 1, "pin_parallel": self.hardware.cpu.cores}
        return sum(
            copying.get(link, 0) * size / self.link_rate(link)
            for link, size in work.link_bytes.items()
        )

    def _queue_s(self, work: Work, emulated: Emulated) -> float:
        """Seconds of one place at the memory: see `sim.channels`."""
        if work.device == "gpu":
            return OPERATION_PLACES * self.seconds(work)
        if work.device == "cpu":
            return work.bytes.get("cpu", 0.0) / (self._memory["cpu"] * work.share)
        return sum(work.link_bytes.values()) / emulated.copy_rate.sustained

    def link_rate(self, link: str) -> float:
        """Bytes/s that one GPU gets from a link."""
        rate = self.hardware.link_rate(link).sustained
        return rate * (self._host_link_share if link.startswith(("h2d", "d2h")) else 1.0)


def price(graph: TaskGraph, cost: CostModel) -> tuple[FloatArray, FloatArray]:
    """Seconds of each task and of issuing it, both of shape (n,)."""
    seconds = np.array([cost.seconds(work) for work in graph.works], dtype=np.float64)
    issue = np.array([cost.issue_seconds(work) for work in graph.works], dtype=np.float64)
    return seconds[graph.work], issue[graph.work]
