"""Routing of a workload: places of tokens, stacks, and the same answer however it is asked."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.batching import MicroBatch, balance
from schedules.errors import BadInput
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_statistics import draw_routing
from schedules.routing_table import write_routing
from schedules.routing_trace import Places, check_routing, routing_trace
from schedules.task import Task
from sim.replay import recorded_routing

MIXTRAL = load_model("mixtral-8x7b").with_layers(3)
SWITCH = load_model("switch-base-8")
LENGTHS = (4, 2, 3, 6)
MARKOV = Routing(kind="markov", seed=2, exponent=0.8, token_correlation=0.4, layer_correlation=0.3)
KINDS = [Routing(kind="zipf", exponent=1.0), MARKOV]


def gate(layer, step, micro_batch=0):
    return Task(0, "gate", "gpu", layer, micro_batch, step)


def sequence(table, request, layer):
    """Experts of a sequence's tokens, by step and position."""
    rows = table[(table["request"] == request) & (table["layer"] == layer)]
    rows = rows.sort_values(["step", "position"])
    return rows.filter(regex="^expert_").to_numpy().tolist()


def test_places_by_hand():
    places = Places([MicroBatch(0, (3, 1), (0, 1)), MicroBatch(1, (2,), (2,))], restart=False)
    assert places.lengths == (3, 1, 2)
    requests, positions, _ = places.of(0, 0)
    assert (requests.tolist(), positions.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 0])
    requests, positions, steps = places.of(0, 2)
    assert (requests.tolist(), positions.tolist(), steps.tolist()) == ([0, 1], [4, 2], [1, 1])
    assert Places(places.batches, restart=True).of(0, 2)[1].tolist() == [1, 1]


def test_requests_without_numbers_are_counted():
    places = Places([MicroBatch(0, (5, 2)), MicroBatch(1, (1,))], restart=False)
    assert [r.tolist() for r in places.requests] == [[0, 1], [2]]


@pytest.mark.parametrize("routing", KINDS, ids=lambda r: r.kind)
@pytest.mark.parametrize("model", [MIXTRAL, SWITCH], ids=lambda m: m.name)
def test_a_sequence_is_the_same_in_any_company(routing, model):
    """Other micro-batches, more sequences, a longer generation: what both have is equal."""
    small = draw_routing(routing, model, LENGTHS[:2], gen_len=3)
    large = draw_routing(routing, model, LENGTHS, gen_len=5, micro_batch_size=2)
    last = small["step"].max()
    for request in (0, 1):
        for layer in small["layer"].unique():
            kept = large[large["step"] <= last]
            assert sequence(small, request, layer) == sequence(kept, request, layer)


questions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=10
)


@given(questions, st.sampled_from(KINDS))
def test_gates_may_be_asked_in_any_order(asked, routing):
    batches = balance(LENGTHS, 2)
    first = routing_trace(routing, MIXTRAL, batches, 4)
    known = {place: first(gate(*place)) for place in asked}
    again = routing_trace(routing, MIXTRAL, batches, 4)
    for layer, step, j in reversed(asked):
        ids = again(gate(layer, step, j))
        tokens = batches[j].prompt_tokens if step == 0 else batches[j].size
        assert ids.shape == (tokens, 2)
        assert np.array_equal(ids, known[layer, step, j])


def test_decode_goes_on_where_the_prompt_ended():
    """With token correlation 1 every token of a sequence repeats its first one."""
    routing = Routing(kind="markov", exponent=0, token_correlation=1, layer_correlation=0)
    table = draw_routing(routing, MIXTRAL, LENGTHS, gen_len=4, micro_batch_size=2)
    for request in range(4):
        assert len(set(map(tuple, sequence(table, request, 1)))) == 1


def test_layers_follow_one_another_as_the_model_has_them():
    """Switch: layers 1, 3, ...; with layer correlation 1 one expert leads to one expert."""
    routing = Routing(kind="markov", exponent=0, token_correlation=0, layer_correlation=1)
    table = draw_routing(routing, SWITCH, (64,), gen_len=1)
    prompt = table[table["step"] == 0]
    pairs = {
        tuple(p)
        for p in zip(*(sequence(prompt, 0, layer) for layer in (1, 3)), strict=True)
        for p in [(p[0][0], p[1][0])]
    }
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 8


