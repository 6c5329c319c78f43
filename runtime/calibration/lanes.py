"""Lanes as an executor opens them, and when their tasks ran: what is timed is what runs have."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import torch

from runtime.device import Device
from runtime.executor import SWITCH_S
from runtime.lane import CudaLane, Failure, Job, Lane, Run, Stop

ON_DEVICE = ("gpu", "h2d", "d2h", "peer")
FIRST = -1  # the number of a task that holds a lane back until all have their tasks


class Span(NamedTuple):
    """When a task ran, in seconds of the host's clock."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


class Lanes:
    """Some lanes of a device; a context manager.

    Parameters
    ----------
    threads: that torch may use in each lane, by the lane's name; what comes after a dot tells lanes
        of the same kind apart (`gpu.1`).
    """

    def __init__(self, device: Device, threads: Mapping[str, int]) -> None:
        self.device = device
        self.failure = Failure()
        self._spans: dict[int, Span] = {}
        self._before = sys.getswitchinterval(), torch.get_num_threads()
        sys.setswitchinterval(SWITCH_S)
        torch.set_num_threads(1)  # in this thread alone, as in runs
        self.lanes = {name: self._lane(name, count) for name, count in threads.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.failure.stop()
        for lane in self.lanes.values():
            lane.close()
        sys.setswitchinterval(self._before[0])
        torch.set_num_threads(self._before[1])

    def seconds(self, lane: str, tasks: Sequence[Run]) -> list[float]:
        """How long each task took, one after the other on one lane."""
        return [span.seconds for span in self.run({lane: tasks})[lane]]

    def run(self, tasks: Mapping[str, Sequence[Run]]) -> dict[str, list[Span]]:
        """When each task of each lane ran; all lanes begin together.

        Raises the error of the first task that fails.
        """
        base_ns, base = self._base()
        gate = threading.Event()
        self._spans.clear()
        for lane in self.lanes.values():
            lane.put(Job(FIRST, lambda: _hold(gate), ()))
        numbers, number = {}, 0
        for name, runs in tasks.items():
            numbers[name] = range(number, number + len(runs))
            number += len(runs)
            for each, run in zip(numbers[name], runs, strict=True):
                self.lanes[name].put(Job(each, run, ()))
        gate.set()
        self.join()
        for lane in self.lanes.values():
            if isinstance(lane, CudaLane) and base is not None:
                lane.flush(base, base_ns)
        return {name: [self._spans[i] for i in own] for name, own in numbers.items()}

    def join(self) -> None:
        """Wait for all tasks of all lanes. Raises the error of the first one that failed."""
        try:
            for lane in self.lanes.values():
                if lane.count:
                    lane.join(lane.count)
        except Stop:
            assert self.failure.error is not None
            raise self.failure.error from None

    def _base(self) -> tuple[int, torch.cuda.Event | None]:
        """The host's time, and an event that the device reached then, to within microseconds."""
        if not self.device.is_cuda:
            return time.perf_counter_ns(), None
        torch.cuda.synchronize()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        return time.perf_counter_ns(), event

    def _lane(self, name: str, threads: int) -> Lane:
        on_device = self.device.is_cuda and name.partition(".")[0] in ON_DEVICE
        kind = CudaLane if on_device else Lane
        return kind(name, self.device, self.failure, self._times, threads)

    def _times(self, number: int, start_ns: int, end_ns: int) -> None:
        if number != FIRST:
            self._spans[number] = Span(start_ns * 1e-9, end_ns * 1e-9)


def _hold(gate: threading.Event) -> int:
    gate.wait()
    return 0
