"""MoE-Gen: attention in micro-batches, each expert once over the tokens of all; by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert import MoEGen
from schedules.hf_config import from_hf_config
from schedules.model_presets import load_model
from sim import simulate

THREE = {  # experts, of which each token takes one
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
    "k": "load_kv",
    "a": "compute_attention",
    "s": "store_kv",
    "g": "gate",
    "x": "load_expert",
    "e": "expert",
    "m": "combine",
}
ON_CPU = {
    "q": "pre_attention",
    "o": "offload_qkv",
    "t": "cpu_attention",
    "l": "load_attended",
    "u": "out_projection",
    "b": "store_hidden",
    "h": "load_hidden",
    "g": "gate",
    "x": "load_expert",
    "e": "expert",
    "m": "combine",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"k": 1, "a": 3, "s": 1, "g": 1, "x": 3, "e": 1, "m": 1}
ON_CPU_SECONDS = dict.fromkeys("qolubhgem", 1) | {"t": 4, "x": 3}
EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


def build(lab, n=2, mu=1, model=None, prompts=(3,), **policy):
    """With attention and hidden states on the GPU, unless said otherwise: little moves then."""
    policy = {"A_g": 1, "r_h": 1.0, "pinned": True} | policy
    model = model or from_hf_config(THREE)
    return lab.build(MoEGen, n, mu, model=model, prompts=prompts, **policy)


# -- order and time --------------------------------------------------------------------------------


def test_issue_order(lab):
    """The caches of two micro-batches ahead; an expert's copy after each; then one by one, the
    third when the first has been computed."""
    decode = """
        k0a k0b
        a0a s0a k1a x0  a0b s0b k1b x0  g0a g0b  e0 x0 e0 e0  m0a m0b
        a1a s1a     x1  a1b s1b     x1  g1a g1b  e1 x1 e1 e1  m1a m1b
    """
    lab.check_order(lab.decode(build(lab)), OPS, decode)
    prefill = """
        a0a s0a x0  a0b s0b x0  g0a g0b  e0 x0 e0 e0  m0a m0b
        a1a s1a x1  a1b s1b x1  g1a g1b  e1 x1 e1 e1  m1a m1b
    """
    lab.check_order(lab.prefill(build(lab)), PREFILL, prefill)


def test_decode_step(lab):
    """Expert 2 takes the place of 0 when that has been computed, at 10; the link waits for it.

    Layer 1's first two come during its attention, the third in the place of the first, at 25.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | k0a k0b k1a x0  --- --- k1b x0  --- --- x0  --- --- x1  --- --- x1  --- --- ...
        gpu | ... a0a --- --- a0b --- --- g0a g0b e0  e0  ... ... e0  m0a m0b a1a --- --- a1b
        d2h | ... ... ... ... s0a ... ... s0b ... ... ... ... ... ... ... ... ... ... ... s1a

        s   | 20  21  22  23  24  25  26  27  28  29  30
        h2d | ... ... ... ... ... x1  --- --- ... ... ...
        gpu | --- --- g1a g1b e1  e1  ... ... e1  m1a m1b
        d2h | ... ... s1b ... ... ... ... ... ... ... ...
    """
    lab.check(lab.decode(build(lab)), OPS, SECONDS, picture)


def test_decode_step_with_attention_on_the_cpu(lab):
    """The CPU attends for one micro-batch after the other; tokens wait in host memory (b, h).

    An expert travels meanwhile, the next one between the attention's results.
    """
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19  20
        h2d | x0  --- --- ... ... ... l0a x0  --- --- l0b h0a ... h0b ... ... x0  --- --- ... ...
        gpu | q0a q0b ... ... ... ... ... u0a ... ... ... u0b g0a ... g0b e0  e0  ... ... e0  m0a
        d2h | ... o0a o0b ... ... ... ... ... b0a ... ... ... b0b ... ... ... ... ... ... ... ...
        cpu | ... ... t0a --- --- --- t0b --- --- --- ... ... ... ... ... ... ... ... ... ... ...

        s   | 21  22  23  24  25  26  27  28  29  30  31  32  33  34  35  36  37  38  39  40  41
        h2d | ... h1a h1b x1  --- --- ... ... l1a x1  --- --- l1b h1a ... h1b ... ... x1  --- ---
        gpu | m0b ... q1a q1b ... ... ... ... ... u1a ... ... ... u1b g1a ... g1b e1  e1  ... ...
        d2h | b0a b0b ... o1a o1b ... ... ... ... ... b1a ... ... ... b1b ... ... ... ... ... ...
        cpu | ... ... ... ... t1a --- --- --- t1b --- --- --- ... ... ... ... ... ... ... ... ...

        s   | 42  43  44
        h2d | ... ... ...
        gpu | e1  m1a m1b
        d2h | ... ... ...
        cpu | ... ... ...
    """
    graph = lab.decode(build(lab, A_g=0, r_h=0.0))
    lab.check(graph, ON_CPU, ON_CPU_SECONDS, picture)


