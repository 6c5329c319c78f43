"""Lanes: each stream of a schedule has a worker that runs its tasks in the order of issue.

A task starts when those that it depends on have ended. On a CUDA lane "running" is launching: the
worker waits until the tasks of other lanes have been launched, and lets the device wait for them
by events; only a task of the CPU stops the worker itself.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

import torch

from runtime.device import Device

Run = Callable[[], int]
"""Does the task; returns the bytes that it moved over a paced link (0 when there is none)."""


class Job(NamedTuple):
    """A task as a lane sees it: what to run after which tasks, and where its times go."""

    number: int
    run: Run
    after: Sequence[tuple["Lane", int]]


class Stop(Exception):
    """Another lane has failed, or the session is closing."""


class Failure:
    """The first error of any lane; all lanes stop when there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.what = ""
        self.stopped = False
        self.lanes: list[Lane] = []

    def report(self, error: BaseException, what: str) -> None:
        """Keep the first error, and let nobody wait any more."""
        with self._lock:
            if self.error is None and not self.stopped:
                self.error, self.what = error, what
        self.stop()

    def stop(self) -> None:
        """Skip all tasks that have not begun."""
        self.stopped = True
        for lane in self.lanes:
            lane.wake()


class Lane:
    """A worker thread on the host; the base of a CUDA lane too.

    Parameters
    ----------
    failure: shared by all lanes of a session.
    times: called with (number, start, end) of each task, in this lane's thread.
    threads: threads that torch may use for one operation of this lane.
    """

    is_cuda = False

    def __init__(
        self,
        name: str,
        device: Device,
        failure: Failure,
        times: Callable[[int, int, int], None],
        threads: int = 1,
        describe: Callable[[int], str] = str,
    ) -> None:
        self.name = name
        self.device = device
        self.failure = failure
        self.times = times
        self.threads = threads
        self.describe = describe
        self.count = 0  # tasks given to this lane
        self.done = 0  # tasks that have ended (CUDA: have been launched)
        self._change = threading.Condition()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        failure.lanes.append(self)
        self._thread = threading.Thread(target=self._work, name=f"moelab {name}", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> int:
        """Queue a task; returns its place in this lane, counted from 1."""
        self.count += 1
        self._queue.put(job)
        return self.count

    def join(self, place: int, by: "Lane | None" = None) -> None:
        """Wait until the task at `place` has ended; `by` is the lane that waits, None the issuer.

        Raises `Stop` when the run has failed meanwhile.
        """
        self._wait_for(place)
        if self.failure.stopped:  # the task may be one of those that were skipped
            raise Stop

    def close(self) -> None:
        """Run what is queued (skip it after a failure) and end the worker."""
        self._queue.put(None)
        self._thread.join()

    def wake(self) -> None:
        """Let every waiter look again: the run has failed."""
        with self._change:
            self._change.notify_all()

    def _wait_for(self, place: int) -> None:
        if self.done >= place:
            return
        with self._change:
            while self.done < place:
                if self.failure.stopped:
                    raise Stop
                self._change.wait()

    def _work(self) -> None:
        torch.get_num_threads()  # else this thread's first operation takes what any set last
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            while (job := self._queue.get()) is not None:
                if not self.failure.stopped:
                    try:
                        self._execute(job)
                    except Stop:
                        pass
                    except BaseException as error:  # every error must end the run, none a thread
                        self.failure.report(error, self.describe(job.number))
                with self._change:
                    self.done += 1
                    self._change.notify_all()

    def _execute(self, job: Job) -> None:
        for lane, place in job.after:
            lane.join(place, self)
        start = time.perf_counter_ns()
        moved = job.run()
        if moved:
            self.device.paced(start, moved)
        self.times(job.number, start, time.perf_counter_ns())


class CudaLane(Lane):
    """A CUDA stream and the worker that launches on it.

    Waiting threads sleep: one that spins takes a core from the CPU's attention.
    """

    is_cuda = True

    def __init__(self, *args: object, record: bool = True, **kwargs: object) -> None:
        self.record = record
        self.stream = torch.cuda.Stream()
        self.events: list[tuple[int, torch.cuda.Event | None, torch.cuda.Event]] = []
        self.first = 1  # place of the first event in the list
        self._spare: list[torch.cuda.Event] = []  # their times have been read
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def join(self, place: int, by: Lane | None = None) -> None:
        self._wait_for(place)
        if self.failure.stopped:
            raise Stop
        end = self.events[place - self.first][2]
        if isinstance(by, CudaLane):
            by.stream.wait_event(end)
        else:
            end.synchronize()

    def close(self) -> None:
        """As on the host; and nothing in flight outlives the memory that it uses."""
        super().close()
        with suppress(RuntimeError):  # an error of the device has been reported where it was met
            self.stream.synchronize()

    def _execute(self, job: Job) -> None:
        with torch.cuda.stream(self.stream):
            for lane, place in job.after:
                lane.join(place, self)
            start = self._event() if self.record else None
            end = self._event()
            if start is not None:
                start.record(self.stream)
            job.run()
            end.record(self.stream)
        self.events.append((job.number, start, end))

    def _event(self) -> torch.cuda.Event:
        if self._spare:
            return self._spare.pop()
        return torch.cuda.Event(enable_timing=self.record, blocking=True)

    def flush(self, base: torch.cuda.Event, base_ns: int) -> None:
        """Hand over the times of all tasks so far, which have ended; their events serve again.

        `base` is an event that was recorded when the host's clock showed `base_ns`. After an error
        of the device there are no times.
        """
        with suppress(RuntimeError):
            for number, start, end in self.events:
                if start is not None:
                    begin, stop = (base_ns + int(base.elapsed_time(e) * 1e6) for e in (start, end))
                    self.times(number, begin, stop)
        self._spare += [e for _, *pair in self.events for e in pair if e is not None]
        self.first += len(self.events)
        self.events.clear()
