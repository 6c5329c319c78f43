"""What buffers hold and copies move: whatever a task computes with, the schedule has brought.

`Tracking` follows the order of issue, as the dependencies do. It knows which rows of which matrices
lie in every buffer, and which sequences' keys and values, and it looks at every computation. What
else a task reads (hidden states, queries, logits) has been written in the same pass.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.contents import KVSpan, Packed, Span
from schedules.graph import RecordingIssuer
from schedules.layout import ATTENTION, MATRICES, SHARED, layer_matrices, rows_of
from schedules.model import ModelSpec
from schedules.placing import Placement, place
from schedules.policy import make_policy
from schedules.quantisation import Quantisation
from schedules.routing import Routing
from schedules.schedule import find_schedule, runnable
from tests.schedules.test_layout import model as small_model
from tests.schedules.test_layout import models

FFN = MATRICES["ffn"]
READS = {  # matrices that a computation uses
    "pre_attention": ("q", "k", "v"),
    "out_projection": ("o",),
    "post_attention": ("o", *FFN),
    "ffn": FFN,
    "compute_ffn": FFN,
    "prefill_ffn": FFN,
    "compute_attention": ATTENTION,
    "prefill_attention": ATTENTION,
    "compute_layer": MATRICES["layer"],
    "prefill_layer": MATRICES["layer"],
    "gate": ("router",),
    "pre_gate": ("router",),
    "scored_gate": ("router",),
    "stacked_gate": ("router",),
    "mixed_experts": SHARED[1:],  # and those that are not skipped, in either precision
    "experts": SHARED[1:],  # and the experts that were chosen
    "shared_experts": SHARED[1:],
    "some_experts": (),  # but the experts that it names
}
ATTENDS = ("cpu_attention", "compute_attention", "compute_layer")
NO_WEIGHTS = {
    *("cpu_attention", "all_reduce", "head", "gather_logits", "all_gather", "synchronise"),
    *("load_hidden", "store_hidden", "offload_qkv", "load_attended", "store_kv"),
    *("predict", "predict_experts", "load_choices"),
    *("send_tokens", "cpu_experts", "load_outputs", "combine"),
}
COPIES = {"pin_weights", "load_weights", "load_expert", "pin_kv", "load_kv"}
COPIES |= {"load_packed_expert"}
NAME_EXPERTS = {
    "some_experts",
    "send_tokens",
    "cpu_experts",
    "mixed_experts",
}  # these may; the first must

Row = tuple[int, str, int]  # layer, matrix, row


class Tracking(RecordingIssuer):
    """Knows what lies where, and checks every task that is issued."""

    def __init__(self, model: ModelSpec, shards: int, *args) -> None:
        super().__init__(*args)
        self.model, self.shards = model, shards
        self.buffers = []
        self.contents = {}  # what the last copy has put into a buffer
        self.written = set()  # buffers, in this step
        self.chosen = {}  # experts of each layer, by the last gate
        self.first = {}  # of these, those that matter most to a token
        self.computed = set()  # those of them that parts of its FFN have computed

    def buffer(self, *args, **kwargs):
        made = super().buffer(*args, **kwargs)
        self.buffers.append(made)
        return made

    def routing(self, gate):
        ids = super().routing(gate)
        self.chosen[gate.layer] = frozenset(ids.ravel().tolist())
        self.first[gate.layer] = frozenset(ids[:, 0].tolist())
        self.computed.clear()
        return ids

    def _issue(self, task, stream_id, dependencies, work, operands) -> None:
        super()._issue(task, stream_id, dependencies, work, operands)
        if task.op not in NAME_EXPERTS:
            assert (task.op in COPIES) == bool(operands.what), task
        for buffer in operands.reads:
            known = buffer in operands.writes or buffer.holds or id(buffer) in self.contents
            assert known or id(buffer) in self.written or not buffer.bytes, (task, buffer)
        if task.op in COPIES:
            self.copy(task, work, operands)
        if task.op in READS:
            self.weights(task, operands)
        else:
            assert task.op in COPIES | NO_WEIGHTS
        if task.op in ("some_experts", "cpu_experts"):
            self.part(task, operands)
        if task.op == "combine" and task.layer in self.chosen:
            assert self.computed == self.chosen.pop(task.layer), task
        if task.op in ATTENDS and task.step:
            self.cache(task, [*operands.reads, *operands.writes])
        self.written.update(id(buffer) for buffer in operands.writes)

    # -- weights --------------------------------------------------------------------------------

    def rows(self, spans: Iterable[Span]) -> Iterator[Row]:
        for span in spans:
            for name, start, stop in (r[1:] for r in rows_of(self.model, span, self.shards)):
                yield from ((span.layer, name, row) for row in range(start, stop))

    def lies_in(self, buffer) -> list:
        moved = self.contents.get(id(buffer))
        return list(buffer.holds) if moved is None else [moved]

    def copy(self, task, work, operands) -> None:
        """The source has what is moved; the target has room for it; the amount of work is right."""
        targets = [buffer for buffer in operands.writes if buffer.kind != "own share"]
        sources = operands.reads if len(operands.reads) > 1 else [*operands.reads] * len(targets)
        for source, target, span in zip(sources, targets, operands.what, strict=True):
            if isinstance(span, Packed):
                assert span._replace(expert=-1) in source.holds, f"{source} lacks what {task} moves"
                assert int(work.total_link_bytes) <= target.bytes
            elif isinstance(span, Span):
                there = {*self.rows(s for s in self.lies_in(source) if isinstance(s, Span))}
                assert there >= {*self.rows([span])}, f"{source} lacks what {task} moves"
            else:
                assert any(_within(span, s) for s in self.lies_in(source)), (task, source)
            self.contents[id(target)] = span
        if isinstance(operands.what[0], Span):
            moved = sum(self.size(span) for span in operands.what)
            vectors, row = self.slack(task.layer)
            assert abs(moved - work.total_link_bytes) <= vectors + 2 * row
            room = sum(buffer.bytes + row for buffer in targets)
            assert moved <= room

    def size(self, span: Span) -> int:
        every = layer_matrices(self.model, self.model.decoder_layers[span.layer], self.shards)
        rows = rows_of(self.model, span, self.shards)
        return sum((r.stop - r.start) * every[r.matrix].row_bytes for r in rows)

    def slack(self, layer: int) -> tuple[float, int]:
        """Bytes of a layer's vectors, and of its longest row."""
        spec = self.model.decoder_layers[layer]
        matrices = layer_matrices(self.model, spec, self.shards).values()
        vectors = spec.parameters / self.shards - sum(m.rows * m.cols for m in matrices)
        return abs(vectors) * 4, max(m.row_bytes for m in matrices)

    def weights(self, task, operands) -> None:
        """All rows that a computation uses are on its GPU, each once, and no others are brought."""
        gpu = task.stream
        static = [b for b in self.buffers if b.pool == gpu and id(b) not in self.contents]
        brought = [b for b in operands.reads if id(b) in self.contents]
        spans = [s for b in (*static, *brought) for s in self.lies_in(b) if isinstance(s, Span)]
        found = list(self.rows(s for s in spans if s.layer == task.layer))
        assert len(found) == len(set(found)), f"{task} has rows twice"
        wrong = [s for b in brought for s in self.lies_in(b) if s.layer != task.layer]
        assert not wrong, f"{task} reads {wrong}"
        names = READS[task.op]
        needed = {row for row in self.everything(task.layer) if row[1] in names}
        if task.op == "experts":
            one = (Span(task.layer, "expert", expert=e) for e in self.chosen[task.layer])
            needed |= {*self.rows(one)}
        if task.op == "mixed_experts":
            needed |= self.mixed(task, operands, brought)
        assert needed <= set(found), f"{task} lacks {len(needed - set(found))} rows"

    def mixed(self, task, operands, brought) -> set[Row]:
        """Experts come in one precision each, none that was not chosen, and first choices as they
        are, of which this returns the rows."""
        held = [content for buffer in brought for content in self.lies_in(buffer)]
        assert {*held} == {*operands.what}, f"{task} names others than it reads"
        experts = [content.expert for content in held]
        assert len(experts) == len(set(experts)), f"{task} has an expert twice"
        assert {*experts} <= self.chosen[task.layer], f"{task} reads experts that nobody chose"
        plain = {content.expert for content in held if isinstance(content, Span)}
        assert plain >= self.first[task.layer], f"{task} lacks the first choice of a token"
        return {*self.rows(Span(task.layer, "expert", expert=e) for e in plain)}

    def part(self, task, operands) -> None:
        """Experts of a part of an FFN: chosen, computed once, and read where they lie."""
        experts = {span.expert for span in operands.what}
        assert experts <= self.chosen.get(task.layer, frozenset()) - self.computed, task
        self.computed |= experts
        spans = [s for b in operands.reads for s in self.lies_in(b) if isinstance(s, Span)]
        needed = operands.what or [Span(task.layer, "experts")]
        assert {*self.rows(spans)} >= {*self.rows(needed)}, task
        assert operands.what or task.op == "cpu_experts", task

    def everything(self, layer: int) -> Iterator[Row]:
        return self.rows([Span(layer, "layer")])

    # -- the cache ------------------------------------------------------------------------------

    def cache(self, task, operands) -> None:
        """Keys and values of all sequences of the micro-batch are at hand, each once."""
        own = (task.layer, task.micro_batch)
        spans = {
            (id(buffer), span)
            for buffer in operands
            for span in self.lies_in(buffer)
            if isinstance(span, KVSpan) and span[:2] == own
        }
        check_tiled([span for _, span in spans], task)

    def check_blocks(self) -> None:
        """GPU and host together have room for every sequence of every layer, on each GPU."""
        for gpu in {b.owner for b in self.buffers if b.owner >= 0}:
            blocks = {}
            for buffer in self.buffers:
                for span in buffer.holds:
                    if isinstance(span, KVSpan) and buffer.owner == gpu:
                        blocks.setdefault(span[:2], []).append(span)
            layers = {layer for layer, _ in blocks}
            assert layers == set(range(self.model.n_layers))
            for own, spans in blocks.items():
                check_tiled(spans, own)

    def check_appended(self) -> None:
        """In every step something is written to each block of the cache."""
        for buffer in self.buffers:
            spans = [s for s in buffer.holds if isinstance(s, KVSpan) and s.start < s.stop]
            assert not spans or id(buffer) in self.written, f"step {self.step}: {buffer}"
        self.written.clear()


