"""MoE-Lens: prefill and decode in each pass, two groups in turns on CPU and GPU; by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert import MoELens
from schedules.hf_config import from_hf_config
from sim import simulate

SMALL = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_local_experts": 3,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}
OPS = {
    "q": "pre_attention",
    "o": "offload_qkv",
    "t": "cpu_attention",
    "s": "store_kv",
    "l": "load_attended",
    "n": "pin_weights",
    "w": "load_weights",
    "p": "post_attention",
}
SECONDS = {"q": 1, "o": 1, "t": 4, "s": 2, "l": 1, "n": 1, "w": 2, "p": 3}
EXPERTS = 2 * 8 * 3 * 4_096 * 14_336  # bytes of a layer's eight of Mixtral


def build(lab, n=4, prompts=(3,), gen_len=4, model=None, **policy):
    """Two groups of two sequences; in passes 0 and 2 one of group a begins, in 1 and 3 one of b."""
    policy = {"pinned": True} | policy
    model = model or from_hf_config(SMALL)
    return lab.build(MoELens, n, n, model=model, prompts=prompts, gen_len=gen_len, **policy)


# -- order and time --------------------------------------------------------------------------------


def test_a_pass(lab):
    """Pass 1: a decodes (no s), b reads a prompt as well. While the GPU runs a's experts (p) and
    its projections in the next layer (q), the CPU attends for b.

    The next layer's weights come in two parts, behind the attention's results of a and of b.
    """
    order = """
        q0a o0a t0a  q0b o0b t0b s0b
        l0a w1a p0a  q1a o1a t1a
        l0b w1b p0b  q1b o1b t1b s1b
        l1a w0a p1a  l1b w0b p1b
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | ... ... ... ... ... ... l0a w1a --- ... l0b w1b --- ... ... ... l1a w0a --- ...
        gpu | q0a q0b ... ... ... ... ... p0a --- --- q1a p0b --- --- q1b ... ... p1a --- ---
        d2h | ... o0a o0b s0b --- ... ... ... ... ... ... o1a ... ... ... o1b s1b --- ... ...
        cpu | ... ... t0a --- --- --- t0b --- --- --- ... ... t1a --- --- --- t1b --- --- ---

        s   | 20  21  22  23
        h2d | l1b w0b --- ...
        gpu | ... p1b --- ---
        d2h | ... ... ... ...
        cpu | ... ... ... ...
    """
    graph = lab.decode(build(lab))
    lab.check_order(graph, OPS, order)
    lab.check(graph, OPS, SECONDS, picture)


def test_the_first_pass_mixes_too(lab):
    """The steady state: group a reads a prompt while the others, of earlier passes, decode. The
    first layer's weights come before; later passes find them."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | w0  --- ... ... ... ... l0a w1a --- ... l0b w1b --- ... ... ... l1a w0a --- ...
        gpu | q0a q0b ... ... ... ... ... p0a --- --- q1a p0b --- --- q1b ... ... p1a --- ---
        d2h | ... o0a s0a --- o0b ... ... ... ... ... ... o1a s1a --- ... o1b ... ... ... ...
        cpu | ... ... t0a --- --- --- t0b --- --- --- ... ... t1a --- --- --- t1b --- --- ---

        s   | 20  21  22  23
        h2d | l1b w0b --- ...
        gpu | ... p1b --- ---
        d2h | ... ... ... ...
        cpu | ... ... ... ...
    """
    lab.check(lab.prefill(build(lab)), OPS, SECONDS, picture)


def test_one_sequence_is_one_group(lab):
    """It reads its prompt in pass 0 and decodes in the others: nothing to mix."""
    lab.check_order(lab.prefill(build(lab, 1)), OPS, "w0 q0a s0a w1a p0a q1a s1a w0a p1a")
    lab.check_order(
        lab.decode(build(lab, 1)), OPS, "q0a o0a t0a l0a w1a p0a q1a o1a t1a l1a w0a p1a"
    )


def test_pageable_weights_pass_through_staging(lab):
    order = "q0a o0a t0a n1a l0a w1a p0a q1a o1a t1a n0a l1a w0a p1a"
    lab.check_order(lab.decode(build(lab, 1, pinned=False)), OPS, order)


# -- amounts ---------------------------------------------------------------------------------------


def test_a_cycle_generates_what_a_batch_would(lab):
    """Of every layer, over all passes: each prompt is read once, and three tokens follow it."""
    schedule = build(lab, prompts=(3, 5, 7, 2))
    read = decoded = sampled = 0
    for number in range(4):
        for k in (0, 1):
            share = schedule.share(k, number)
            read += share.prompt_tokens
            decoded += share.decoding
            sampled += share.sampled
    assert (read, decoded, sampled) == (3 + 5 + 7 + 2, 4 * 3, 4 * 4)


def test_bytes_of_a_pass(lab):
    """Three tokens' queries, keys and values (128 x 4 B) go, three results (64 x 4 B) come; the
    keys and values of a prompt of three tokens (64 x 4 B each) go: two layers of each."""
    graph = lab.decode(build(lab))
    layer = 3 * 3 * 64 * 96 * 4
    assert lab.moved(graph) == {
        "d2h": 2 * (3 * 128 + 3 * 64) * 4,
        "h2d": 2 * (3 * 64 * 4 + layer),
    }


def test_the_cache_holds_half_generated_sequences(lab):
    """Equation 7 of the paper: p + g / 2 tokens on average in place of p + g.

    Prompts of 30 and 20 passes for 40 sequences of 2 x 32 x 4 B a token and layer: two of them are
    of each age from 0 to 19, 39.5 tokens on average.
    """
    schedule = build(lab, 40, prompts=(30,), gen_len=20)
    experts = 2 * 3 * 3 * 64 * 96 * 4
    cached = schedule.node.issuer.peak_bytes["cpu"] - experts
    qkv_and_results = 2 * 20 * (128 + 64) * 4
    assert cached - qkv_and_results == pytest.approx(2 * 40 * 39.5 * 256, rel=0.02)


RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def test_memory_peaks(lab):
    """Two layers of Mixtral; two groups of two prompts of 100, eight passes: none has two begin.

    A group has 101 tokens at most: workspace of a fused kernel (two choices of 3 x 14336 + 4096
    elements, and two hidden states), and for each group hidden states (8192 B), the prompt's new
    keys and values (4096 B), and for two sequences queries, keys and values (12288 B) and results
    (8192 B). The output head's 4 x 32000 logits are smaller. Two layers of experts.
    """
    schedule = lab.build(MoELens, 4, 4, prompts=(100,), gen_len=8, pinned=True)
    peaks = schedule.node.issuer.peak_bytes
    workspace = 101 * 2 * (3 * 14_336 + 4_096) * 2 + 2 * 101 * 8_192
    group = 101 * 8_192 + 100 * 4_096 + 2 * (12_288 + 8_192)
    assert peaks["gpu"] == RESIDENT + workspace + 2 * group + 2 * EXPERTS
    # Begins in passes 0 and 2 (group a), 1 and 3 (b): in pass 1, or 0, of 8 the ages add up to
    # 7 + 5 + 6 + 4 less what is new; a's most is 100 + 7 and 100 + 5, and so is b's.
    cache = 2 * 2 * (107 + 105) * 4_096
    assert peaks["cpu"] == 2 * EXPERTS + cache + 2 * 2 * (12_288 + 8_192)
    assert peaks["pinned"] == 2 * EXPERTS + 2 * 2 * (12_288 + 8_192)


# -- against hand calculations ---------------------------------------------------------------------


def test_mixtral_on_a_t4_is_bound_by_the_copies_of_its_weights():
    """A pass: 32 layers of 2.82 GB at 12.35 GB/s take 7.303 s."""
    result = simulate("moe-lens", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 4, 4)
    by_hand = 32 * EXPERTS / 12.35e9
    assert by_hand == pytest.approx(7.303, rel=1e-3)
    assert result.decode_s / 7 == pytest.approx(by_hand, rel=0.1)
    assert result.prefill_s == pytest.approx(by_hand, rel=0.1)


def test_a_large_batch_on_a_t4_is_bound_by_the_gpu():
    """504 sequences, 32 tokens each, with prompts of 418 (padded): in a pass 504 x 31 / 32 decode
    and 504 / 32 prompts are read, 7072 tokens; experts' flops alone, 2 x 2 x 176 million x 32
    layers a token, at the rate of the T4's fused kernel, are most of a pass."""
    result = simulate("moe-lens", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 32, 504, 504)
    rate = result.scenario.hardware.gpu.compute["float16"]["experts"].sustained
    tokens = 504 * 31 / 32 + 504 / 32 * 418
    experts = tokens * 32 * 2 * 2 * 3 * 4_096 * 14_336 / rate
    assert 0.75 < experts / (result.decode_s / 31) < 1


