"""SiDA's operations: a predictor on the CPU names the experts of all layers of a pass.

`predict` reads the tokens of a micro-batch, `predict_experts` fills a layer's rows of the hash
table, and `load_choices` brings the table to the GPU, where `experts` reads it in place of what a
gate has chosen. The table has the expert ids of all layers, then their weights.

Tasks are bound in the order of issue. What was issued is noted, and a schedule that leaves out
something is refused.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from runtime.context import Context
from runtime.lane import Run
from runtime.predictor import Past, PredictorNetwork, choose
from schedules.errors import MoelabError
from schedules.expert.sida_predictor import LSTM_LAYERS, WIDTH
from schedules.issuer import Operands
from schedules.task import Buffer, Task

NOT_READ = "the predictor has not read the tokens"


def predict(context: Context, task: Task, operands: Operands) -> Run:
    """Read the prompts, or the newest token of each sequence."""
    state, step, network = context.state(task), task.step, _network(context)
    _note(context, "read", task, after=step - 1)
    context.parts["filled", task.micro_batch] = set()
    past, mixed = _memory(context, task, context.only(operands.writes, "predictor states"))
    lengths = state.batch.prompt_lengths
    counts = lengths if step == 0 else (1,) * len(lengths)
    before = [0 if step == 0 else length + step - 1 for length in lengths]
    source = context.weights.source
    table = source.encoder_embedding() if context.in_encoder(task) else source.embedding()
    ids = state.prompt_ids if step == 0 else state.ids

    def run() -> int:
        mixed.copy_(network.read(table[ids.cpu()], counts, before, past))
        return 0

    return run


def predict_experts(context: Context, task: Task, operands: Operands) -> Run:
    """The choices of a layer, into the hash table and the log of the routing."""
    network, number = _network(context), context.number(task)
    _check(context, "read", task, NOT_READ)
    _, mixed = _memory(context, task, context.only(operands.reads, "predictor states"))
    ids, weights = _table(context, task, context.only(operands.writes, "hash table"))
    row, sink = context.log.row[task.layer], context.log.sink(task.layer, task.micro_batch)
    _filled(context, task).add(row)

    def run() -> int:
        chosen, their_weights = choose(context.arch, network.logits(number, mixed))
        ids[row].copy_(chosen)
        weights[row].copy_(their_weights)
        sink(chosen)
        return 0

    return run


def load_choices(context: Context, task: Task, operands: Operands) -> Run:
    """The hash table of a pass to the GPU."""
    _check(context, "read", task, NOT_READ)
    missing = len(context.log.layers) - len(_filled(context, task))
    if missing:
        raise MoelabError(f"the hash table lacks {missing} layers: the predictor did not name them")
    _note(context, "loaded", task)
    source = _table(context, task, context.only(operands.reads, "hash table"))
    target = _table(context, task, context.only(operands.writes, "choices"))

    def run() -> int:
        for there, here in zip(target, source, strict=True):
            there.copy_(here, non_blocking=True)
        return sum(part.nbytes for part in target)

    return run


def predicted(context: Context, task: Task, choices: Buffer) -> tuple[Tensor, Tensor]:
    """Expert ids and weights of a layer, each (tokens, top_k), on the GPU."""
    _check(context, "loaded", task, "the hash table was not brought to the GPU")
    ids, weights = _table(context, task, choices)
    row = context.log.row[task.layer]
    return ids[row], weights[row]


# -- memory ----------------------------------------------------------------------------------------


def _memory(context: Context, task: Task, buffer: Buffer) -> tuple[Past, Tensor]:
    """What the predictor keeps, and what the heads take of this pass, (tokens, WIDTH)."""
    batch, tokens = context.state(task).batch, context.state(task).tokens(task.step)
    ends = list(accumulate(length + context.layout.gen_len for length in batch.prompt_lengths))
    kept, states = ends[-1], 2 * LSTM_LAYERS * batch.size
    shape = (kept + states + batch.prompt_tokens, WIDTH)
    rows = context.memory.view(buffer, shape, torch.float32)
    past = Past(
        outputs=rows[:kept],
        offsets=[0, *ends[:-1]],
        states=rows[kept : kept + states].view(2, LSTM_LAYERS, batch.size, WIDTH),
    )
    return past, rows[kept + states :][:tokens]


def _table(context: Context, task: Task, buffer: Buffer) -> tuple[Tensor, Tensor]:
    """Ids and weights of all layers of a pass, each (layers, tokens, top_k)."""
    tokens, top_k = context.state(task).tokens(task.step), context.arch.spec.top_k
    shape = (len(context.log.layers), tokens, top_k)
    ids = context.memory.view(buffer, shape, torch.int64)
    return ids, context.memory.view(buffer, shape, context.dtype, ids.nbytes)


# -- what was issued -------------------------------------------------------------------------------


def _network(context: Context) -> PredictorNetwork:
    if context.predictor is None:
        raise MoelabError("the session has no predictor")
    return context.predictor


def _note(context: Context, what: str, task: Task, after: int | None = None) -> None:
    """Note that a micro-batch's `what` is that of this step; it must have been of step `after`."""
    key = (what, task.micro_batch)
    if after is not None and context.parts.get(key, -1) != after:
        raise MoelabError(f"the predictor must read every token once, step {task.step} included")
    context.parts[key] = task.step


def _check(context: Context, what: str, task: Task, complaint: str) -> None:
    if context.parts.get((what, task.micro_batch)) != task.step:
        raise MoelabError(f"{complaint} of micro-batch {task.micro_batch}, step {task.step}")


def _filled(context: Context, task: Task) -> set[int]:
    """Rows of the hash table that have been filled in this step."""
    rows: set[int] = context.parts["filled", task.micro_batch]
    return rows