def _within(span: KVSpan, other) -> bool:
    same = isinstance(other, KVSpan) and span[:2] == other[:2]
    return (
        same
        and other.half in ("both", span.half)
        and (other.start <= span.start and span.stop <= other.stop)
    )


def check_tiled(spans: list[KVSpan], where) -> None:
    """Shares of keys, and of values, from 0 to 1 without gaps."""
    for half in ("keys", "values"):
        edges = sorted(s[2:4] for s in spans if s.half in ("both", half) and s.start < s.stop)
        assert edges, (where, half)
        assert edges[0][0] == 0, (where, edges)
        assert edges[-1][1] == 1, (where, edges)
        assert all(a[1] == b[0] for a, b in pairwise(edges)), (where, edges)


SHARES = st.sampled_from([0.0, 0.07, 0.1, 0.3, 0.5, 0.8, 1.0]) | st.floats(0, 1)


@st.composite
def packed_models(draw):
    """Models whose rows are whole groups, some of their matrices in 4 or 8 bits."""
    width = st.sampled_from([None, 4, 8])
    return small_model(
        quantisation=Quantisation(experts=draw(width), dense=draw(width), group=8),
        hidden_size=draw(st.sampled_from([16, 24])),
        head_dim=4,
        expert_ffn_size=draw(st.sampled_from([8, 16])),
        dense_ffn_size=draw(st.sampled_from([8, 32])),
    )


