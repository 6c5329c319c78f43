"""The work of single experts adds up to that of all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.routing import Routing

MIXTRAL = load_model("mixtral-8x7b")
DEEPSEEK = load_model("deepseek-v2-lite")  # with shared experts
LOOP, FUSED = Kernels(experts="loop"), Kernels(experts="fused")


def works(model, kernels=LOOP):
    return LayerWork(model, Routing(), kernels)


def test_by_hand():
    """Mixtral, calls of 3 and 2 rows: weights twice; 2 x 4096 + 3 x 14336 elements a row."""
    layer = MIXTRAL.decoder_layers[0]
    work = works(MIXTRAL).one_expert(layer, (3, 2))
    matrix = 3 * 4_096 * 14_336
    assert work.flops == {"gemm": 5 * 2 * matrix}
    assert work.bytes == {"gpu": 2 * 2 * matrix + 5 * (2 * 4_096 + 3 * 14_336) * 2}
    assert work.calls == 2 * 6


def test_a_fused_kernel_pads_each_call():
    """Tiles of 16 rows, as there are no more choices than experts."""
    layer = MIXTRAL.decoder_layers[0]
    work = works(MIXTRAL, FUSED).one_expert(layer, (3, 2))
    assert work.flops == {"experts": 2 * 16 * 2 * 3 * 4_096 * 14_336}


def test_an_average_expert_by_hand():
    """1200 tokens: 300 rows in calls of at most 200, and all experts are taken."""
    layer = MIXTRAL.decoder_layers[0]
    work = works(MIXTRAL).mean_expert(layer, 1_200, 200)
    matrix = 3 * 4_096 * 14_336
    assert work.flops == {"gemm": 300 * 2 * matrix}
    assert work.bytes["gpu"] == pytest.approx(2 * 2 * matrix + 300 * (2 * 4_096 + 3 * 14_336) * 2)
    assert work.calls == 12


def test_an_average_expert_of_one_token():
    """Two of eight are taken: a quarter of a row, of the weights, and of six launches."""
    layer = MIXTRAL.decoder_layers[0]
    work = works(MIXTRAL).mean_expert(layer, 1, 200)
    matrix = 3 * 4_096 * 14_336
    assert work.flops == {"gemm": matrix / 2}
    assert work.bytes["gpu"] == matrix / 2 + (2 * 4_096 + 3 * 14_336) / 2
    assert work.calls == 2


@given(st.integers(1, 5_000), st.sampled_from([MIXTRAL, DEEPSEEK]), st.sampled_from([LOOP, FUSED]))
def test_average_experts_add_up_to_the_ffn_s(tokens, model, kernels):
    """But for the router and its norm, which a gate has run."""
    layer, work = model.decoder_layers[1], works(model, kernels)
    whole, one = work.ffn(layer, tokens), work.mean_expert(layer, tokens, 10_000)
    shared = work.combine(layer, tokens)
    router = 2 * tokens * layer.router_parameters
    flops = layer.n_experts * one.total_flops + shared.total_flops + router
    assert flops == pytest.approx(whole.total_flops)
    gate = (layer.router_parameters + layer.ffn_norm_parameters) * 2
    moved = layer.n_experts * one.total_bytes + shared.total_bytes + gate
    assert moved == pytest.approx(whole.total_bytes)


def test_combine_without_shared_experts_is_the_residual():
    work = works(MIXTRAL).combine(MIXTRAL.decoder_layers[0], 10)
    assert (work.flops["gemm"], work.bytes["gpu"], work.calls) == (0, 2 * 10 * 8_192, 1)


def test_combine_with_shared_experts():
    """Two of 3 x 2048 x 1408 parameters, for each of ten tokens."""
    layer = DEEPSEEK.decoder_layers[1]
    work = works(DEEPSEEK).combine(layer, 10)
    own = 2 * 3 * 2_048 * 1_408
    assert work.flops["gemm"] == 2 * 10 * own
    assert work.bytes["gpu"] == 2 * own + 2 * 10 * 2_048 * 2


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.sampled_from([MIXTRAL, DEEPSEEK]))
def test_one_by_one_they_do_what_all_do_together(counts, model):
    """`counts` tokens take each of some experts; top_k of them a token, on average."""
    layer, work = model.decoder_layers[1], works(model)
    tokens = sum(counts) / layer.top_k
    together = work.routed_experts(layer, tokens, tuple(counts))
    apart = work.combine(layer, tokens)
    for count in counts:
        apart = apart + work.one_expert(layer, (count,))
    assert apart.total_flops == pytest.approx(together.total_flops)
    assert apart.total_bytes == pytest.approx(together.total_bytes)
