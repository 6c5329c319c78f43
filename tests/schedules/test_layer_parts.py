"""The work of an FFN's parts on CPU and GPU, counted by hand."""

import pytest

from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.routing import Routing

EXPERT = 3 * 4_096 * 14_336  # parameters of one of Mixtral's
LOOP = Kernels(experts="loop")


def work_of(name, kernels=LOOP, **options):
    return LayerWork(load_model(name), Routing(), kernels, **options)


def test_experts_on_the_cpu():
    """One token, both experts: 704.6e6 B of weights, as many flops, 102400 elements between."""
    work = work_of("mixtral-8x7b")
    found = work.cpu_experts(work.model.decoder_layers[0], 2, 2)
    assert (found.device, found.dtype, found.share) == ("cpu", "float16", 1.0)
    assert found.flops == {"experts": 2 * 2 * EXPERT}
    assert found.bytes == {"cpu": 2 * EXPERT * 2 + 2 * (2 * 4_096 + 3 * 14_336) * 2}
    assert found.calls == 2 * 3
    assert found.link_bytes == {}


def test_more_tokens_of_an_expert_cost_flops_not_weights():
    work = work_of("mixtral-8x7b")
    layer = work.model.decoder_layers[0]
    one, nine = work.cpu_experts(layer, 1, 1), work.cpu_experts(layer, 1, 9)
    assert nine.total_flops == 9 * one.total_flops
    assert nine.total_bytes - one.total_bytes == 8 * (2 * 4_096 + 3 * 14_336) * 2
    assert nine.calls == one.calls == 3


def test_fused_experts_are_one_parallel_region_whatever_their_number():
    work = work_of("mixtral-8x7b", Kernels(cpu_experts="fused"))
    layer = work.model.decoder_layers[0]
    assert work.cpu_experts(layer, 5.5, 9).calls == work.cpu_experts(layer, 1, 1).calls == 1


def test_two_matrices_and_float32():
    """Switch-Base-8: 2 x 768 x 3072 parameters of 4 B."""
    work = work_of("switch-base-8")
    found = work.cpu_experts(work.model.decoder_layers[1], 3, 4)
    assert found.bytes == {"cpu": (3 * 4_718_592 + 4 * (2 * 768 + 2 * 3_072)) * 4}
    assert (found.flops, found.calls) == ({"experts": 2 * 4 * 4_718_592}, 6)


def test_a_share_of_the_cores_and_of_the_width():
    """Two tensor-parallel GPUs: each one's half of every expert, on half of the cores."""
    work = work_of("mixtral-8x7b", gpus=2, cpu_share=0.5)
    found = work.cpu_experts(work.model.decoder_layers[0], 1, 1)
    assert found.share == 0.5
    assert found.flops == {"experts": EXPERT}
    assert found.bytes == {"cpu": EXPERT + (2 * 4_096 + 3 * 7_168) * 2}


def test_equal_operands_give_the_same_object():
    work = work_of("mixtral-8x7b")
    layer = work.model.decoder_layers[0]
    assert work.cpu_experts(layer, 2, 3) is work.cpu_experts(layer, 2, 3)


def test_shared_experts():
    """DeepSeek-V2-Lite: two of 3 x 2048 x 1408, without a gate, for five tokens."""
    work = work_of("deepseek-v2-lite")
    layer = work.model.decoder_layers[1]
    p = 2 * 3 * 2_048 * 1_408
    assert layer.shared_parameters == p
    found = work.shared_experts(layer, 5)
    assert found.flops == {"gemm": 2 * 5 * p}
    assert found.bytes == {"gpu": (p + 5 * (2 * 2_048 + 3 * 2 * 1_408)) * 2}
    assert found.calls == 5


def test_parts_together_are_the_flops_of_the_whole():
    """Two experts on the GPU, one on the CPU, and the shared ones."""
    work = work_of("deepseek-v2-lite")
    layer = work.model.decoder_layers[1]
    whole = work.routed_experts(layer, 2, (2, 1, 1))
    parts = [work.one_expert(layer, (2, 1)), work.cpu_experts(layer, 1, 1)]
    parts.append(work.shared_experts(layer, 2))
    assert sum(part.total_flops for part in parts) == whole.total_flops


@pytest.mark.parametrize("parts", [1, 3])
def test_outputs_are_added_one_by_one(parts):
    found = work_of("mixtral-8x7b").add_outputs(7, parts)
    assert (found.total_flops, found.calls) == (0, parts)
    assert found.bytes == {"gpu": parts * 3 * 7 * 4_096 * 2}


def test_experts_are_written_out_of_few_bits():
    """Mixtral's 3 x 4096 x 14336 parameters: 4 bits of each and 2 B of scale for 64 of them are
    read, 2 B are written; another of 8 bits; a kernel for each."""
    work = work_of("mixtral-8x7b")
    found = work.unpack(work.model.decoder_layers[0], (4, 8), 2 / 64)
    assert found.bytes == {"gpu": EXPERT * (0.5 + 1 + 2 * (2 / 64 + 2))}
    assert found.calls == 2


def test_what_the_cpu_is_sent():
    """Hidden states of 2 B, and for each of two choices an id of 8 B and a weight of 2 B."""
    work = work_of("mixtral-8x7b")
    assert work.sent_bytes(work.model.decoder_layers[0], 3) == 3 * (4_096 * 2 + 2 * 10)