@st.composite
def placements(draw, kind, gpus: int, of):
    """A schedule with any policy that suits it, on a model of `of` with memory enough."""
    batch = draw(st.integers(1, 7))
    policy = {"N": batch, "mu": batch if kind.one_batch else draw(st.integers(1, batch))}
    policy |= {key: draw(SHARES) for key in ("r_w", "r_c", "r_h") if key in kind.knobs}
    if "pinned" in kind.knobs:
        policy["pinned"] = draw(st.booleans())
    if "cpu_tokens" in kind.knobs:
        policy |= {"experts_on_gpu": draw(SHARES), "cpu_tokens": draw(st.integers(0, 9))}
    if "A_g" in kind.knobs:
        policy["A_g"] = draw(st.integers(0, 1)) if gpus == 1 else 0
    if {"A_g", "r_c"} <= policy.keys():
        policy["r_c"] *= policy["A_g"]
    model = draw(of)
    if "experts" in kind.decides and model.quantisation is not None:
        kept = model.quantisation.model_copy(update={"experts": None})
        model = model.model_copy(update={"quantisation": kept})

    def open_issuer(streams, capacities, hosts, batches):
        def trace(gate):
            batch = batches[gate.micro_batch]
            tokens = batch.prompt_tokens if gate.step == 0 else batch.size
            return Routing().trace(tokens, model.n_experts, model.top_k, gate)

        return Tracking(model, gpus, streams, capacities, hosts, trace)

    return Placement(
        model=model,
        policy=make_policy(policy),
        lengths=tuple(draw(st.integers(1, 9)) for _ in range(batch)),
        gen_len=draw(st.integers(1, 3)),
        capacities=dict.fromkeys(("gpu", "cpu", "pinned", "disk"), 10**9),
        open_issuer=open_issuer,
        gpus=gpus,
    )


RUNS = [(name, 1) for name in sorted(runnable())]
RUNS += [(name, 2) for name, kind in sorted(runnable().items()) if kind.multi_gpu == "tensor"]


@pytest.mark.parametrize(("name", "gpus"), RUNS)
@settings(max_examples=30)
@given(data=st.data())
def test_every_computation_finds_its_weights_and_its_cache(name, gpus, data):
    plain = models(gpus).map(lambda model: model.model_copy(update={"quantisation": None}))
    check(find_schedule(name), gpus, data, plain)


@pytest.mark.parametrize("name", sorted(runnable()))
@settings(max_examples=5)
@given(data=st.data())
def test_so_do_computations_with_packed_weights(name, data):
    check(find_schedule(name), 1, data, packed_models())


def check(kind, gpus, data, of):
    schedule = place(kind, data.draw(placements(kind, gpus, of)))
    issuer = schedule.node.issuer
    issuer.check_blocks()
    schedule.run_prefill()
    issuer.check_appended()
    for step in (1, 2):
        schedule.run_decode_step(step)
        issuer.check_appended()
