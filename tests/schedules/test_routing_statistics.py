"""Statistics of routing, by hand."""

import pandas as pd
import pytest

from schedules.errors import BadInput
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_statistics import draw_routing, routing_statistics

NAMES = ["step", "layer", "micro_batch", "request", "position", "expert_0", "expert_1"]
TABLE = pd.DataFrame(
    [
        (0, 0, 0, 0, 0, 1, 2),
        (0, 0, 0, 0, 1, 2, 1),
        (0, 0, 1, 1, 0, 2, 3),
        (1, 0, 0, 0, 2, 5, 0),
        (1, 0, 1, 1, 1, 6, 0),
        (2, 0, 0, 0, 3, 0, 5),
        (2, 0, 1, 1, 2, 5, 6),
    ],
    columns=NAMES,
)


class Unlimited:
    """Keeps everything; notes the order of what is asked."""

    def __init__(self):
        self.asked = []

    def access(self, key):
        self.asked.append(key)
        return key in self.asked[:-1]


def test_by_hand():
    """Prefill: gates of {1, 2} and {2, 3}; decode: {0, 5}, {0, 6}, {0, 5}, {5, 6}."""
    prefill, decode = routing_statistics(TABLE).to_dict("records")
    assert prefill == {
        "phase": "prefill",
        "layer": 0,
        "tokens": 3,
        "distinct": 3,
        "distinct_mean": 2.0,
        "distinct_max": 2,
        "top1_share": 1.0,  # every token takes expert 2
    }
    assert (decode["tokens"], decode["distinct"], decode["top1_share"]) == (4, 3, 0.75)


def test_a_gate_s_batch_is_its_micro_batch():
    whole = routing_statistics(TABLE.drop(columns="micro_batch"))
    assert whole["distinct_mean"].tolist() == [3, 3]
    assert whole["distinct_max"].tolist() == [3, 3]


def test_hits_of_a_cache():
    cache = Unlimited()
    found = routing_statistics(TABLE, cache)
    prefill = [1, 2, 2, 3]
    assert cache.asked == [(0, e) for e in (*prefill, 0, 5, 0, 6, 0, 5, 5, 6)]
    assert found["accesses"].tolist() == [4, 8]
    assert found["hit_rate"].tolist() == [1 / 4, 5 / 8]


def test_the_encoder_s_experts_are_others():
    cache = Unlimited()
    routing_statistics(TABLE, cache, encoder_layers=12)
    assert {layer for layer, _ in cache.asked} == {0, 12}


def test_batches_follow_one_another():
    cache = Unlimited()
    both = pd.concat([TABLE.assign(batch=1), TABLE.assign(batch=0, expert_0=7)])
    routing_statistics(both, cache)
    assert (0, 7) in cache.asked[:12]
    assert (0, 7) not in cache.asked[14:]


def test_a_malformed_table():
    with pytest.raises(BadInput, match="'the table' lacks the column 'layer'"):
        routing_statistics(TABLE.drop(columns="layer"))


def test_what_is_drawn_has_every_token():
    """Two prompts of 3 and 5 tokens, four generated: three decode steps."""
    table = draw_routing(Routing(), load_model("mixtral-8x7b").with_layers(2), (3, 5), 4, 1)
    assert list(table.columns) == NAMES
    assert len(table) == 2 * (8 + 3 * 2)
    assert table.groupby("request")["position"].max().tolist() == [5, 7]
    assert table["micro_batch"].nunique() == 2
    seq2seq = draw_routing(Routing(), load_model("switch-base-8"), (3, 5), 4)
    assert len(seq2seq) == 6 * (8 + 4 * 2)
    assert seq2seq[seq2seq["step"] > 0]["position"].max() == 3
