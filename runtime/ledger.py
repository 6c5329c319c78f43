"""What activations and caches every buffer holds, followed in the order of issue.

As the page table of the weights (`device_weights`), it refuses a schedule that forgets to compute
or to move something, which would go on with whatever lay there before.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runtime.context import Context
from schedules.contents import KVSpan
from schedules.errors import MoelabError
from schedules.issuer import Operands
from schedules.task import Buffer, Task

LAYER, ATTENTION, FFN = (0, 2), (0, 1), (1, 2)
PASSES = {
    "pre_attention": (0, 0),
    "post_attention": LAYER,
    "out_projection": ATTENTION,
    "ffn": FFN,
    "compute_layer": LAYER,
    "compute_attention": ATTENTION,
    "compute_ffn": FFN,
    "prefill_layer": LAYER,
    "prefill_attention": ATTENTION,
    "prefill_ffn": FFN,
    "gate": (1, 1),
    "experts": FFN,
    "scored_gate": (1, 1),
    "mixed_experts": FFN,
    "some_experts": (1, 1),
    "shared_experts": (1, 1),
    "send_tokens": (1, 1),
    "combine": FFN,
    "head": (2, 2),
}
"""Where an operation finds the hidden states, and where it leaves them: 0 before its layer, 1 after
the attention, 2 after the layer."""

EMBEDS = {op for op in PASSES if PASSES[op][0] == 0} - {"post_attention", "out_projection"}
"""These look up the token embeddings where they run the first layer."""

NEEDS = {
    "cpu_attention": "qkv",
    "post_attention": "attended",
    "out_projection": "attended",
    "experts": "routed",
    "mixed_experts": "routed",
    "some_experts": "routed",
    "send_tokens": "routed",
}
MAKES = {
    "pre_attention": "qkv",
    "cpu_attention": "attended",
    "gate": "routed",
    "scored_gate": "routed",
    "pre_gate": "routed",  # of a later layer, from the hidden states of this one
}
COPIES = {"offload_qkv", "load_attended", "load_hidden", "store_hidden"}
ATTENDS = (EMBEDS - {"pre_attention"}) | {"cpu_attention"}

HIDDEN, NEW_KV = "hidden states", "new keys and values"
ON_GPU = {0: ("prompt hidden",), 1: ("hidden", "prompt hidden")}  # in prefill, in decode
WAITING = ("new KV", "KV block", "prompt hidden")  # kinds that hold new keys and values a while
VISITED = ("KV block", "KV staging")  # kinds that hold some cache for a while
WORDS = {
    "qkv": "queries, keys and values",
    "attended": "attention outputs",
    "routed": "choices of the gate",
}

Made = tuple[str, int, int, int]
"""Kind, micro-batch, step, place: layers passed, times two, and one after an attention."""


class Known(NamedTuple):
    """A buffer's kind (none where this process has no memory for it), and the layers and
    micro-batches whose cache it holds for good."""

    kind: str
    cached: frozenset[tuple[int, int]]


class Ledger:
    """The account of one session; `follow` is called for every task, in the order of issue."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.known: dict[int, Known] = {}
        self.held: dict[int, Made] = {}
        self.waiting: dict[int, Made] = {}  # new keys and values, beside hidden states or a block
        self.cached: dict[int, int] = {}  # step of the newest token in each block of the cache
        self.ended: dict[int, int] = {}  # step whose last layer a micro-batch has passed

    def follow(self, task: Task, operands: Operands) -> None:
        """Raise `MoelabError` where the task would find something else than it needs."""
        op = task.op
        if op in PASSES:
            self._pass(task, operands)
        by_predictor = op == "experts" and self._one(operands.reads, "choices") is not None
        if op in NEEDS and not by_predictor:  # `predicting` looks after these
            buffer = self._one(operands.reads, NEEDS[op])
            self._need(task, buffer, _made(NEEDS[op], task), self.held)
        if op in MAKES:
            self.held[id(self._one(operands.writes, MAKES[op]))] = _made(MAKES[op], task)
        if op in ATTENDS:
            self._attend(task, operands)
        elif op in COPIES:
            self._copy(task, operands)
        elif op in ("load_kv", "pin_kv"):
            self._load_cache(task, operands)
        elif op == "store_kv":
            self._store_cache(task, operands)

    def check_step(self, step: int) -> None:
        """Raise `MoelabError` where a micro-batch has not come to the end of a step."""
        for j in range(len(self.context.states)):
            if self.ended.get(j) != step:
                raise MoelabError(
                    f"step {step} ended before micro-batch {j} had passed all layers: the schedule "
                    "did not compute them"
                )

    # -- activations ----------------------------------------------------------------------------

    def _pass(self, task: Task, operands: Operands) -> None:
        before, after = PASSES[task.op]
        buffer = self._hidden(task, operands)
        if task.layer or task.op not in EMBEDS:
            self._need(task, buffer, _made(HIDDEN, task, before), self.held)
        self.held[id(buffer)] = _made(HIDDEN, task, after)
        if after == 2 and self.context.is_last(task):
            self.ended[task.micro_batch] = task.step

    def _copy(self, task: Task, operands: Operands) -> None:
        """Hidden states may be copied at any time; what is made in a layer belongs to it."""
        source, target = operands.reads[0], operands.writes[0]
        kind = self._of(source).kind
        kind = HIDDEN if kind in ON_GPU[1] else kind
        held, own = self.held.get(id(source)), _made(kind, task)
        if held is None or held[:3] != own[:3] or (kind != HIDDEN and held != own):
            self._need(task, source, own, self.held)
        else:
            self.held[id(target)] = held

    def _need(
        self, task: Task, buffer: Buffer | None, needed: Made, table: Mapping[int, Made]
    ) -> None:
        held = table.get(id(buffer))
        if held != needed:
            where = "the memory of prefill" if buffer is None else f"buffer '{buffer.name}'"
            raise MoelabError(
                f"task '{task.op}' needs {_words(needed)}, but {where} holds "
                f"{'nothing' if held is None else _words(held)}: the schedule did not compute "
                "them, or did not bring them there"
            )

    # -- the cache ------------------------------------------------------------------------------

    def _attend(self, task: Task, operands: Operands) -> None:
        """Old tokens are in the cache; the new ones come in, or wait to be stored."""
        blocks = [b for b in (*operands.writes, *operands.reads) if self._in_cache(b, task)]
        for buffer in blocks:
            if task.step:
                self._need_cache(task, buffer)
        for buffer in blocks:
            self.cached[id(buffer)] = task.step
        for buffer in operands.writes:
            if self._of(buffer).kind in WAITING:
                self.waiting[id(buffer)] = _made(NEW_KV, task)

    def _load_cache(self, task: Task, operands: Operands) -> None:
        source, target = operands.reads[0], operands.writes[0]
        if self._in_cache(source, task):
            self._need_cache(task, source)
            self.cached[id(target)] = task.step - 1

    def _store_cache(self, task: Task, operands: Operands) -> None:
        source, target = operands.reads[0], operands.writes[0]
        if self._in_cache(target, task):
            self._need(task, source, _made(NEW_KV, task), self.waiting)
            if task.step:
                self._need_cache(task, target)
            self.cached[id(target)] = task.step

    def _in_cache(self, buffer: Buffer, task: Task) -> bool:
        """Whether a buffer holds some of the cache of the task's layer and micro-batch."""
        kind, cached = self._of(buffer)
        if cached and self.context.in_encoder(task):  # its end fills the cache of all layers
            return any(micro_batch == task.micro_batch for _, micro_batch in cached)
        if cached:
            return (task.layer, task.micro_batch) in cached
        visiting = self.context.cached.get(id(buffer)) if kind in VISITED else None
        if visiting is None or visiting[:2] != (task.layer, task.micro_batch):
            return False
        return self.context.layout.share(visiting).rows > 0

    def _need_cache(self, task: Task, buffer: Buffer) -> None:
        """All tokens but the newest."""
        newest = self.cached.get(id(buffer))
        if newest != task.step - 1:
            held = "none" if newest is None else f"those up to step {newest}"
            raise MoelabError(
                f"task '{task.op}' needs the cached tokens of layer {task.layer} (micro-batch "
                f"{task.micro_batch}) up to step {task.step - 1}, but buffer '{buffer.name}' holds "
                f"{held}: the schedule did not store them, or did not bring them there"
            )

    # -- buffers --------------------------------------------------------------------------------

    def _of(self, buffer: Buffer) -> Known:
        known = self.known.get(id(buffer))
        if known is None:
            spans = [h for h in buffer.holds if isinstance(h, KVSpan)]
            cached = frozenset(s[:2] for s in spans if self.context.layout.share(s).rows)
            known = Known(buffer.kind if self.context.owns(buffer) else "", cached)
            self.known[id(buffer)] = known
        return known

    def _one(self, buffers: Sequence[Buffer], kind: str) -> Buffer | None:
        for buffer in buffers:
            if self._of(buffer).kind == kind:
                return buffer
        return None

    def _hidden(self, task: Task, operands: Operands) -> Buffer | None:
        """As `Context.hidden` finds them; None: in the memory of prefill."""
        for kind in ON_GPU[min(task.step, 1)]:
            found = self._one(operands.writes, kind) or self._one(operands.reads, kind)
            if found is not None:
                return found
        return None


def _made(kind: str, task: Task, half: int = 0) -> Made:
    """What a task leaves, `half` half layers after the beginning of its layer."""
    return kind, task.micro_batch, task.step, 2 * task.layer + half


def _words(made: Made) -> str:
    kind, micro_batch, step, place = made
    layer, half = divmod(place, 2)
    where = f"of layer {layer}"
    if kind == HIDDEN:
        where = f"after the attention of layer {layer}" if half else f"before layer {layer}"
    return f"the {WORDS.get(kind, kind)} {where} (micro-batch {micro_batch}, step {step})"
