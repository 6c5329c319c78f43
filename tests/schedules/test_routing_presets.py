"""Routing by name, file and formula; the presets against what is published."""

import numpy as np
import pytest

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_policies import LRU
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_presets import load_routing, routing_names
from schedules.routing_statistics import draw_routing, routing_statistics
from schedules.routing_table import write_routing

SWITCH = load_model("switch-base-128")
SEEDS = range(12)


@pytest.mark.parametrize("name", routing_names())
def test_presets_load(name):
    routing = load_routing(name, seed=7)
    assert routing.seed == 7
    if routing.kind != "uniform":
        assert routing.name == name
        assert "arXiv" in routing.source


def test_uniform_is_the_default():
    assert load_routing("uniform") == Routing()


# -- what is published of Switch-Base-128 ----------------------------------------------------------


def statistics(seed, prompts=1, phase="decode"):
    table = draw_routing(load_routing("switch-base-128", seed), SWITCH, (256,) * prompts, 256)
    found = routing_statistics(table)
    return found[found["phase"] == phase]


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_at_batch_1_touches_7_to_17_experts(seed):
    """In each of the six layers, over 256 tokens; the most popular one takes 0.3 to 0.7 of them."""
    found = statistics(seed)
    assert found["tokens"].tolist() == [256] * 6
    assert found["distinct"].between(7, 17).all()
    assert found["top1_share"].between(0.3, 0.7).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_encoder_touches_23_to_70_experts(seed):
    found = statistics(seed, phase="prefill")
    assert found["tokens"].tolist() == [256] * 6
    assert found["distinct"].between(23, 70).all()


@pytest.mark.parametrize(("batch", "most"), [(8, 8), (16, 15)])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_decode_step_of_a_batch(seed, batch, most):
    found = statistics(seed, batch)
    assert found["distinct_max"].max() <= most
    assert found["distinct_max"].min() >= 5  # and not far fewer


def test_hit_rates_of_switch_large_128():
    """LRU caches of 1, 3, 5, 10 and 20 % of 12 x 128 experts, decode at batch 1."""
    published = {15: 0.03, 46: 0.10, 77: 0.18, 154: 0.39, 307: 0.73}
    model = load_model("switch-large-128")
    for seed in SEEDS[:3]:
        table = draw_routing(load_routing("switch-large-128", seed), model, (256,), 256)
        decode = table[table["step"] > 0]
        for capacity, rate in published.items():
            found = routing_statistics(decode, ExpertCache(capacity, LRU()), encoder_layers=24)
            assert np.average(found["hit_rate"]) == pytest.approx(rate, abs=0.025)


# -- files and formulas ----------------------------------------------------------------------------


def test_zipf_by_formula():
    assert load_routing("zipf:1.2", 3) == Routing(kind="zipf", exponent=1.2, seed=3)
    assert load_routing("zipf:2") == Routing(kind="zipf", exponent=2)


def test_a_toml_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('kind = "zipf"\nexponent = 0.5\n[encoder]\nexponent = 1\n')
    routing = load_routing(path, seed=4)
    assert load_routing(str(path), seed=4) == routing
    assert (routing.seed, routing.strengths("encoder").exponent) == (4, 1)


def test_a_parquet_file(tmp_path):
    path = tmp_path / "r.parquet"
    write_routing(draw_routing(Routing(), SWITCH, (3,), 2), path, 128)
    routing = load_routing(str(path), seed=1)
    assert (routing.kind, routing.path, routing.seed) == ("recorded", str(path), 1)
    assert len(routing.sha256) == 64


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("switch-base-12", "no routing is named 'switch-base-12', did you mean 'switch-base-128'"),
        ("zipf", "'zipf' is no routing; write Zipf's law with its exponent as 'zipf:1.2'"),
        ("zipf:many", "'zipf:many' is no routing"),
        ("zipf:-1", "'zipf:-1' is no routing"),
        ("zipf:1e9", "'zipf:1e9' is no routing"),
        ("zipf:11", "routing zipf:11: exponent is 11.0; it should be less than or equal to 10"),
        ("none.toml", "the routing file 'none.toml' cannot be read: No such file"),
        ("none.parquet", "the file 'none.parquet' with recorded routing does not exist"),
        ("folder/x.csv", "'folder/x.csv': a routing file must end in .toml or .parquet"),
    ],
)
def test_wrong_names(name, complaint):
    with pytest.raises(BadInput, match=complaint):
        load_routing(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind = ", "is not TOML"),
        ('kind = "zipf"', "kind 'zipf' needs exponent"),
        (
            'kind = "zipf"\nexponent = 1\nlayer_correlation = 0.1',
            "has no use for layer_correlation",
        ),
        (
            'kind = "markov"\nexponent = 1\ntoken_correlation = 0.1',
            "'markov' needs layer_correlation",
        ),
        ('kind = "uniform"\nexponent = 1', "kind 'uniform' has no use for exponent"),
        ('kind = "uniform"\nseed = 1', "has a seed; it is given with the question, as --seed"),
        ('kind = "zip"', "kind is 'zip'"),
        ('kind = "zipf"\nexponents = 1', "unknown key 'exponents', did you mean 'exponent'"),
        ('kind = "zipf"\nexponent = 1\n[encoder]\nskew = 1', "encoder.skew"),
        (
            'kind = "markov"\nexponent = 1\ntoken_correlation = 0.6\nlayer_correlation = 0.6',
            "together they must not exceed 1",
        ),
    ],
)
def test_malformed_files(tmp_path, text, complaint):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(BadInput, match=complaint):
        load_routing(tmp_path / "own.toml")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="cannot be read: it is not UTF-8"):
        load_routing(tmp_path / "own.toml")


def test_a_negative_seed():
    with pytest.raises(BadInput, match="seed is -1; it must be >= 0"):
        load_routing("uniform", seed=-1)
