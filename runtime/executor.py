"""The runtime's issuer: records each task as the simulator's does, and runs it at once.

The schedule's program issues; every stream has a lane that runs its tasks in that order. With
several GPUs each process issues the whole program and runs what belongs to its own GPU, and what
all GPUs do together (`peer`).
"""

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.described import described
from runtime.device import Device
from runtime.lane import CudaLane, Failure, Job, Lane, Run, Stop
from schedules.contents import Contents
from schedules.errors import MoelabError
from schedules.graph import RecordingIssuer, TaskGraph
from schedules.issuer import Operands
from schedules.task import Buffer, Task, Work

SWITCH_S = 5e-4  # between Python threads: a lane must not wait 5 ms for the issuing thread
BASE_TRIES = 5  # of comparing the device's clock with the host's
STREAMS = ("host", "disk", "pin", "h2d", "gpu", "d2h", "cpu", "peer")


def split_stream(name: str) -> tuple[str, int]:
    """What a stream does, and of which GPU it is (-1: of none, or of the only one).

    >>> split_stream("h2d3"), split_stream("cpu")
    (('h2d', 3), ('cpu', -1))
    """
    base = next(base for base in STREAMS if name.startswith(base))
    return base, int(name[len(base) :] or -1)


class Binder(Protocol):
    """Turns tasks into what runs; see `Operations`."""

    def bind(self, task: Task, operands: Operands) -> Run:
        """What the task does, with the tensors of its operands."""

    def allocate(self, buffer: Buffer) -> None:
        """Memory for a buffer that the schedule asks for while it runs."""

    def expert_ids(self, gate: Task) -> NDArray[np.int64]:
        """What a gate that has run has chosen, shape (tokens, top_k)."""

    def gate_weights(self, gate: Task) -> NDArray[np.float64] | None:
        """Weights of its choices, in the same order; None for a gate that keeps none."""

    def check_step(self, step: int) -> None:
        """Raise `MoelabError` where the program has not computed all of a step."""


