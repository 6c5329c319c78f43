"""Bench `copy_pair`: two streams at once, and each alone right before, in turns.

What they share (a link's directions, the memory of the host, its cores) shows in what each loses.
Threads that share cores take turns of milliseconds, so that most short tasks lose nothing and a few
lose much: what is kept is the pace of a round, not the times of its tasks.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from statistics import mean

from runtime.calibration.actions import Action, copying, matrix_width, multiplying, reading
from runtime.calibration.effort import Effort, Item, Items, item
from runtime.calibration.lanes import Lanes, Span
from runtime.calibration.room import Room
from runtime.calibration.store import Params
from runtime.device import DeviceOptions

BLOCK_BYTES = 4 << 20  # of each role: many repetitions lie within the time of both
TOKENS = 16
ROUNDS = 5
MOST = 400  # repetitions of a round
PAIRS = (
    ("h2d", "d2h"),
    ("h2d", "read"),
    ("h2d", "pin"),
    ("pin", "read"),
    ("gemm", "h2d"),
    ("gemm", "read"),
    ("gemm", "pin"),
)
WHEN = ("alone", "together")

Measured = Mapping[tuple[str, str], Sequence[float]]
"""Seconds for each repetition in each round, by role and `alone` or `together`."""


def points(options: DeviceOptions, effort: Effort) -> Items:
    """Params `pair` (two roles), `role`, `when` (`alone`, `together`) and `threads` of the role.

    The amount is in `bytes`, of `gemm` in `flops` too. Roles are links (pinned memory), `read`
    (the CPU reads host memory with the threads of its attention) and `gemm` (the device multiplies
    few tokens with one matrix after the other).
    """
    room = Room(options, effort)
    for pair in PAIRS:
        yield from _points(room, effort, pair)


def _points(room: Room, effort: Effort, pair: tuple[str, str]) -> Items:
    measured = cache(lambda: _measure(room, effort, pair))  # once for the four points of a pair
    for role in pair:
        for when in WHEN:
            yield _point(room, pair, role, when, lambda r=role, w=when: measured()[r, w])  # type: ignore[misc]


def _point(
    room: Room,
    pair: tuple[str, str],
    role: str,
    when: str,
    seconds: Callable[[], Iterable[float]],
) -> Item:
    gpu, cpu = room.options.threads
    threads = {"gemm": gpu, "read": cpu}.get(role, 1)
    amount = {"bytes": float(_block(room))}
    if role == "gemm":
        width = matrix_width(room)
        amount = {"bytes": 4.0 * width * width, "flops": 2.0 * TOKENS * width * width}
    params: Params = {"pair": "+".join(pair), "role": role, "when": when, "threads": threads}
    return item("copy_pair", params, amount, seconds)


def _block(room: Room) -> int:
    return min(BLOCK_BYTES, room.size_bytes)


def _action(room: Room, role: str) -> Action:
    gpu, cpu = room.options.threads
    if role == "gemm":
        return multiplying(room, TOKENS, matrix_width(room), gpu)
    if role == "read":
        return reading(room, _block(room), cpu)
    return copying(room, role, _block(room))


def _measure(room: Room, effort: Effort, pair: tuple[str, str]) -> Measured:
    actions = {role: _action(room, role) for role in pair}
    threads = {action.lane: action.threads for action in actions.values()}
    found: dict[tuple[str, str], list[float]] = {(r, w): [] for r in pair for w in WHEN}
    with room.lanes(threads) as lanes:
        counts = {role: _count(lanes, action, effort) for role, action in actions.items()}

        def ran(*roles: str) -> dict[str, float]:
            own = {role: actions[role] for role in roles}
            spans = lanes.run({a.lane: a.take(counts[role]) for role, a in own.items()})
            return together({role: spans[a.lane] for role, a in own.items()})

        for _ in range(min(ROUNDS, effort.repeats)):
            for role in pair:
                found[role, "alone"].append(ran(role)[role])
            for role, seconds in ran(*pair).items():
                found[role, "together"].append(seconds)
    return found


def _count(lanes: Lanes, action: Action, effort: Effort) -> int:
    """Repetitions that take a round's time alone, after a warm-up."""
    once = lanes.seconds(action.lane, action.take(3))[-1]
    return min(MOST, max(5, math.ceil(effort.least_s / 3 / max(once, 1e-9))))


def together(spans: Mapping[str, Sequence[Span]]) -> dict[str, float]:
    """Seconds for each task of a lane, in the time in which all lanes were busy.

    That time over the tasks done in it; a task that lies partly in it counts in part. Lanes that
    never met have the mean of their tasks.

    >>> a = [Span(0.0, 1.0), Span(1.0, 3.0), Span(3.0, 5.0)]
    >>> together({"a": a, "b": [Span(1.0, 4.0)]})
    {'a': 2.0, 'b': 3.0}
    """
    begin = max(own[0].start_s for own in spans.values())
    end = min(own[-1].end_s for own in spans.values())
    if end <= begin:
        return {name: mean(span.seconds for span in own) for name, own in spans.items()}
    done = {name: sum(_part(span, begin, end) for span in own) for name, own in spans.items()}
    return {name: (end - begin) / n for name, n in done.items()}


def _part(span: Span, begin: float, end: float) -> float:
    """How much of a task lies between two times."""
    within = min(span.end_s, end) - max(span.start_s, begin)
    return max(0.0, within) / max(span.seconds, 1e-9)