def test_prefill(lab):
    """The prompts' keys and values leave as soon as they are made."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        h2d | x0  --- --- x0  --- --- ... ... ... x0  --- --- x1  --- --- x1  --- --- ... ...
        gpu | a0a --- --- a0b --- --- g0a g0b e0  e0  ... ... e0  m0a m0b a1a --- --- a1b ---
        d2h | ... ... ... s0a ... ... s0b ... ... ... ... ... ... ... ... ... ... ... s1a ...

        s   | 20  21  22  23  24  25  26  27  28  29
        h2d | ... ... ... ... x1  --- --- ... ... ...
        gpu | --- g1a g1b e1  e1  ... ... e1  m1a m1b
        d2h | ... s1b ... ... ... ... ... ... ... ...
    """
    lab.check(lab.prefill(build(lab)), PREFILL, SECONDS, picture)


def test_more_places_let_more_experts_come_ahead(lab):
    """With three places all of layer 1's experts come during its attention, the third from 19."""
    bars, _ = lab.simulate(lab.decode(build(lab, expert_slots=3)), OPS, SECONDS)
    assert [bar[1] for bar in bars if bar[3] == "x1"] == [13, 16, 19]
    assert [bar[1] for bar in bars if bar[3] == "e1"] == [24, 25, 26]


# -- amounts ---------------------------------------------------------------------------------------


def test_an_expert_runs_once_for_all_micro_batches(lab):
    """Of 12 sequences 4 take it, on average: 4 x 2 x 3 x 64 x 96 flops, in two calls, as the
    workspace has room for 3 tokens. It is missed by all with probability (2/3)^12."""
    graph = lab.decode(build(lab, 12, 3, prompts=(1,), layers=1))
    tasks = zip(graph.op, graph.work, strict=True)
    experts = [graph.works[work] for op, work in tasks if graph.ops[op] == "expert"]
    assert len(experts) == 3
    touched = 1 - (2 / 3) ** 12
    for work in experts:
        assert work.flops == {"gemm": pytest.approx(4 * 2 * 3 * 64 * 96)}
        moved = 2 * touched * 3 * 64 * 96 + 4 * (2 * 64 + 3 * 96)
        assert work.bytes["gpu"] == pytest.approx(moved * 4)
        assert work.calls == 2 * 6


def test_steps_are_alike(lab):
    schedule = build(lab, 5, 2)
    first = lab.decode(schedule)
    schedule.run_decode_step(2)
    assert schedule.node.issuer.take().same_structure(first)


@pytest.mark.parametrize("r_h", [0.0, 0.25])
def test_tokens_go_to_host_memory_twice_a_layer(lab, r_h):
    """After the attention and after the experts; but not after the last ones. 64 x 4 B a token."""
    graph = lab.decode(build(lab, r_h=r_h, layers=2))
    for op in ("store_hidden", "load_hidden"):
        assert lab.sizes(graph, op) == [64 * 4 * (1 - r_h)] * (2 * 3)


def test_all_experts_are_copied_chosen_or_not(lab):
    graph = lab.decode(build(lab))
    assert lab.sizes(graph, "load_expert") == [3 * 64 * 96 * 4] * 6
    one = build(lab, 1, model=load_model("mixtral-8x7b"), layers=1)
    assert lab.sizes(lab.decode(one), "load_expert") == [EXPERT] * 8


RESIDENT = 2 * 2 * (41_943_040 + 32_768 + 2 * 4_096) + 2 * (2 * 131_072_000 + 4_096)


