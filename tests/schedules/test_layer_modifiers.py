"""The work of operations of modified models: Mixtral by hand, then what must balance.

One layer of Mixtral 8x7B in float16: h = 4096; q 4096, kv 2048; 8 experts of 3 x 4096 x 14336, of
which a token takes 2. A group of 64 elements has a scale of 2 bytes, so a parameter has 0.5 + 1/32
bytes in 4 bits and 1 + 1/32 in 8.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.modifiers import make_modifiers
from schedules.quantisation import Quantisation
from schedules.routing import Routing
from schedules.task import Work
from tests.strategies import MODELS

LOOP, FUSED = Kernels(experts="loop"), Kernels(experts="fused")
EXPERT = 3 * 4_096 * 14_336
INT4, INT8 = 17 / 32, 33 / 32  # bytes of a parameter with its share of a scale
TWICE = 2 + 2  # a parameter is written out as float16 and read so
INNER = 2 * 4_096 + 3 * 14_336  # elements that a row of an expert reads and writes
HIDDEN = 36 * 4_096 * 2  # bytes of 36 hidden states
ROUTER = 8 * 4_096 + 4_096  # with the norm
TOUCHED = 8 * (1 - (3 / 4) ** 36)  # experts that 36 tokens take


def work_of(model="mixtral-8x7b", kernels=LOOP, gpus=1, routing=None, **modifiers) -> LayerWork:
    spec = make_modifiers(modifiers).applied(load_model(model).with_layers(2))
    return LayerWork(spec, routing or Routing(), kernels, gpus)


def layer_of(work: LayerWork):
    return work.model.decoder_layers[0]


def gpu_bytes(work: Work) -> float:
    assert set(work.bytes) == {"gpu"}
    return work.bytes["gpu"]


PLAIN = work_of()
LAYER = layer_of(PLAIN)


# -- experts in 4 bits -----------------------------------------------------------------------------


def test_sizes_of_experts_in_four_bits():
    """Router, norms and attention stay as they are; so does the cache."""
    work = work_of(experts="int4")
    layer = layer_of(work)
    assert work.expert_bytes(layer) == 8 * EXPERT * INT4
    assert work.expert_bytes(layer) / 8 == pytest.approx(93.6e6, rel=1e-3)
    assert work.attention_bytes(layer) == PLAIN.attention_bytes(LAYER)
    assert work.embedding_bytes() == PLAIN.embedding_bytes()
    assert work.kv_bytes(layer, 9) == PLAIN.kv_bytes(LAYER, 9)
    both = work_of(gpus=2, experts="int4")
    assert both.expert_bytes(layer_of(both)) == 4 * EXPERT * INT4


@pytest.mark.parametrize(("fused", "beside"), [(False, TWICE), (True, 0)])
def test_experts_of_a_layer_in_four_bits(fused, beside):
    """Separate kernels write out three matrices of each of eight experts."""
    work = work_of(experts="int4", fused=fused)
    ffn = work.ffn(layer_of(work), 36)
    activations = (36 * 2 * 4_096 + 72 * INNER) * 2
    weights = TOUCHED * EXPERT * (INT4 + beside) + ROUTER * 2
    assert gpu_bytes(ffn) == pytest.approx(weights + activations)
    assert ffn.flops == PLAIN.ffn(LAYER, 36).flops
    assert ffn.calls == PLAIN.ffn(LAYER, 36).calls + (0 if fused else 3 * 8)


@pytest.mark.parametrize(("fused", "beside"), [(False, TWICE), (True, 0)])
def test_experts_that_a_gate_has_chosen_in_four_bits(fused, beside):
    """Three of them, for 18 tokens."""
    work = work_of(experts="int4", fused=fused)
    found = work.routed_experts(layer_of(work), 18, (30, 5, 1))
    activations = (18 * 2 * 4_096 + 36 * INNER) * 2
    assert gpu_bytes(found) == pytest.approx(3 * EXPERT * (INT4 + beside) + activations)
    assert found.flops == {"gemm": 2 * 36 * EXPERT}
    assert found.calls == 3 * 6 + (0 if fused else 3 * 3)


@pytest.mark.parametrize(("fused", "beside"), [(False, TWICE), (True, 0)])
def test_one_expert_in_four_bits(fused, beside):
    """Every call unpacks it anew: two calls of three matrices."""
    work = work_of(experts="int4", fused=fused)
    found = work.one_expert(layer_of(work), (3, 2))
    assert gpu_bytes(found) == pytest.approx(2 * EXPERT * (INT4 + beside) + 5 * INNER * 2)
    assert found.calls == 2 * 6 + (0 if fused else 2 * 3)


def test_an_average_expert_in_four_bits():
    """1200 tokens: 300 rows in two calls."""
    work = work_of(experts="int4")
    found = work.mean_expert(layer_of(work), 1_200, 200)
    assert gpu_bytes(found) == pytest.approx(2 * EXPERT * (INT4 + TWICE) + 300 * INNER * 2)
    assert found.flops == {"gemm": 300 * 2 * EXPERT}
    assert found.calls == 2 * 6 + 2 * 3


@pytest.mark.parametrize(("fused", "beside"), [(False, TWICE), (True, 0)])
def test_experts_on_the_cpu_in_four_bits(fused, beside):
    work = work_of(experts="int4", fused=fused)
    found = work.cpu_experts(layer_of(work), 2, 5)
    assert found.bytes == {"cpu": pytest.approx(2 * EXPERT * (INT4 + beside) + 5 * INNER * 2)}
    assert found.flops == {"experts": 5 * 2 * EXPERT}
    assert found.calls == 2 * 3 + (0 if fused else 2 * 3)


def test_the_whole_ffn_in_one_kernel_still_unpacks_expert_by_expert():
    work = work_of(kernels=FUSED, experts="int4")
    assert work.ffn(layer_of(work), 36).calls == 10 + 3 * 8


def test_a_dense_ffn_counts_as_an_expert():
    """OPT-6.7B: two matrices of 4096 x 16384, with biases, one after the other."""
    plain, work = work_of("opt-6.7b"), work_of("opt-6.7b", experts="int8")
    p = 2 * 4_096 * 16_384 + 16_384 + 4_096
    layer = layer_of(work)
    more = gpu_bytes(work.ffn(layer, 7)) - gpu_bytes(plain.ffn(layer_of(plain), 7))
    assert more == pytest.approx(p * (INT8 + TWICE - 2))
    assert work.ffn(layer, 7).calls == plain.ffn(layer_of(plain), 7).calls + 2


# -- all weights in 8 bits -------------------------------------------------------------------------


@pytest.mark.parametrize(("fused", "beside"), [(False, TWICE), (True, 0)])
def test_projections_in_eight_bits(fused, beside):
    """Query, key and value, and output; each of four matrices has a kernel that writes it out."""
    work = work_of(weights="int8", fused=fused)
    layer = layer_of(work)
    qkv, out = 4_096 * 6_144 + 4_096, 4_096 * 4_096
    each = INT8 + beside
    assert gpu_bytes(work.qkv(layer, 36)) == pytest.approx(qkv * each + HIDDEN + 36 * 6_144 * 2)
    moved = out * each + 36 * 4_096 * 2 + 2 * HIDDEN
    assert gpu_bytes(work.out_projection(layer, 36)) == pytest.approx(moved)
    assert work.qkv(layer, 36).calls == 7 + (0 if fused else 3)
    assert work.out_projection(layer, 36).calls == 2 + (0 if fused else 1)
    assert work.qkv(layer, 36).flops == PLAIN.qkv(LAYER, 36).flops
    packed = (qkv + out) * INT8 + ROUTER * 2
    assert work.attention_bytes(layer) == pytest.approx(packed)
    assert work.projection_bytes(layer) == pytest.approx((qkv + out) * INT8)
    assert work.expert_bytes(layer) == 8 * EXPERT * INT8


def test_gate_head_and_embedding_stay_as_they_are():
    work = work_of(weights="int8", experts="int4", kv="int8")
    layer = layer_of(work)
    assert work.gate(layer, 36) == PLAIN.gate(LAYER, 36)
    assert work.head(36) == PLAIN.head(36)
    assert work.embedding(36) == PLAIN.embedding(36)


def test_shared_experts_are_dense_weights():
    """Two of 3 x 2048 x 1408 in DeepSeek-V2-Lite: `weights` is about them, `experts` is not."""
    own = 2 * 3 * 2_048 * 1_408
    plain, few = work_of("deepseek-v2-lite"), work_of("deepseek-v2-lite", experts="int4")
    all_of_them = work_of("deepseek-v2-lite", weights="int8")
    layer = plain.model.decoder_layers[1]
    for operation in ("combine", "shared_experts"):
        before, same, after = (getattr(w, operation)(layer, 5) for w in (plain, few, all_of_them))
        assert same == before
        assert gpu_bytes(after) - gpu_bytes(before) == pytest.approx(own * (INT8 + TWICE - 2))
        assert after.calls == before.calls + 3


def test_keys_of_a_cross_attention_in_eight_bits():
    """Switch-Base, float32: a key and a value matrix in each of two decoder layers."""
    plain, work = work_of("switch-base-8"), work_of("switch-base-8", weights="int8")
    before, after = plain.cross_keys(7), work.cross_keys(7)
    matrices = 2 * 768 * 1_536
    assert gpu_bytes(after) - gpu_bytes(before) == pytest.approx(matrices * (INT8 + 8 - 4))
    assert (before.calls, after.calls) == (2 * 2, 2 * 2 + 2 * 2)


# -- the cache in 8 bits ---------------------------------------------------------------------------


@pytest.mark.parametrize(("fused", "beside"), [(False, TWICE), (True, 0)])
def test_attention_on_the_gpu_with_a_cache_in_eight_bits(fused, beside):
    """36 sequences of 512 tokens, 2048 elements each; keys and values are written out."""
    work = work_of(kv="int8", fused=fused)
    layer = layer_of(work)
    found, others = work.gpu_attention(layer, 36, 36 * 512), 36 * (6_144 + 4_096) * 2
    assert work.kv_bytes(layer, 1) == 2_048 * INT8
    assert gpu_bytes(found) == pytest.approx(36 * 512 * 2_048 * (INT8 + beside) + others)
    assert found.calls == 3 + (0 if fused else 2)
    assert found.flops == PLAIN.gpu_attention(LAYER, 36, 36 * 512).flops
    assert work.ffn(layer, 36) == PLAIN.ffn(LAYER, 36)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("kernel", "beside"), [("native", 0), ("torch", 8 + 8 * 4)])
def test_attention_on_the_cpu_with_a_cache_in_eight_bits(kernel, beside, fused):
    """Read once and converted in registers; or, as FlexGen does it, into float32 for 4 heads."""
    work = work_of(kernels=Kernels(experts="loop", cpu_attention=kernel), kv="int8", fused=fused)
    found = work.cpu_attention(layer_of(work), 36, 36 * 512)
    others = 36 * (6_144 + 4_096) * 2
    assert found.bytes == {"cpu": pytest.approx(36 * 512 * 2_048 * (INT8 + beside) + others)}
    assert found.calls == 1


# -- choices that are skipped, experts that are gone -----------------------------------------------


def test_skipping_half_of_the_second_choices():
    """Three quarters of the rows; a token takes an expert with probability 1.5 / 8."""
    work = work_of(skip=0.5)
    layer = layer_of(work)
    ffn = work.ffn(layer, 36)
    touched = 8 * (1 - (1 - 1.5 / 8) ** 36)
    assert ffn.flops == {"gemm": 36 * 2 * (1.5 * EXPERT + 8 * 4_096)}
    activations = 36 * (2 * 4_096 + 1.5 * INNER) * 2
    assert gpu_bytes(ffn) == pytest.approx((touched * EXPERT + ROUTER) * 2 + activations)
    assert ffn.calls == PLAIN.ffn(LAYER, 36).calls
    assert work.qkv(layer, 36) == PLAIN.qkv(LAYER, 36)
    assert work.expert_bytes(layer) == PLAIN.expert_bytes(LAYER)


def test_skipping_with_one_token():
    """It takes one expert and a half: 1.5 are read, each in a loop of six kernels."""
    work = work_of(skip=0.5)
    layer = layer_of(work)
    ffn = work.ffn(layer, 1)
    assert gpu_bytes(ffn) == pytest.approx((1.5 * (EXPERT + INNER) + ROUTER + 2 * 4_096) * 2)
    mean = work.mean_expert(layer, 1, 200)
    assert mean.flops == {"gemm": 1.5 / 8 * 2 * EXPERT}
    assert gpu_bytes(mean) == pytest.approx(1.5 / 8 * (EXPERT + INNER) * 2)


def test_skipping_in_one_kernel():
    """Four tokens take 6 of 8 experts at most, so tiles have 16 rows, one for each touched."""
    work = work_of(kernels=FUSED, skip=0.5)
    touched = 8 * (1 - (1 - 1.5 / 8) ** 4)
    flops = work.ffn(layer_of(work), 4).flops["experts"]
    assert flops == pytest.approx(2 * 16 * touched * EXPERT)


@given(
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from([Routing(), Routing(kind="zipf", exponent=1.0)]),
    st.sampled_from([LOOP, FUSED]),
)
@settings(max_examples=40)
def test_skipping_more_never_costs_more(tokens, skip, routing, kernels):
    """In bytes; and in flops, but for the size of tiles, which the number of choices decides."""
    more, less = (
        work_of(kernels=kernels, routing=routing, skip=share) for share in (skip, skip / 2)
    )
    few, many = more.ffn(layer_of(more), tokens), less.ffn(layer_of(less), tokens)
    assert few.total_bytes <= many.total_bytes * (1 + 1e-9)
    if kernels is LOOP:
        assert few.total_flops <= many.total_flops * (1 + 1e-9)


def test_six_of_eight_experts():
    work = work_of(keep=6)
    layer = layer_of(work)
    ffn = work.ffn(layer, 36)
    touched = 6 * (1 - (4 / 6) ** 36)
    assert work.expert_bytes(layer) == 6 * EXPERT * 2
    assert ffn.flops == {"gemm": 36 * 2 * (2 * EXPERT + 6 * 4_096)}
    activations = (36 * 2 * 4_096 + 72 * INNER) * 2
    router = 6 * 4_096 + 4_096
    assert gpu_bytes(ffn) == pytest.approx((touched * EXPERT + router) * 2 + activations)
    assert ffn.calls == 4 + 6 * 6


# -- room to write matrices out --------------------------------------------------------------------


def test_workspace():
    """One matrix of an expert is written out at a time, or one of the attention; none if fused."""
    expert, attention = 4_096 * 14_336 * 2, 4_096 * 4_096 * 2
    before = PLAIN.layer_workspace_bytes(LAYER, 36)
    for modifiers, more in (
        ({"experts": "int4"}, expert),
        ({"experts": "int8"}, expert),
        ({"weights": "int8"}, expert),
        ({"kv": "int8"}, 0),
        ({"weights": "int4", "fused": True}, 0),
        ({"skip": 0.5}, 0),
    ):
        work = work_of(**modifiers)
        assert work.scratch_bytes(layer_of(work)) == more
        assert work.layer_workspace_bytes(layer_of(work), 36) == before + more
    two = work_of(gpus=2, experts="int4")
    assert two.scratch_bytes(layer_of(two)) == expert / 2
    alone = PLAIN.model.model_copy(update={"quantisation": Quantisation(dense=8)})
    assert LayerWork(alone, Routing(), LOOP).scratch_bytes(LAYER) == attention


# -- what must balance, for all models -------------------------------------------------------------

modified = st.fixed_dictionaries(
    {},
    optional={
        "weights": st.sampled_from(["int8", "int4"]),
        "experts": st.sampled_from(["int8", "int4"]),
        "kv": st.sampled_from(["int8", "int4"]),
    },
)


@settings(max_examples=40)
@given(st.sampled_from(MODELS), st.integers(1, 500), modified, st.sampled_from([LOOP, FUSED]))
def test_fewer_bits_change_no_flops_and_fused_kernels_launch_no_more(
    model, tokens, values, kernels
):
    """And move at most as many bytes as the model's own format does."""
    plain = work_of(model, kernels)
    work = work_of(model, kernels, **values, **({"fused": True} if values else {}))
    for one, other in zip(plain.model.decoder_layers, work.model.decoder_layers, strict=True):
        for before, after in (
            (
                plain.decode_core(one, tokens, 9 * tokens),
                work.decode_core(other, tokens, 9 * tokens),
            ),
            (plain.post_attention(one, tokens), work.post_attention(other, tokens)),
            (plain.mean_expert(one, tokens, 50), work.mean_expert(other, tokens, 50)),
            (plain.cpu_attention(one, tokens, 99), work.cpu_attention(other, tokens, 99)),
            (plain.cpu_experts(one, 1, tokens), work.cpu_experts(other, 1, tokens)),
        ):
            assert after.flops == before.flops
            assert after.calls == before.calls
            assert after.total_bytes <= before.total_bytes
        assert work.layer_bytes(other) <= plain.layer_bytes(one)


@settings(max_examples=40)
@given(st.sampled_from(MODELS), st.integers(1, 500), modified, st.sampled_from([LOOP, FUSED]))
def test_average_experts_still_add_up_to_the_ffn_s(model, tokens, values, kernels):
    """But for the router and its norm, which a gate has run."""
    skip = {"skip": 0.3} if load_model(model).top_k > 1 else {}
    work = work_of(model, kernels, **values, **skip)
    layer = work.model.decoder_layers[1]
    if not layer.is_moe:
        return
    whole, one = work.ffn(layer, tokens), work.mean_expert(layer, tokens, 10_000)
    rest = work.combine(layer, tokens)
    flops = layer.n_experts * one.total_flops + rest.total_flops
    assert flops + 2 * tokens * layer.router_parameters == pytest.approx(whole.total_flops)
    gate = (layer.router_parameters + layer.ffn_norm_parameters) * work.b
    moved = layer.n_experts * one.total_bytes + rest.total_bytes + gate
    assert moved == pytest.approx(whole.total_bytes)