class Executor(RecordingIssuer):
    """Issues to lanes.

    Parameters
    ----------
    streams, capacities, hosts: as for every issuer.
    device: runs the tasks of the streams `gpu`, `h2d` and `d2h`.
    threads: of the (host) device's computations, and of the CPU's.
    rank: the GPU of this process.
    record: whether to note when each task ran.
    """

    def __init__(
        self,
        streams: Sequence[str],
        capacities: Mapping[str, int],
        hosts: int,
        device: Device,
        threads: tuple[int, int],
        rank: int = 0,
        record: bool = True,
    ) -> None:
        super().__init__(streams, capacities, hosts)
        self.device = device
        self.rank = rank
        self.record = record
        self.buffers: list[Buffer] = []
        self.binder: Binder | None = None
        self.failure = Failure()
        self.start_ns: dict[int, int] = {}
        self.end_ns: dict[int, int] = {}
        self.issued_ns: list[int] = []  # what issuing each task took
        self._names: dict[int, str] = {}
        self._place: dict[int, tuple[Lane, int]] = {}  # of tasks since the last full barrier
        self.lanes: dict[int, Lane] = {}
        self._threads = threads
        self.base_ns: int = 0
        self.base: torch.cuda.Event | None = None

    def buffer(
        self,
        name: str,
        pool: str,
        bytes: float,
        holds: tuple[Contents, ...] = (),
        pinned: bool = False,
        owner: int = -1,
    ) -> Buffer:
        made = super().buffer(name, pool, bytes, holds, pinned, owner)
        if owner in (-1, self.rank) and pool != "pinned":
            self.buffers.append(made)
            if self.binder is not None:
                self.binder.allocate(made)
        return made

    def start(self, binder: Binder) -> None:
        """Start the lanes; tasks may be issued from now on."""
        self._before = sys.getswitchinterval(), torch.get_num_threads()
        sys.setswitchinterval(SWITCH_S)
        torch.set_num_threads(1)  # in this thread alone: more would take the cores of the lanes
        self.binder = binder
        for number, name in enumerate(self.streams):
            if self._is_mine(name) and not name.startswith("host"):
                self.lanes[number] = self._lane(name, self._threads)
        self.base_ns, self.base = self._base()

    def close(self) -> None:
        """End all lanes; what has not begun is skipped."""
        if self.binder is not None:
            switch_s, threads = self._before
            sys.setswitchinterval(switch_s)
            torch.set_num_threads(threads)
        self.failure.stop()
        for lane in self.lanes.values():
            lane.close()
        self.collect_times()
        self.binder = None  # and with it all tensors, but those that an error's traceback holds:
        if self.failure.error is not None:
            traceback.clear_frames(self.failure.error.__traceback__)
        self.lanes.clear()
        self.failure.lanes.clear()
        self._place.clear()

    def collect_times(self) -> None:
        """Read the clocks of CUDA lanes; call it when all tasks have ended."""
        for lane in self.lanes.values():
            if isinstance(lane, CudaLane) and self.base is not None:
                lane.flush(self.base, self.base_ns)

    def take(self) -> TaskGraph:
        """The graph of a phase; its times are read, and the two clocks are set anew.

        They drift by milliseconds in minutes, and CUDA's times lose digits as they grow.
        """
        self.collect_times()
        if self.record and self.lanes:
            self.base_ns, self.base = self._base()
        return super().take()

    # -- what an issuer does --------------------------------------------------------------------

    def _issue(
        self,
        task: Task,
        stream_id: int,
        dependencies: list[int],
        work: Work,
        operands: Operands,
    ) -> None:
        begin, running = time.perf_counter_ns(), 0
        self.check()
        super()._issue(task, stream_id, dependencies, work, operands)
        if self._runs_here(task):
            name = f"'{task.op}' (layer {task.layer}, step {task.step})"
            run = self._bind(task, operands, name)
            after = [self._place[i] for i in dependencies if i in self._place]
            self._names[task.number] = name
            if task.stream.startswith("host"):
                running = self._run_here(task, run, after)
            else:
                lane = self.lanes[stream_id]
                self._place[task.number] = (lane, lane.put(Job(task.number, run, after)))
        if self.record:
            self.issued_ns.append(time.perf_counter_ns() - begin - running)

    def _wait(self, tasks: tuple[int, ...], every_host: bool) -> None:
        super()._wait(tasks, every_host)
        for number in tasks:
            if number in self._place:
                lane, place = self._place[number]
                try:
                    lane.join(place)
                except Stop:
                    break
                except RuntimeError as error:  # CUDA reports a failed kernel when waited for
                    self.failure.report(error, f"the device (found in '{lane.name}')")
        self.check()

    def barrier(self, streams: Sequence[str] | None = None) -> None:
        super().barrier(streams)
        if streams is None:
            self._place.clear()
            self._names.clear()

    def _routing(self, gate: Task) -> NDArray[np.int64]:
        assert self.binder is not None
        return self.binder.expert_ids(gate)

    def gate_weights(self, gate: Task) -> NDArray[np.float64] | None:
        assert self.binder is not None
        return self.binder.gate_weights(gate)

    def check(self) -> None:
        """Raise the error of the first task that failed."""
        error = self.failure.error
        if error is None:
            return
        if isinstance(error, MoelabError):
            raise error
        raise MoelabError(f"task {self.failure.what} failed: {described(error)}") from error

    # -- helpers --------------------------------------------------------------------------------

    def _bind(self, task: Task, operands: Operands, name: str) -> Run:
        assert self.binder is not None
        try:
            return self.binder.bind(task, operands)
        except MoelabError:
            raise
        except Exception as error:
            raise MoelabError(f"task {name} cannot run: {described(error)}") from error

    def _runs_here(self, task: Task) -> bool:
        return self.hosts == 1 or task.stream == "peer" or self.host == self.rank

    def _is_mine(self, stream: str) -> bool:
        """Whether this process runs tasks of a stream: all but other GPUs' do."""
        _, gpu = split_stream(stream)
        return gpu in (-1, self.rank) or self.hosts == 1

    def _lane(self, name: str, threads: tuple[int, int]) -> Lane:
        base, _ = split_stream(name)
        on_device = base in ("gpu", "h2d", "d2h", "peer")
        count = {"gpu": threads[0], "cpu": threads[1]}.get(base, 1)
        kind, extra = (
            (CudaLane, {"record": self.record})
            if (self.device.is_cuda and on_device)
            else (Lane, {})
        )
        return kind(name, self.device, self.failure, self._times, count, self._describe, **extra)

    def _times(self, number: int, start_ns: int, end_ns: int) -> None:
        if self.record:
            self.start_ns[number] = start_ns
            self.end_ns[number] = end_ns

    def _describe(self, number: int) -> str:
        return self._names.get(number, str(number))

    def _run_here(self, task: Task, run: Run, after: Sequence[tuple[Lane, int]]) -> int:
        """A task on the issuing thread itself; returns what waiting and running took, in ns."""
        begin = time.perf_counter_ns()
        for lane, place in after:
            try:
                lane.join(place)
            except Stop:
                self.check()
        start = time.perf_counter_ns()
        with torch.inference_mode():
            try:
                run()
            except Exception as error:
                self.failure.report(error, self._describe(task.number))
        end = time.perf_counter_ns()
        self._times(task.number, start, end)
        self.check()
        return end - begin

    def _base(self) -> tuple[int, torch.cuda.Event | None]:
        """An event on the device's clock, and the host's time at which it was recorded.

        Known to half of what recording and waiting take; the shortest of some tries.
        """
        if not self.device.is_cuda:
            return time.perf_counter_ns(), None
        torch.cuda.synchronize()
        _, middle, event = min((self._mark() for _ in range(BASE_TRIES)), key=lambda mark: mark[0])
        return middle, event

    @staticmethod
    def _mark() -> tuple[int, int, torch.cuda.Event]:
        """How long recording an event and waiting for it took, the middle of it, and the event."""
        event = torch.cuda.Event(enable_timing=True)
        begin = time.perf_counter_ns()
        event.record()
        event.synchronize()
        end = time.perf_counter_ns()
        return end - begin, (begin + end) // 2, event
