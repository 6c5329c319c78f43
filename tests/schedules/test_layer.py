"""The work of every operation: Mixtral, OPT, DeepSeek and Switch by hand, and what must balance."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.batching import MicroBatch
from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.routing import Routing
from tests.strategies import MODELS

GB = 1e9
LOOP = Kernels(experts="loop")


def work_of(model: str, kernels=LOOP, gpus=1, layers=None, **kwargs) -> LayerWork:
    spec = load_model(model)
    spec = spec if layers is None else spec.with_layers(layers)
    return LayerWork(spec, Routing(), kernels, gpus, **kwargs)


def first(work: LayerWork):
    return work.model.decoder_layers[0]


# -- Mixtral 8x7B, one layer, decode of 36 sequences, float16 --------------------------------------
# h = 4096; q: 32 x 128 = 4096; kv: 2 x 8 x 128 = 2048; qkv: 6144; expert: 3 x 4096 x 14336

MIXTRAL = work_of("mixtral-8x7b")
LAYER = first(MIXTRAL)
EXPERT = 3 * 4096 * 14336
HIDDEN = 36 * 4096 * 2  # bytes of 36 hidden states
TOUCHED = 8 * (1 - (3 / 4) ** 36)  # experts that 36 tokens take, top-2 of 8: 7.9997


def test_sizes():
    assert MIXTRAL.expert_bytes(LAYER) == 8 * EXPERT * 2 == pytest.approx(2.819 * GB, rel=1e-3)
    attention = 4096 * (4096 + 2048 + 4096) + 4096  # q, kv, o and the norm
    others = 8 * 4096 + 4096  # router, norm of the FFN
    assert MIXTRAL.attention_bytes(LAYER) == (attention + others) * 2
    assert MIXTRAL.layer_bytes(LAYER) == (attention + others + 8 * EXPERT) * 2
    assert MIXTRAL.embedding_bytes() == (2 * 32000 * 4096 + 4096) * 2
    assert MIXTRAL.kv_bytes(LAYER, 1) == 4096
    assert MIXTRAL.hidden_bytes(36) == HIDDEN == 294_912
    assert MIXTRAL.qkv_bytes(LAYER, 36) == 442_368
    assert MIXTRAL.attended_bytes(LAYER, 36) == 294_912


def test_qkv():
    """(4096 x 6144 + 4096 norm) parameters, 36 tokens in and out."""
    work, p = MIXTRAL.qkv(LAYER, 36), 4096 * 6144 + 4096
    assert work.flops == {"gemm": 2 * 36 * p}
    assert work.bytes == {"gpu": 2 * p + HIDDEN + 442_368}
    assert (work.device, work.dtype, work.calls) == ("gpu", "float16", 7)


def test_attention_on_the_gpu():
    """36 sequences of 512 tokens: 4 x 4096 flops and 4096 bytes for each cached token."""
    work = MIXTRAL.gpu_attention(LAYER, 36, 36 * 512)
    assert work.flops == {"attention": 16384 * 36 * 512}
    assert work.bytes == {"gpu": 4096 * 36 * 512 + 442_368 + 294_912}
    assert work.calls == 3


def test_attention_on_the_cpu():
    work = MIXTRAL.cpu_attention(LAYER, 36, 36 * 512)
    assert work.flops == {"attention": 16384 * 36 * 512}
    assert work.bytes == {"cpu": 4096 * 36 * 512 + 442_368 + 294_912}
    assert (work.device, work.dtype, work.calls, work.share) == ("cpu", "float16", 1, 1.0)


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("mixtral-8x7b", 42 / 2),  # 2 + 4 + 4, and 2 x 4 for each of 4 query heads
        ("opt-6.7b", 10 / 2),  # one query head: nothing to repeat
        ("deepseek-v2-lite", 138 / 2),  # the latent is shared by 16 heads
        ("switch-base-8", 12 / 4),  # 4 bytes each: read, written, read
    ],
)
def test_attention_on_the_cpu_as_flexgen_does_it(model, factor):
    native, torch = work_of(model), work_of(model, Kernels(cpu_attention="torch"))
    layer = first(native)
    kv = native.kv_bytes(layer, 1000)
    others = native.qkv_bytes(layer, 4) + native.attended_bytes(layer, 4)
    assert native.cpu_attention(layer, 4, 1000).bytes["cpu"] == kv + others
    converted = torch.cpu_attention(layer, 4, 1000)
    assert converted.bytes["cpu"] == pytest.approx(factor * kv + others)
    assert converted.dtype == "float32"
    assert converted.flops == native.cpu_attention(layer, 4, 1000).flops


def test_output_projection():
    work, p = MIXTRAL.out_projection(LAYER, 36), 4096 * 4096
    assert work.flops == {"gemm": 2 * 36 * p}
    assert work.bytes == {"gpu": 2 * p + 294_912 + 2 * HIDDEN}
    assert work.calls == 2


def test_experts_one_after_the_other():
    """72 choices of one expert each; all eight touched, six kernels for each, four for the gate."""
    work = MIXTRAL.ffn(LAYER, 36)
    assert work.flops == {"gemm": 2 * 72 * EXPERT + 2 * 36 * 8 * 4096}
    assert work.flops["gemm"] == pytest.approx(25.4e9, rel=2e-3)
    weights = TOUCHED * EXPERT + 8 * 4096 + 4096
    activations = 36 * (2 * 4096 + 2 * (2 * 4096 + 3 * 14336))
    assert work.bytes["gpu"] == pytest.approx(2 * (weights + activations))
    assert work.calls == 4 + 6 * 8


def test_experts_in_one_kernel_compute_whole_tiles():
    """No expert has more than 36 tokens, so each touched one computes one tile of 64 rows."""
    fused = work_of("mixtral-8x7b", Kernels(experts="fused"))
    work = fused.ffn(LAYER, 36)
    assert work.flops["gemm"] == 2 * 36 * 8 * 4096  # the router
    assert work.flops["experts"] == pytest.approx(2 * 64 * TOUCHED * EXPERT)
    assert work.bytes == MIXTRAL.ffn(LAYER, 36).bytes  # padding costs no bytes
    assert work.calls == 10
    exact = work_of("mixtral-8x7b", Kernels(experts="fused", tile_rows=1))
    assert exact.ffn(LAYER, 36).flops["experts"] == 2 * 72 * EXPERT


def test_few_tokens_are_computed_in_small_tiles():
    """Six choices of eight experts: tiles of 16 rows; from nine choices on, of 64."""
    fused = work_of("mixtral-8x7b", Kernels(experts="fused"))
    for tokens, tile in ((3, 16), (4, 16), (5, 64)):
        touched = 8 * (1 - 0.75**tokens)
        flops = fused.ffn(LAYER, tokens).flops["experts"]
        assert flops == pytest.approx(2 * tile * touched * EXPERT)


def test_the_gate_alone():
    """Norm and router; expert ids of 8 B and weights of 2 B for two choices of each token."""
    gate = MIXTRAL.gate(LAYER, 36)
    assert gate.flops == {"gemm": 2 * 36 * 8 * 4096}
    assert gate.bytes == {"gpu": 2 * (8 * 4096 + 4096) + HIDDEN + 36 * 2 * 10}
    assert gate.calls == 4


def test_experts_that_a_gate_has_chosen():
    """Three of eight, for 30, 5 and 1 of 18 tokens' choices, one after the other.

    Each is read once; every choice has 2 flops a parameter; six launches for each expert. A fused
    kernel pads them to 64 rows each, 192 in all, or with 8 choices to 16: 5, 2 and 1 are 48.
    """
    activations = 18 * 2 * (2 * 4096 + 2 * (2 * 4096 + 3 * 14336))
    loop = work_of("mixtral-8x7b", Kernels(experts="loop")).routed_experts(LAYER, 18, (30, 5, 1))
    assert loop.flops == {"gemm": 2 * 36 * EXPERT}
    assert loop.bytes == {"gpu": 2 * 3 * EXPERT + activations}
    assert loop.calls == 3 * 6
    fused = work_of("mixtral-8x7b", Kernels(experts="fused"))
    work = fused.routed_experts(LAYER, 18, (30, 5, 1))
    assert work.flops == {"gemm": 0, "experts": 2 * 192 * EXPERT}
    assert (work.bytes, work.calls) == (loop.bytes, 6)
    assert fused.routed_experts(LAYER, 4, (5, 2, 1)).flops["experts"] == 2 * 48 * EXPERT


@pytest.mark.parametrize("model", ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite"])
def test_gate_and_all_experts_are_the_ffn(model):
    """What is read between them, ids and hidden states, is all that comes on top."""
    work = work_of(model, Kernels(experts="loop"), layers=2)
    layer = work.model.decoder_layers[1]
    n, e = TOKENS, layer.n_experts
    counts = (n * layer.top_k // e,) * (e - 1)
    counts = (*counts, n * layer.top_k - sum(counts))
    two = work.gate(layer, n) + work.routed_experts(layer, n, counts)
    ffn = work.ffn(layer, n)
    assert two.total_flops == pytest.approx(ffn.total_flops, rel=1e-12)
    between = work.hidden_bytes(n) + work.routed_bytes(layer, n)
    assert two.total_bytes - between == pytest.approx(ffn.total_bytes, rel=1e-12)
    assert two.calls == ffn.calls


def test_head_and_embedding():
    head = MIXTRAL.head(36)
    assert head.flops == {"gemm": 2 * 36 * 32000 * 4096}
    assert head.bytes == {"gpu": 2 * 32000 * 4096 + HIDDEN}
    assert head.calls == 3
    embedding = MIXTRAL.embedding(36)
    assert (embedding.total_flops, embedding.bytes, embedding.calls) == (0, {"gpu": 2 * HIDDEN}, 1)


PROMPTS = MicroBatch(0, (3, 4))


def test_prefill():
    """Prompts of 3 and 4 tokens: half of 9 + 16 pairs; the last position or all give logits."""
    work = MIXTRAL.prefill_attention(LAYER, PROMPTS)
    assert work.flops == {"attention": 16384 * 12.5}
    assert work.bytes == {"gpu": 7 * (6144 + 4096) * 2}
    assert MIXTRAL.end_of_prefill(PROMPTS) == MIXTRAL.head(2)
    for logits in ("all", "all_float32"):
        every = work_of("mixtral-8x7b", Kernels(experts="loop", logits=logits))
        assert every.end_of_prefill(PROMPTS) == MIXTRAL.head(7)


def test_whole_layers_are_sums_of_operations():
    assert MIXTRAL.decode_core(LAYER, 36, 999) == MIXTRAL.qkv(LAYER, 36) + MIXTRAL.gpu_attention(
        LAYER, 36, 999
    )
    assert MIXTRAL.post_attention(LAYER, 36) == MIXTRAL.out_projection(LAYER, 36) + MIXTRAL.ffn(
        LAYER, 36
    )
    assert MIXTRAL.prefill_core(LAYER, PROMPTS) == MIXTRAL.qkv(
        LAYER, 7
    ) + MIXTRAL.prefill_attention(LAYER, PROMPTS)


def test_workspace():
    """The widest point of a layer, or the logits.

    Fused, 36 tokens: two choices of gate, up, product (3 x 14336) and output, and two hidden
    states. In a loop with logits of 1000 positions in both dtypes: 32000 x (2 + 4) bytes each.
    """
    fused = work_of("mixtral-8x7b", Kernels(experts="fused"))
    assert fused.workspace_bytes(LAYER, 36, 36) == 36 * 2 * (3 * 14336 + 4096) * 2 + 2 * HIDDEN
    loop = work_of("mixtral-8x7b", Kernels(experts="loop", logits="all_float32"))
    assert loop.workspace_bytes(LAYER, 1000, 2) == 1000 * 32000 * 6 + 1000 * 8192
    last = MIXTRAL.workspace_bytes(LAYER, 1000, 2)
    assert last == 1000 * (3 * 14336 + 4096) * 2 + 2 * 1000 * 8192


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "touched"),
    [
        ("h2d", {"cpu": 10, "gpu": 10}),
        ("d2h", {"cpu": 10, "gpu": 10}),
        ("h2d_pageable", {"cpu": 10, "gpu": 10}),
        ("d2h_pageable", {"cpu": 10, "gpu": 10}),
        ("pin", {"cpu": 20}),
        ("pin_parallel", {"cpu": 20}),
        ("peer", {"gpu": 20}),
        ("disk", {"disk": 10, "cpu": 10}),
    ],
)
def test_a_copy_touches_both_ends(link, touched):
    work = MIXTRAL.copy(link, 10)
    assert work.link_bytes == {link: 10}
    assert work.bytes == touched
    assert (work.device, work.total_flops, work.calls) == ("link", 0, 1)


def test_a_gather_receives_what_others_hold_and_copies_all_of_it():
    """1000 bytes in shares: read and written once; three quarters come from three other GPUs."""
    alone, of_four = MIXTRAL.gather(1000, 1), MIXTRAL.gather(1000, 4)
    assert alone.bytes == of_four.bytes == {"gpu": 2000}
    assert alone.link_bytes == {}
    assert of_four.link_bytes == {"peer": 750}


def test_equal_operands_give_the_same_object():
    """The graph stores it once."""
    assert MIXTRAL.copy("h2d", 10.0) is MIXTRAL.copy("h2d", 10.0)
    assert MIXTRAL.qkv(LAYER, 36) is MIXTRAL.qkv(LAYER, 36)
    assert MIXTRAL.cpu_attention(LAYER, 36, 9) is MIXTRAL.cpu_attention(LAYER, 36, 9)
    assert MIXTRAL.decode_core(LAYER, 36, 9) is MIXTRAL.decode_core(LAYER, 36, 9)
    assert MIXTRAL.decode_core(LAYER, 36, 9) is not MIXTRAL.decode_core(LAYER, 36, 10)
    assert MIXTRAL.join(MIXTRAL.head(1)) is MIXTRAL.head(1)
    assert MIXTRAL.join(MIXTRAL.head(1), None) is MIXTRAL.head(1)


# -- DeepSeek-V2-Lite: multi-head latent attention -------------------------------------------------
# 16 heads of 128 + 64 (rotary); latent 512; values of 128; h = 2048


def test_latent_attention():
    """The cache holds the latent and one rotary key; decode works on them, prefill expands."""
    work = work_of("deepseek-v2-lite", layers=2)
    layer = first(work)
    assert work.kv_bytes(layer, 1) == (512 + 64) * 2
    assert work.qkv_bytes(layer, 1) == (16 * 192 + 576) * 2
    assert work.attended_bytes(layer, 1) == 16 * 128 * 2
    decode = work.gpu_attention(layer, 3, 100)
    assert decode.flops == {"attention": 2 * 16 * (512 + 64 + 512) * 100}
    assert decode.bytes == {"gpu": 2 * (576 * 100 + 3 * (3648 + 2048))}
    prefill = work.prefill_attention(layer, PROMPTS)
    assert prefill.flops == {"attention": 2 * 16 * (128 + 64 + 128) * 12.5}


def test_first_layer_of_deepseek_is_dense_and_the_others_share_two_experts():
    work = work_of("deepseek-v2-lite", layers=2)
    dense, moe = work.model.decoder_layers
    assert work.ffn(dense, 5).flops == {"gemm": 2 * 5 * 3 * 2048 * 10944}
    assert work.ffn(dense, 5).calls == 5
    routed, shared, gate = 6 * 3 * 2048 * 1408, 2 * 3 * 2048 * 1408, 64 * 2048
    assert work.ffn(moe, 5).flops == {"gemm": 2 * 5 * (routed + shared + gate)}
    touched = 64 * (1 - (58 / 64) ** 5)
    assert work.ffn(moe, 5).calls == 4 + 6 * round(touched)


# -- Switch base: encoder and decoder, float32 -----------------------------------------------------
# h = 768; q: 12 x 64 = 768; kv: 1536


def test_cross_attention():
    """A decoder layer projects queries for both attentions, keys and values for its own only.

    Self: q, k, v (768 x 2304); cross: q (768 x 768); two norms; the position bias of layer 0.
    """
    work = work_of("switch-base-8", layers=2)
    p = 768 * 2304 + 768 * 768 + 2 * 768
    assert work.qkv(work.model.decoder_layers[1], 3).flops == {"gemm": 2 * 3 * p}
    assert work.qkv(work.model.decoder_layers[0], 3).flops == {"gemm": 2 * 3 * (p + 32 * 12)}
    assert work.out_projection(first(work), 3).flops == {"gemm": 2 * 3 * 2 * 768 * 768}


def test_cross_attention_keys_are_projected_once_per_prompt():
    work = work_of("switch-base-8", layers=2)
    keys = work.end_of_prefill(PROMPTS)
    matrices = 2 * 768 * 1536  # of two decoder layers
    assert keys.flops == {"gemm": 2 * 7 * matrices}
    assert keys.bytes == {"gpu": 4 * (matrices + 2 * 7 * 1536 + 7 * 768)}
    assert keys.calls == 4


def test_an_encoder_attends_to_all_pairs():
    work = work_of("switch-base-8", layers=2)
    encoder = work.model.encoder_layers[0]
    assert work.prefill_attention(encoder, PROMPTS).flops == {"attention": 4 * 768 * 25}
    assert work.qkv(encoder, 3).flops == {"gemm": 2 * 3 * (768 * 2304 + 768 + 32 * 12)}


# -- what must balance, for all models -------------------------------------------------------------

TOKENS = 100_000  # enough to touch every expert


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("experts", ["fused", "loop"])
def test_one_decode_layer_reads_each_of_its_weights_once(model, gpus, experts):
    work = work_of(model, Kernels(experts=experts), gpus, layers=2)
    h, n = work.model.hidden_size, TOKENS
    for layer in (*work.model.encoder_layers, *work.model.decoder_layers):
        hidden = work.hidden_bytes(n)
        qkv = work.qkv(layer, n).bytes["gpu"] - hidden - work.qkv_bytes(layer, n)
        out = work.out_projection(layer, n).bytes["gpu"]
        out -= work.attended_bytes(layer, n) + 2 * hidden
        inner = layer.top_k * (2 * h + layer.ffn_matrices * layer.ffn_size / gpus)
        ffn = work.ffn(layer, n).bytes["gpu"] - n * (2 * h + inner) * work.b
        once = layer.kv_size * h * work.b / gpus if layer.cross_attention else 0
        assert qkv + out + ffn == pytest.approx(work.layer_bytes(layer) - once, rel=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_all_weights_are_somewhere(model):
    work = work_of(model)
    layers = (*work.model.encoder_layers, *work.model.decoder_layers)
    total = sum(work.layer_bytes(layer) for layer in layers) + work.embedding_bytes()
    assert total == work.model.parameters * work.b
    for layer in layers:
        both = work.attention_bytes(layer) + work.expert_bytes(layer)
        assert both == work.layer_bytes(layer)


def operations(work: LayerWork, layer):
    """Every operation on a layer, with the bytes that are not split (hidden, MLA latent)."""
    batch = MicroBatch(0, (3, 5))

    def latent(tokens):
        return work.kv_bytes(layer, tokens) if work.model.mla else 0

    return [
        (work.qkv(layer, 5), work.hidden_bytes(5) + latent(5)),
        (work.gpu_attention(layer, 5, 70), latent(70 + 5)),
        (work.prefill_attention(layer, batch), latent(3 + 5)),
        (work.cpu_attention(layer, 5, 70), latent(70 + 5)),
        (work.out_projection(layer, 5), work.hidden_bytes(2 * 5)),
        (work.head(5), work.hidden_bytes(5)),
    ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gpus", [2, 4])
def test_tensor_parallel_gpus_share_the_flops_and_all_bytes_but_the_hidden_states(model, gpus):
    whole, part = work_of(model, layers=2), work_of(model, gpus=gpus, layers=2)
    layer = whole.model.decoder_layers[1]
    for one, each in zip(operations(whole, layer), operations(part, layer), strict=True):
        (work, unsplit), (share, _) = one, each
        assert share.total_flops * gpus == pytest.approx(work.total_flops)
        assert (share.total_bytes - unsplit) * gpus == pytest.approx(work.total_bytes - unsplit)
        assert share.calls == work.calls
    sizes = ("attention_bytes", "expert_bytes", "layer_bytes")
    for size in sizes:
        assert getattr(part, size)(layer) * gpus == pytest.approx(getattr(whole, size)(layer))
    m = whole.model  # every GPU has the embedding, and its share of the head
    split = part.embedding_bytes() - m.embedding_parameters * whole.b
    assert split * gpus == whole.embedding_bytes() - m.embedding_parameters * whole.b
    assert part.hidden_bytes(7) == whole.hidden_bytes(7)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("experts", ["fused", "loop"])
def test_tensor_parallel_gpus_share_the_experts(model, experts):
    kernels = Kernels(experts=experts)
    whole, part = (work_of(model, kernels, gpus, layers=2) for gpus in (1, 2))
    layer = whole.model.decoder_layers[1]
    one, half = whole.ffn(layer, 40), part.ffn(layer, 40)
    assert half.total_flops * 2 == pytest.approx(one.total_flops)
    unsplit = 40 * (2 + 2 * layer.top_k) * whole.model.hidden_size * whole.b
    assert (half.total_bytes - unsplit) * 2 == pytest.approx(one.total_bytes - unsplit)
    assert half.calls == one.calls


def test_a_process_that_has_half_of_the_cores():
    work = work_of("mixtral-8x7b", cpu_share=0.5)
    assert work.cpu_attention(LAYER, 36, 100).share == 0.5
    assert work.qkv(LAYER, 36).share == 1.0


@settings(max_examples=50)
@given(st.sampled_from(MODELS), st.integers(1, 500), st.integers(1, 500))
def test_attention_in_decode_is_affine_in_the_context(model, sequences, context):
    """Each further cached token costs the same: what makes a generation's steps convex."""
    work = work_of(model, layers=2)
    layer = first(work)
    for attention in (work.gpu_attention, work.cpu_attention):
        a, b, c = (attention(layer, sequences, context * k) for k in (1, 2, 3))
        assert b.total_bytes - a.total_bytes == pytest.approx(c.total_bytes - b.total_bytes)
        assert b.total_flops - a.total_flops == c.total_flops - b.total_flops


@settings(max_examples=50)
@given(st.sampled_from(MODELS), st.integers(1, 2000))
def test_a_loop_reads_at_most_all_experts_and_computes_every_choice(model, tokens):
    work = work_of(model, layers=2)
    layer = work.model.decoder_layers[1]
    ffn = work.ffn(layer, tokens)
    routed = 2 * tokens * layer.top_k * layer.expert_parameters
    others = 2 * tokens * (layer.router_parameters + layer.shared_parameters)
    assert ffn.total_flops == pytest.approx(routed + others)
    h, inner = work.model.hidden_size, layer.ffn_matrices * layer.ffn_size
    activations = tokens * (2 * h + layer.top_k * (2 * h + inner)) * work.b
    weights = (layer.parameters - layer.attention_parameters) * work.b
    assert ffn.total_bytes <= (weights + activations) * (1 + 1e-9)