def test_switch_base_128_on_an_a100():
    """A pass over the decoder copies six layers of 128 experts and six dense FFNs."""
    result = simulate("moe-lens", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 4, 4)
    rate = result.scenario.hardware.links["h2d"].sustained
    by_hand = 6 * 129 * 2 * 768 * 3_072 * 4 / rate
    assert result.decode_s / 8 == pytest.approx(by_hand, rel=0.1)


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_is_a_pass_of_its_own(lab):
    """All prompts pass the encoder; its end yields the keys of all cross-attentions."""
    schedule = build(lab, 2, model="switch-base-8")
    prefill = lab.prefill(schedule)
    order = "w0 q0a q0b w1a p0a q1a w1b p0b q1b w0a p1a s1a w0b p1b s1b"
    lab.check_order(prefill, OPS, order)
    assert lab.sizes(prefill, "store_kv") == [2 * 3 * 2 * 768 * 4] * 2
    schedule.run_decode_step(1)
    step = schedule.node.issuer.take()
    assert [op for op in step.ops if op == "store_kv"] == []
    assert [schedule.share(k, 2).context for k in (0, 1)] == [3 + 2, 3 + 2]


def test_dense_models_stream_their_ffns(lab):
    graph = lab.decode(build(lab, model="opt-6.7b"))
    assert lab.sizes(graph, "load_weights") == [(2 * 4_096 * 16_384 + 16_384 + 4_096)] * 4


MOE = [
    *("mixtral-8x7b", "mixtral-8x22b", "dbrx", "qwen3-30b-a3b", "deepseek-v2-lite"),
    *("switch-base-8", "switch-base-64", "switch-base-128", "switch-base-256", "switch-large-128"),
]


@pytest.mark.parametrize("model", MOE)
def test_every_moe_preset_has_its_place_on_a_roomy_machine(lab, model):
    assert len(lab.decode(build(lab, 5, model=model), step=2)) > 0


def test_limits(lab):
    with pytest.raises(BadInput, match="mu = 2 must equal N = 4"):
        lab.build(MoELens, 4, 2)
    with pytest.raises(BadInput, match=r"has no use for r_w = 0.5; it takes N, mu, pinned"):
        build(lab, r_w=0.5)