def test_encoder_and_decoder_share_nothing():
    """A prompt of 64 tokens and 64 decoded ones: other draws and other popular experts."""
    table = draw_routing(Routing(kind="zipf", exponent=2.0), SWITCH, (64,), gen_len=64)
    different = 0
    for layer in (1, 3, 5, 7, 9, 11):
        ids = np.array(sequence(table, 0, layer)).ravel()
        assert not np.array_equal(ids[:64], ids[64:])
        different += np.bincount(ids[:64]).argmax() != np.bincount(ids[64:]).argmax()
    assert different >= 3  # of six layers; by chance one in eight is the same


def test_the_encoder_may_have_strengths_of_its_own():
    values = {"kind": "zipf", "exponent": 0.0, "encoder": {"exponent": 0.0, "active": 2}}
    table = draw_routing(Routing(**values), SWITCH, (100,), gen_len=100)
    distinct = table.groupby([table["step"] > 0, "layer"])["expert_0"].nunique()
    assert set(distinct[False]) == {2}
    assert set(distinct[True]) == {8}


def test_uniform_routing_is_drawn_by_gate_as_ever():
    batches = balance(LENGTHS, 2)
    trace = routing_trace(Routing(seed=3), MIXTRAL, batches, 4)
    ids = Routing(seed=3).expert_ids(2, 8, 2, layer=1, step=2, micro_batch=1)
    assert np.array_equal(trace(gate(1, 2, 1)), ids)


# -- recorded --------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    def write(table, n_experts=8):
        write_routing(table, tmp_path / "r.parquet", n_experts)
        return Routing(kind="recorded", path=str(tmp_path / "r.parquet"))

    return write


@pytest.mark.parametrize("model", [MIXTRAL, SWITCH], ids=lambda m: m.name)
def test_a_record_of_the_same_workload_answers_as_it_ran(recorded, model):
    """In any micro-batches; and as a replay answers from the same rows."""
    table = draw_routing(MARKOV, model, LENGTHS, 4, micro_batch_size=2)
    routing = recorded(table)
    pd.testing.assert_frame_equal(draw_routing(routing, model, LENGTHS, 4, 2), table)
    columns = ["request", "layer", "step", "position"]
    other = draw_routing(routing, model, LENGTHS, 4, 3).drop(columns="micro_batch")
    pd.testing.assert_frame_equal(
        other.sort_values(columns, ignore_index=True),
        table.drop(columns="micro_batch").sort_values(columns, ignore_index=True),
    )
    trace = routing_trace(routing, model, balance(LENGTHS, 2), 4)
    replayed = recorded_routing(table)
    for step, layer, j in {tuple(p) for p in table[["step", "layer", "micro_batch"]].to_numpy()}:
        assert np.array_equal(trace(gate(layer, step, j)), replayed(gate(layer, step, j)))


def test_a_record_of_another_workload_lends_whole_sequences(recorded):
    table = draw_routing(MARKOV, MIXTRAL, LENGTHS, 4)
    found = draw_routing(recorded(table), MIXTRAL, (2,) * 6, 3)
    there = [sequence(table[table["step"] == 0], r, 1) for r in range(4)]
    for request in range(6):
        here = sequence(found[found["step"] == 0], request, 1)
        assert any(here == prompt[:2] for prompt in there)


def test_a_record_must_have_both_stacks_and_all_layers(recorded):
    table = draw_routing(MARKOV, SWITCH, LENGTHS, 4)
    with pytest.raises(BadInput, match=r"needs rows of step 0, .* model 'switch-base-8' has both"):
        check_routing(recorded(table[table["step"] > 0]), SWITCH)
    with pytest.raises(BadInput, match="lacks layer 11, which model 'switch-base-8' has"):
        check_routing(recorded(table[(table["step"] == 0) | (table["layer"] < 11)]), SWITCH)
    with pytest.raises(BadInput, match="lacks layer 1, which the encoder of model 'switch-base-8'"):
        check_routing(recorded(table[(table["step"] > 0) | (table["layer"] > 1)]), SWITCH)
    shallow = draw_routing(MARKOV, MIXTRAL.with_layers(2), LENGTHS, 4)
    with pytest.raises(BadInput, match="lacks layer 2, which model 'mixtral-8x7b-3l' has"):
        routing_trace(recorded(shallow), MIXTRAL, balance(LENGTHS, 2), 4)


def test_a_model_without_experts_needs_no_routing(recorded):
    routing = recorded(draw_routing(MARKOV, MIXTRAL, LENGTHS, 4))
    check_routing(routing, load_model("opt-6.7b"))
    routing_trace(routing, load_model("opt-6.7b"), balance(LENGTHS, 2), 4)
