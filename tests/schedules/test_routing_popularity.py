"""Which experts are popular, compared with what the routing draws."""

import numpy as np
import pytest

from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_popularity import popularity
from schedules.routing_statistics import draw_routing

MIXTRAL, SWITCH = load_model("mixtral-8x7b"), load_model("switch-base-8")


def test_uniform_routing_has_no_popular_experts():
    assert popularity(Routing(), SWITCH.decoder_layers[1]).tolist() == [1 / 8] * 8


@pytest.mark.parametrize("kind", [{"kind": "zipf"}, {"kind": "markov"}])
@pytest.mark.parametrize("index", [0, 5])
def test_shares_are_those_of_drawn_tokens(kind, index):
    strengths = {"token_correlation": 0.1, "layer_correlation": 0.3}
    options = kind | (strengths if kind["kind"] == "markov" else {})
    routing = Routing(exponent=1.2, seed=3, **options)
    ids = routing.expert_ids(20_000, 8, 2, index, 1)
    found = popularity(routing, MIXTRAL.decoder_layers[index])
    np.testing.assert_allclose(found, np.bincount(ids.ravel()) / 20_000, atol=0.015)
    assert found.sum() == pytest.approx(2)


def test_each_stack_has_its_own():
    routing = Routing(kind="zipf", exponent=1.2, seed=3)
    encoder, decoder = (
        popularity(routing, layers[1]) for layers in (SWITCH.encoder_layers, SWITCH.decoder_layers)
    )
    assert sorted(encoder) == pytest.approx(sorted(decoder))
    assert encoder.tolist() != decoder.tolist()


def test_recorded_shares(tmp_path):
    """Those of the layer that is asked for, in decode: 9 steps of two sequences."""
    path = tmp_path / "routing.parquet"
    model = MIXTRAL.with_layers(2)
    table = draw_routing(Routing(seed=1), model, (20, 30), gen_len=10)
    table.to_parquet(path)
    routing = Routing(kind="recorded", path=str(path))
    found = popularity(routing, model.decoder_layers[1])
    rows = table[(table["layer"] == 1) & (table["step"] > 0)]
    assert len(rows) == 18
    counts = np.bincount(rows[["expert_0", "expert_1"]].to_numpy().ravel(), minlength=8)
    np.testing.assert_allclose(found, counts / len(rows))
