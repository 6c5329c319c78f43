"""What an FFN's parts have put where: some experts on the GPU, others on the CPU.

Followed in the order of issue, as the ledger does: a schedule that forgets an expert, or computes
one twice, or brings back less than the CPU has made, is refused.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.context import Context
from schedules.contents import Span
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.layout import layer_at
from schedules.task import Buffer, Task

EVERY = "every expert that a token has chosen"
SHARED = "the shared experts"

Rows = NDArray[np.int64] | None
"""Numbers of the tokens that the rows of a buffer stand for; None: all, in order."""


class Part(NamedTuple):
    """What lies in a buffer: of which pass through a layer, which tokens, and whose outputs.

    For what has been sent to the CPU, `experts` are those that it may compute.
    """

    place: tuple[int, int, int]
    rows: Rows
    experts: tuple[int | str, ...]

    def count(self, tokens: int) -> int:
        """Rows, of a pass with so many tokens."""
        return tokens if self.rows is None else len(self.rows)


def place_of(task: Task) -> tuple[int, int, int]:
    """Which pass through a layer a task belongs to: micro-batch, step, layer."""
    return max(0, task.micro_batch), task.step, task.layer


def experts_of(operands: Operands) -> tuple[int, ...]:
    """The experts that a task names; none: it means all that have been chosen."""
    return tuple(span.expert for span in operands.what if isinstance(span, Span))


def note_asked(context: Context, gate: Task) -> None:
    """The schedule has waited for a gate, and knows what it has chosen."""
    context.parts["asked", max(0, gate.micro_batch), gate.layer] = gate.step


def chosen_ids(context: Context, task: Task) -> NDArray[np.int64]:
    """What the gate of the task's layer has chosen, shape (tokens, top_k).

    Raises `MoelabError` where the schedule has not asked: the gate may not have run yet.
    """
    micro_batch, step, layer = place_of(task)
    if context.parts.get(("asked", micro_batch, layer)) != step:
        raise MoelabError(
            f"task '{task.op}' of layer {layer} (step {step}) is for named experts, but the "
            "schedule has not asked what the gate of that layer has chosen"
        )
    return context.log.gate(layer, micro_batch)


def keep(context: Context, buffer: Buffer, part: Part) -> None:
    """Note what a buffer holds from now on."""
    context.parts["part", id(buffer)] = part


def part_in(context: Context, task: Task, buffer: Buffer) -> Part:
    """What a buffer holds. Raises `MoelabError` where that is not of the task's layer."""
    part = context.parts.get(("part", id(buffer)))
    if part is None or part.place != place_of(task):
        raise MoelabError(
            f"task '{task.op}' of layer {task.layer} (step {task.step}) reads buffer "
            f"'{buffer.name}', which holds nothing of that layer: the schedule did not compute it, "
            "or did not bring it there"
        )
    return part  # type: ignore[no-any-return]


def add(
    context: Context, task: Task, buffer: Buffer, experts: tuple[int | str, ...], rows: Rows = None
) -> bool:
    """Note that a task adds outputs to a buffer; whether they are the first of this layer.

    Raises `MoelabError` for an expert whose outputs are there already.
    """
    part: Part | None = context.parts.get(("part", id(buffer)))
    before = part.experts if part is not None and part.place == place_of(task) else ()
    _check_once(task, (*before, *experts))
    keep(context, buffer, Part(place_of(task), rows, (*before, *experts)))
    return not before


def check_whole(context: Context, task: Task, parts: list[Part]) -> None:
    """Raise `MoelabError` unless the parts have each expert of the layer once, of each token.

    The gate has run where a part names its experts: the schedule had to ask for them.
    """
    found = [expert for part in parts for expert in part.experts]
    _check_once(task, found)
    needed: set[int | str] = set()
    if EVERY not in found:
        chosen = chosen_ids(context, task)
        needed = {expert for expert in np.unique(chosen).tolist() if expert >= 0}
    if layer_at(context.arch.spec, context.number(task)).shared_parameters:
        needed.add(SHARED)
    if missing := needed - set(found):
        names = ", ".join(
            str(e) if e == SHARED else f"expert {e}" for e in sorted(missing, key=str)
        )
        raise MoelabError(
            f"task '{task.op}' of layer {task.layer} (step {task.step}) lacks the outputs of "
            f"{names}: the schedule did not compute them, or did not bring them there"
        )


def _check_once(task: Task, experts: list[int | str] | tuple[int | str, ...]) -> None:
    routed = [expert for expert in experts if expert != SHARED]
    if len(set(experts)) < len(experts) or (EVERY in routed and len(routed) > 1):
        raise MoelabError(
            f"task '{task.op}' of layer {task.layer} (step {task.step}) adds outputs of an expert "
            "a second time"
        )
