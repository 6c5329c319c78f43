"""Bench `launch`: what each call costs however little it does.

Every repetition is a batch of `calls`; the amount says how many.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from runtime.calibration.effort import Effort, Items, item, repeated
from runtime.calibration.lanes import Lanes
from runtime.calibration.room import Room
from runtime.cpu_attention import decode_attention, in_parallel
from runtime.device import DeviceOptions
from runtime.lane import Job, Lane, Run

TINY = 64  # numbers of a tiny kernel, and of a tiny copy
HEAD_DIM = 64

Timed = Callable[[Room, int], Callable[[], float]]


def points(options: DeviceOptions, effort: Effort) -> Items:
    """Params `what`; the amount is in `calls`.

    kernel      a tiny kernel on the device, among others
    link_call   a tiny copy to the device, among others
    task        a task that does nothing, from its issue to its end, among others
    round_trip  a tiny kernel: issue, run and wait for it, before the next is issued
    hop         from a task's end in one lane of the device to the start of the next in the other
    cpu_hop     the same, between the device and the CPU, which has to wait for the device's end
    sync        waiting for what has ended already
    fork        a parallel region of the CPU's attention that does nothing
    cpu_call    the CPU's attention with one token for each thread
    """
    room = Room(options, effort)
    for what, seconds in _benches(room, effort).items():
        calls = effort.batch if what in BATCHED else max(1, effort.batch // 10)
        yield item("launch", {"what": what}, {"calls": calls}, partial(seconds, calls))


BATCHED = ("kernel", "link_call", "sync", "task")


def _benches(room: Room, effort: Effort) -> Mapping[str, Callable[[int], list[float]]]:
    return {
        "kernel": lambda n: _in_one_task(room, effort, "gpu", _tiny_kernel(room), n),
        "link_call": lambda n: _in_one_task(room, effort, "h2d", _tiny_copy(room), n),
        "task": lambda n: _by_the_clock(room, effort, ("gpu",), n, _tasks),
        "round_trip": lambda n: _by_the_clock(room, effort, ("gpu",), n, _round_trips(room)),
        "hop": lambda n: _by_the_clock(room, effort, ("gpu", "h2d"), n, _hops(room)),
        "cpu_hop": lambda n: _by_the_clock(room, effort, ("gpu", "cpu"), n, _hops(room)),
        "sync": lambda n: _by_the_clock(room, effort, ("gpu",), n, _syncs),
        "fork": lambda n: _in_one_task(room, effort, "cpu", _fork(room), n),
        "cpu_call": lambda n: _in_one_task(room, effort, "cpu", _attention(room), n),
    }


# -- many calls in one task -------------------------------------------------------------------


def _in_one_task(
    room: Room, effort: Effort, lane: str, call: Callable[[], object], calls: int
) -> list[float]:
    def run() -> int:
        for _ in range(calls):
            call()
        return 0

    threads = {"gpu": room.options.threads[0], "cpu": room.options.threads[1]}.get(lane, 1)
    with room.lanes({lane: threads}) as lanes:
        return repeated(effort, lambda n: lanes.seconds(lane, [run] * n))


def _tiny_kernel(room: Room) -> Callable[[], object]:
    x = torch.zeros(TINY, device=room.device.torch_device)
    return lambda: x.add_(1)


def _tiny_copy(room: Room) -> Callable[[], object]:
    source, target = (room.arena(where)[:TINY] for where in ("pinned", "gpu"))
    return lambda: target.copy_(source, non_blocking=True)


def _fork(room: Room) -> Callable[[], object]:
    return partial(in_parallel, lambda thread: None, room.options.threads[1])


def _attention(room: Room) -> Callable[[], object]:
    n = room.options.threads[1]
    q, keys, values = (torch.rand(n, 1, HEAD_DIM) for _ in range(3))
    out, offsets, contexts = torch.empty_like(q), torch.arange(n), torch.ones(n, dtype=torch.int64)
    return lambda: decode_attention(q, keys, values, offsets, contexts, out, n)


# -- tasks, by the clock of the issuing thread --------------------------------------------------


def _by_the_clock(
    room: Room,
    effort: Effort,
    names: tuple[str, ...],
    calls: int,
    do: Callable[[list[Lane], int], None],
) -> list[float]:
    with room.lanes(dict.fromkeys(names, 1)) as lanes:
        own = [lanes.lanes[name] for name in names]

        def once() -> float:
            _settle(lanes)
            own[0].join(own[0].put(Job(-1, _nothing, ())))
            start = time.perf_counter()
            do(own, calls)
            return time.perf_counter() - start

        return repeated(effort, lambda n: [once() for _ in range(n)])


def _settle(lanes: Lanes) -> None:
    """No lane has anything to do, and none keeps the events of what it did."""
    lanes.run({name: [_nothing] for name in lanes.lanes})


def _nothing() -> int:
    return 0


def _tasks(lanes: list[Lane], calls: int) -> None:
    for _ in range(calls):
        place = lanes[0].put(Job(-1, _nothing, ()))
    lanes[0].join(place)


def _round_trips(room: Room) -> Callable[[list[Lane], int], None]:
    run = _tiny_task(room)

    def do(lanes: list[Lane], calls: int) -> None:
        for _ in range(calls):
            lanes[0].join(lanes[0].put(Job(-1, run, ())))

    return do


def _hops(room: Room) -> Callable[[list[Lane], int], None]:
    """Every task waits for the one before, which is in the other lane."""

    def do(lanes: list[Lane], calls: int) -> None:
        after: tuple[tuple[Lane, int], ...] = ()
        for i in range(calls):
            lane = lanes[i % 2]
            after = ((lane, lane.put(Job(-1, _nothing, after))),)
        lane, place = after[0]
        lane.join(place)

    return do


def _syncs(lanes: list[Lane], calls: int) -> None:
    place = lanes[0].count  # has ended
    for _ in range(calls):
        lanes[0].join(place)


def _tiny_task(room: Room) -> Run:
    kernel = _tiny_kernel(room)

    def run() -> int:
        kernel()
        return 0

    return run