def test_memory_peaks(lab):
    """Two layers, two micro-batches of two prompts of 100 tokens, 8 to come; 8192 B a token.

    Workspace of 200 tokens (see on-demand's test); hidden states and experts' outputs of 400; ids
    (8 B) and weights (2 B) of two choices; three fetched blocks of 2 x 108 tokens of 4096 B a
    layer, two of new keys and values of 200; two experts. Host: experts, cache, hidden states.
    """
    model = load_model("mixtral-8x7b")
    schedule = lab.build(MoEGen, 4, 2, model=model, prompts=(100,), gen_len=8, A_g=1, pinned=True)
    peaks = schedule.node.issuer.peak_bytes
    workspace = 200 * (3 * 14_336 + 4_096) * 2 + 2 * 200 * 8_192
    pool = 2 * 400 * 8_192 + 400 * 2 * (8 + 2)
    kv = 3 * 216 * 4_096 + 2 * 200 * 4_096
    assert peaks["gpu"] == RESIDENT + workspace + pool + kv + 2 * EXPERT
    cache = 2 * 4 * 108 * 4_096
    assert peaks["cpu"] == peaks["pinned"] == 16 * EXPERT + cache + 400 * 8_192


def test_attention_on_the_cpu_needs_no_blocks_on_the_gpu(lab):
    """The cache is not page-locked then; queries, keys and values are (64 + 2 x 32) x 4 B."""
    gpu, cpu = (build(lab, A_g=a, pinned=True).node.issuer.peak_bytes for a in (1, 0))
    block = 11 * 2 * 32 * 4  # of 3 + 8 tokens
    assert gpu["gpu"] - cpu["gpu"] == 3 * block - 2 * (128 + 64) * 4
    assert gpu["pinned"] - cpu["pinned"] == 2 * 2 * block - 2 * (128 + 64) * 4


# -- against hand calculations ---------------------------------------------------------------------


def test_mixtral_on_a_t4_is_bound_by_the_copies_of_its_experts():
    """Decode: 32 layers x 8 experts x 352.3 MB at 12.35 GB/s take 7.303 s."""
    result = simulate("moe-gen", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 4, 4)
    by_hand = 32 * 8 * EXPERT / 12.35e9
    assert by_hand == pytest.approx(7.303, rel=1e-3)
    assert result.decode_s / 7 == pytest.approx(by_hand, rel=0.1)


def test_switch_base_128_on_an_a100_is_bound_by_them_too():
    """Six decoder layers x 128 experts x 2 x 768 x 3072 x 4 B."""
    result = simulate("moe-gen", "switch-base-128", "a100-80g-epyc64", "mtbench", 8, 4, 4)
    rate = result.scenario.hardware.links["h2d"].sustained
    by_hand = 6 * 128 * 2 * 768 * 3_072 * 4 / rate
    assert result.decode_s / 8 == pytest.approx(by_hand, rel=0.1)


# -- other models ----------------------------------------------------------------------------------


def test_an_encoder_s_experts_come_in_order_too(lab):
    """Switch-Base-8: layers 0 are dense; the experts of layers 1 begin to come during layer 0.

    The keys of all cross-attentions follow from the encoder, so they are stored after it.
    """
    schedule = lab.build(MoEGen, 1, model="switch-base-8", prompts=(3,), A_g=1, r_h=1, pinned=True)
    graph = lab.prefill(schedule)
    order = [name for name in lab.order(graph, PREFILL | {"f": "compute_ffn"}) if name[0] != "e"]
    assert order == ["a0a", "x1", "x1", "f0a", "a1a", "g1a", *["x1"] * 6, "m1a", "s1a"]
    (stored,) = lab.sizes(graph, "store_kv")
    assert stored == 2 * 3 * 2 * 768 * 4  # both decoder layers


def test_without_experts_it_is_attention_alone(lab):
    schedule = lab.build(MoEGen, 2, model="opt-6.7b", A_g=1, r_h=1, pinned=True)
    order = "k0a k0b a0a s0a k1a a0b s0b k1b f0a f0b a1a s1a a1b s1b f1a f1b"
    lab.check_order(lab.decode(schedule), OPS | {"f": "compute_ffn"}, order)


MOE = [
    *("mixtral-8x7b", "mixtral-8x22b", "dbrx", "qwen3-30b-a3b", "deepseek-v2-lite"),
    *("switch-base-8", "switch-base-64", "switch-base-128", "switch-base-256", "switch-large-128"),
]


@pytest.mark.parametrize("model", MOE)
@pytest.mark.parametrize("attention_on_gpu", [0, 1])
def test_every_moe_preset_has_its_place_on_a_roomy_machine(lab, model, attention_on_gpu):
    schedule = lab.build(MoEGen, 3, 2, model=model, layers=2, A_g=attention_on_gpu)
    assert len(lab.decode(schedule, step=2)) > 0


def test_limits(lab):
    with pytest.raises(BadInput, match=r"has no use for r_c = 0.5; it takes N, mu, A_g, expert_sl"):
        build(lab, r_c=0.5)
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        build(lab, gpus=2)
