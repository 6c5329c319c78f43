"""Sizes and work of a sparse memory layer, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.expert.memory_layer import MemoryLayer
from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model, model_names
from schedules.routing import Routing
from sim.cost import Roofline
from sim.hardware import load_hardware

MIXTRAL = load_model("mixtral-8x7b")


def memory(values=84, model=MIXTRAL):
    layer = next(spec for spec in model.decoder_layers if spec.is_moe)
    return MemoryLayer(LayerWork(model, Routing(), Kernels()), layer, values)


def test_a_table_of_mixtral():
    """8 x 3 x 4096 x 14336 parameters in values of 2048; 829.5^2 of them, so 830 rows."""
    layer = memory()
    assert (layer.width, layer.n, layer.rows) == (2_048, 688_128, 830)
    assert layer.table_bytes == 2_818_572_288
    assert layer.value_bytes == 4_096
    assert layer.key_parameters == 256 * (2 * 830 + 4_096)
    assert layer.resident_bytes == 2 * (1_473_536 + 4 * 2_048 * 4_096)


@pytest.mark.parametrize("name", [n for n in model_names() if load_model(n).n_experts > 1])
def test_the_grid_holds_all_values_and_not_a_row_more(name):
    layer = memory(model=load_model(name))
    assert (layer.rows - 1) ** 2 < layer.n <= layer.rows**2
    assert layer.n * layer.value_bytes == pytest.approx(layer.table_bytes)


def test_one_table_of_a_square():
    """Exactly 4 x 4 values: four rows, not five."""
    square = MIXTRAL.model_copy(
        update={"hidden_size": 32, "n_experts": 2, "expert_ffn_size": 4, "ffn_matrices": 2}
    )
    layer = memory(values=2, model=square)  # 2 x 2 x 32 x 4 parameters in values of 16
    assert (layer.width, layer.n, layer.rows) == (16, 32, 6)
    assert memory(2, square.model_copy(update={"expert_ffn_size": 2})).rows == 4


def test_scores_by_hand():
    """Three tokens: 2 x 1,473,536 flops each; they write and read 1660 + 84^2 scores of 2 B."""
    work = memory().score(3)
    assert work.flops == {"gemm": 3 * 2 * 1_473_536}
    scores = 3 * (2 * 830 + 84 * 84) * 2
    weights = (1_473_536 + 4_096) * 2
    assert work.bytes == {"gpu": weights + 3 * 8_192 + 2 * scores + 3 * 84 * (8 + 2)}
    assert work.calls == 8


def test_the_sum_by_hand():
    """Three tokens: 84 values of 4096 B each, four matrices of 2048 x 4096, four pooled sums."""
    work = memory().weighted_sum(3)
    matrices = 4 * 2_048 * 4_096
    assert work.flops == {"attention": 3 * 2 * 84 * 2_048, "gemm": 3 * 2 * matrices}
    pooled = 2 * 3 * 4 * 2_048 * 2
    values = 3 * 84 * (4_096 + 8 + 2)
    assert work.bytes == {"gpu": values + matrices * 2 + pooled + 2 * 3 * 8_192}


def test_few_rows_limit_the_crossings():
    """Of 830 rows at most all are among the best 1000."""
    assert memory(values=1_000).score_bytes(1) == 2 * (2 * 830 + 830 * 830)


def test_equal_operands_are_one_object():
    layer = memory()
    assert layer.score(5) is layer.score(5)
    assert layer.weighted_sum(5) is layer.weighted_sum(5)


# -- the values that tokens take -------------------------------------------------------------------


def test_one_token_takes_exactly_its_values():
    assert memory().distinct(1) == 84
    assert memory(values=7).distinct(1) == 7


@given(tokens=st.integers(1, 10**6), values=st.integers(1, 10**4))
def test_tokens_share_values_but_never_need_more_than_the_table(tokens, values):
    layer = memory(values)
    found = layer.distinct(tokens)
    assert min(values, found) == values
    assert found <= min(tokens * values, layer.n) * (1 + 1e-9)
    assert found == pytest.approx(layer.n * (1 - (1 - values / layer.n) ** tokens), rel=1e-6)


def larger(factor):
    return MIXTRAL.model_copy(update={"n_experts": 8 * factor})


@pytest.mark.parametrize("factor", [10, 100])
def test_only_the_keys_grow_with_the_table_as_its_square_root(factor):
    """On the GPU one token adds up as much, and scores factor^0.5 times as many keys."""
    small, large = memory(), memory(model=larger(factor))
    assert large.n == factor * small.n
    assert large.weighted_sum(1) == small.weighted_sum(1)
    assert large.distinct(1) == small.distinct(1)
    assert large.rows == pytest.approx(factor**0.5 * small.rows, rel=2e-3)
    grown = large.score(1).total_flops - small.score(1).total_flops
    assert grown == 2 * 256 * 2 * (large.rows - small.rows)


def test_a_hundred_times_the_table_costs_the_gpu_a_few_percent():
    """7470 more rows and columns each way, of 256 elements: 7.6 MB, 35 us at 220 GB/s."""
    t4 = Roofline(load_hardware("gcp-t4-24c"))
    seconds = [
        t4.seconds(layer.score(1)) + t4.seconds(layer.weighted_sum(1))
        for layer in (memory(), memory(model=larger(100)))
    ]
    assert seconds[1] - seconds[0] == pytest.approx(7_470 * 2 * (256 + 2 * 1) * 2 / 220e9, rel=0.02)
    assert seconds[1] < 1.12 * seconds[0]
