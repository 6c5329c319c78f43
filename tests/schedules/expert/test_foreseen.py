"""The cache that prefetches fill, and the schedules that foresee experts on every model."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.expert import HOBBIT, EdgeMoEOffloading, MoEInfinityOffloading
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_policies import LRU
from schedules.expert.foreseen import Store
from schedules.expert.places import Places
from schedules.graph import RecordingIssuer
from schedules.model_presets import load_model, model_names
from schedules.routing import Routing

KINDS = (EdgeMoEOffloading, HOBBIT, MoEInfinityOffloading)


@pytest.fixture
def store(lab):
    schedule = lab.build(HOBBIT, 1, prompts=(1,))
    room = [Places(schedule.node, schedule.gpu, tag, 1.0, 0) for tag in ("test ", "other ")]
    return Store(ExpertCache(3, LRU()), *room)


def names(buffers):
    return [buffer.name for buffer in buffers]


def test_what_is_missing_gets_a_place(store):
    first = store.request(0, [5, 7])
    assert [(expert, place.name) for expert, place in first.loads] == [
        (5, "experts[test 0]"),
        (7, "experts[test 1]"),
    ]
    second = store.request(0, [7, 6])
    assert [(expert, place.name) for expert, place in second.loads] == [(6, "experts[test 2]")]
    assert names(second.held) == ["experts[test 1]", "experts[test 2]"]
    assert store.holds(0, 5)
    assert not store.holds(1, 5)


def test_what_finds_no_room_is_streamed(store):
    assigned = store.request(0, [1, 2, 3, 4])
    assert names(assigned.held)[3:] == ["experts[other 0]"]
    assert not store.holds(0, 4)


def test_a_prefetch_never_takes_the_place_of_what_computes_or_of_another_one(store):
    store.request(0, [1])
    running = [(0, 1)]
    assert store.prefetch(1, 8, running).name == "experts[test 1]"
    assert store.prefetch(1, 8, running) is None  # it is there
    assert store.prefetch(1, 9, running).name == "experts[test 2]"
    assert store.prefetch(1, 7, running) is None  # no room
    store.judge(1, [8])
    assert (store.judged, store.wrong) == (2, 1)
    assert store.prefetch(2, 7, running) is not None  # those of block 1 may leave now
    store.judge(1, [8])
    assert (store.judged, store.wrong) == (2, 1)  # each prefetch is judged once


# -- what is computed lies where it is read --------------------------------------------------------


class Following(RecordingIssuer):
    """Knows what lies in each place, and what each gate has named."""

    def __init__(self, *args):
        super().__init__(*args)
        self.content, self.seen = {}, []

    def _routing(self, gate):
        ids = super()._routing(gate)
        if gate.op in ("gate", "scored_gate"):
            self.named = {(gate.layer, int(expert)) for expert in ids.ravel()}
            self.first = {(gate.layer, int(expert)) for expert in ids[:, 0]}
        return ids

    def _issue(self, task, stream_id, dependencies, work, operands):
        super()._issue(task, stream_id, dependencies, work, operands)
        if task.op in ("load_expert", "load_packed_expert"):
            (place,), (what,) = operands.writes, operands.what
            self.content[place] = (what.layer, what.expert)
        if task.op in ("experts", "mixed_experts"):
            there = {self.content[place] for place in operands.reads if place.kind == "experts"}
            self.seen.append((self.first, there, self.named))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(
    n=st.integers(1, 5),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    ahead=st.integers(1, 3),
)
def test_every_expert_that_is_computed_lies_in_a_place_that_is_read(
    lab, kind, n, seed, ratio, ahead
):
    """All that a gate names, but for the less important ones that HOBBIT skips."""
    depth = {"preload" if kind is EdgeMoEOffloading else "level": ahead}
    with patch("sim.scenario.RecordingIssuer", Following):
        schedule = lab.build(
            kind,
            n,
            mu=n,
            layers=4,
            prompts=(3,),
            routing=Routing(kind="zipf", exponent=1.0, seed=seed),
            cache_ratio=ratio,
            **depth,
        )
    lab.decode(schedule, step=4)
    seen = schedule.node.issuer.seen
    assert len(seen) == 5 * 4
    for first, there, named in seen:
        assert first <= there <= named
        assert kind is HOBBIT or there == named


# -- every model -----------------------------------------------------------------------------------

MOE = [name for name in model_names() if load_model(name).n_experts > 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MOE)
def test_every_model_with_experts_runs(lab, kind, model):
    """On a roomy machine: prefill and two steps of a small batch, with little and much room."""
    assert len(MOE) >= 8
    for ratio in (0.0, 0.5):
        schedule = lab.build(
            kind, 3, mu=3, layers=4, model=model, prompts=(7, 9), gen_len=3, cache_ratio=ratio
        )
        graph = lab.decode(schedule, step=2)
        assert len(graph) > 0
        facts = schedule.facts()
        assert all(0 <= value <= 1 for value in facts.values())
        assert {"hit_rate", "wrong_prefetch_share"} <= set(facts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_for_all_experts_loads_each_once(lab, kind):
    """32 experts of Mixtral's first four layers, whatever is foreseen."""
    schedule = lab.build(kind, 9, mu=9, layers=4, prompts=(30,), cache_ratio=1.0)
    prefill = lab.prefill(schedule)
    loads = len(lab.sizes(prefill, "load_expert"))
    for step in range(1, 5):
        schedule.run_decode_step(step)
        loads += len(lab.sizes(schedule.node.issuer.take(), "load_expert"))
    assert loads == 32
