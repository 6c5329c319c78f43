"""Models and their layers: hand counts, identities over all models, impossible values."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.errors import BadInput
from schedules.model import MLA, ModelSpec
from schedules.model_layers import has_experts
from schedules.model_presets import load_model, model_names
from schedules.validated import validated

TINY = {
    "name": "tiny",
    "family": "mixtral",
    "dtype": "float16",
    "n_layers": 4,
    "hidden_size": 12,
    "vocab_size": 50,
    "n_heads": 6,
    "n_kv_heads": 2,
    "head_dim": 4,
    "n_experts": 5,
    "top_k": 2,
    "expert_ffn_size": 7,
    "ffn_matrices": 3,
    "tied_embeddings": False,
    "max_context": 64,
    "source": "this test",
}


def tiny(**changes: object) -> ModelSpec:
    return ModelSpec(**(TINY | changes))


def test_a_mixtral_layer_by_hand():
    """h = 4096, 32 query and 8 KV heads of 128, 8 experts of three 4096 x 14336 matrices."""
    layer = load_model("mixtral-8x7b").decoder_layers[5]
    assert (layer.index, layer.stack, layer.is_moe, layer.cross_attention) == (
        5,
        "decoder",
        True,
        False,
    )
    assert layer.attention_parameters == 2 * 4096 * 4096 + 2 * 4096 * 1024 + 4096 == 41_947_136
    assert layer.expert_parameters == 3 * 4096 * 14336 == 176_160_768
    assert layer.router_parameters == 8 * 4096
    assert (layer.shared_parameters, layer.ffn_norm_parameters) == (0, 4096)
    assert layer.expert_pool_parameters == 1_409_286_144
    assert layer.parameters == 41_947_136 + 1_409_286_144 + 32_768 + 4096 == 1_451_270_144
    assert layer.active_parameters == 1_451_270_144 - 6 * 176_160_768
    assert (layer.query_size, layer.qkv_size, layer.kv_size) == (4096, 6144, 2048)
    assert layer.query_heads_per_kv_head == 4
    assert layer.attention_flops_per_pair == layer.prefill_flops_per_pair == 4 * 32 * 128
    assert (layer.n_experts, layer.top_k, layer.ffn_size, layer.ffn_matrices) == (8, 2, 14336, 3)


def test_mixtral_around_its_layers():
    spec = load_model("mixtral-8x7b")
    assert spec.embedding_parameters == spec.head_matrix_parameters == 32000 * 4096
    assert spec.head_parameters == 32000 * 4096 + 4096
    assert (spec.bytes_per_parameter, spec.is_encoder_decoder) == (2, False)
    assert spec.kv_bytes_per_token == 32 * 2048 * 2 == 131_072
    assert len(spec.decoder_layers) == 32
    assert spec.encoder_layers == ()


def test_a_deepseek_layer_by_hand():
    """MLA: 16 heads, latent 512, nope 128, rope 64, v 128; 64 experts and 2 shared of 1408."""
    dense, moe, *_ = load_model("deepseek-v2-lite").decoder_layers
    attention = 2048 * 16 * 192 + 2048 * (512 + 64) + 512 + 512 * 16 * (128 + 128) + 2048 * 2048
    assert dense.attention_parameters == moe.attention_parameters == attention + 2048
    assert (dense.is_moe, moe.is_moe) == (False, True)
    assert (dense.n_experts, dense.top_k, dense.router_parameters, dense.shared_parameters) == (
        1,
        1,
        0,
        0,
    )
    assert (dense.ffn_size, dense.expert_parameters) == (10944, 3 * 2048 * 10944)
    assert moe.shared_parameters == 2 * moe.expert_parameters == 2 * 3 * 2048 * 1408
    assert (moe.kv_size, moe.query_size, moe.qkv_size) == (576, 2048, 16 * 192 + 576)
    assert moe.query_heads_per_kv_head == 16
    assert moe.attention_flops_per_pair == 2 * 16 * (2 * 512 + 64)
    assert moe.prefill_flops_per_pair == 2 * 16 * (128 + 64 + 128)


def test_switch_layers_by_hand():
    """T5: four 768 x 768 matrices and a norm; buckets in layer 0; experts in odd layers."""
    spec = load_model("switch-base-8")
    first, second = spec.encoder_layers[:2]
    own = 4 * 768 * 768 + 768
    assert (first.stack, first.is_moe, second.is_moe) == ("encoder", False, True)
    assert first.attention_parameters == own + 32 * 12
    assert second.attention_parameters == own
    assert spec.decoder_layers[0].attention_parameters == 2 * own + 32 * 12
    assert spec.decoder_layers[1].attention_parameters == 2 * own
    assert all(layer.cross_attention for layer in spec.decoder_layers)
    assert not any(layer.cross_attention for layer in spec.encoder_layers)
    assert second.parameters == own + 8 * 2 * 768 * 3072 + 8 * 768 + 768
    assert first.parameters == own + 32 * 12 + 2 * 768 * 3072 + 768
    assert spec.head_parameters == 2 * 768  # tied: only the last norm of each stack
    assert spec.head_matrix_parameters == spec.embedding_parameters == 32128 * 768
    assert spec.kv_bytes_per_token == 12 * 2 * 768 * 4


def test_an_opt_layer_by_hand():
    spec = load_model("opt-6.7b")
    layer = spec.decoder_layers[0]
    assert layer.attention_parameters == 4 * 4096 * 4096 + 4 * 4096 + 2 * 4096
    assert layer.expert_parameters == 2 * 4096 * 16384 + 16384 + 4096
    assert layer.ffn_norm_parameters == 2 * 4096
    assert spec.embedding_parameters == (50272 + 2050) * 4096
    assert spec.head_parameters == 2 * 4096


@pytest.mark.parametrize(
    ("changes", "experts"),
    [
        ({}, "1111"),
        ({"moe_every": 2}, "0101"),
        ({"moe_every": 2, "moe_offset": 0}, "1010"),
        ({"moe_every": 3, "moe_offset": 1}, "0100"),
        ({"first_dense_layers": 2}, "0011"),
        ({"dense_layers": (0, 3)}, "0110"),
        ({"moe_every": 5}, "0000"),
        ({"n_experts": 1, "top_k": 1}, "0000"),
    ],
)
def test_which_layers_have_experts(changes, experts):
    spec = tiny(dense_ffn_size=9, **changes)
    assert "".join(str(int(layer.is_moe)) for layer in spec.decoder_layers) == experts
    widths = {"1": 7, "0": 7 if spec.n_experts == 1 else 9}
    assert [layer.ffn_size for layer in spec.decoder_layers] == [widths[e] for e in experts]


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"attention_bias": "qkv"}, 4 * (24 + 8 + 8)),
        ({"attention_bias": "all"}, 4 * (24 + 8 + 8 + 12)),
        ({"qk_norm": "head"}, 4 * 2 * 4),
        ({"qk_norm": "all"}, 4 * (24 + 8)),
        ({"norm_bias": True}, 9 * 12),
        ({"router_bias": True}, 4 * 5),
        ({"ffn_bias": True}, 4 * 5 * (7 + 7 + 12)),
        ({"ffn_matrices": 2}, -4 * 5 * 12 * 7),
        ({"tied_embeddings": True}, -50 * 12),
        ({"learned_positions": 66}, 66 * 12),
        ({"relative_attention_buckets": 8}, 8 * 6),
        ({"n_shared_experts": 2, "shared_ffn_size": 3}, 4 * 2 * 3 * 12 * 3),
        (
            {"n_shared_experts": 1, "shared_ffn_size": 3, "shared_expert_gate": True},
            4 * (3 * 12 * 3 + 12),
        ),
        ({"first_dense_layers": 1, "dense_ffn_size": 9}, 3 * 12 * 9 - 5 * (3 * 12 * 7 + 12)),
        ({"dtype": "float32"}, 0),
    ],
)
def test_what_each_flag_adds(changes, more):
    assert tiny(**changes).parameters == tiny().parameters + more


def test_with_layers_keeps_the_layers_it_keeps():
    whole = load_model("switch-base-8")
    cut = whole.with_layers(3)
    assert (cut.n_layers, cut.n_encoder_layers, cut.name) == (3, 3, "switch-base-8-3l")
    assert cut.decoder_layers == whole.decoder_layers[:3]
    nine_more_before = [replace(layer, number=layer.number + 9) for layer in cut.encoder_layers]
    assert tuple(nine_more_before) == whole.encoder_layers[:3]
    assert cut.published_parameters is None
    assert "from 12 to 3" in cut.source
    assert whole.with_layers(12) == whole
    longer = whole.with_layers(20)
    assert (longer.n_layers, longer.n_encoder_layers) == (20, 12)


@pytest.mark.parametrize("n", [0, -1, 10_001, 2.5, True, "3"])
def test_with_layers_refuses(n):
    with pytest.raises(BadInput, match=r"tiny: .* layers; it must be 1 to 10000"):
        tiny().with_layers(n)


@pytest.mark.parametrize("name", model_names())
def test_a_copy_with_other_values_has_its_own_layers(name):
    """Layers are cached by value, so a changed copy must not see those of the original."""
    spec = load_model(name)
    before = spec.decoder_layers
    copy = spec.model_copy(update={"n_layers": 2})
    assert len(copy.decoder_layers) == 2
    assert spec.decoder_layers is before


def test_a_model_is_a_value():
    assert tiny() == tiny()
    assert hash(tiny()) == hash(tiny())
    with pytest.raises(ValidationError, match="frozen"):
        tiny().n_layers = 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_layers": 0}, "n_layers is 0; it should be greater than or equal to 1"),
        ({"hidden_size": -12}, "hidden_size is -12; it should be greater than or equal to 1"),
        ({"hidden_size": 12.0}, "hidden_size is 12.0; it should be a valid integer"),
        ({"hidden_size": float("nan")}, "hidden_size is nan; it should be a"),
        ({"vocab_size": "50"}, "vocab_size is '50'; it should be a valid integer"),
        ({"n_heads": True}, "n_heads is True; it should be a valid integer"),
        ({"ffn_matrices": 4}, "ffn_matrices is 4; it should be 2 or 3"),
        ({"dtype": "int8"}, "dtype is 'int8'; it should be 'float16', 'bfloat16' or 'float32'"),
        ({"n_heads": 5}, "n_heads is 5; it must be a multiple of n_kv_heads, 2"),
        ({"top_k": 6}, "top_k is 6; it must be at most n_experts, 5"),
        ({"moe_every": 2, "moe_offset": 2}, "moe_offset is 2; it must be less than moe_every, 2"),
        (
            {"first_dense_layers": 1},
            "dense_ffn_size is 0; layer 0 has no experts, so it must be at least 1",
        ),
        (
            {"n_shared_experts": 2},
            "n_shared_experts is 2 and shared_ffn_size 0; both must be 0 or both at least 1",
        ),
        ({"shared_expert_gate": True}, "shared_expert_gate is true; without shared experts"),
        (
            {"learned_positions": 63},
            "learned_positions is 63; it must be 0 or at least max_context, 64",
        ),
        ({"n_expert": 5}, "unknown key 'n_expert', did you mean 'n_experts'"),
    ],
)
def test_impossible_values(changes, expected):
    with pytest.raises(BadInput) as caught:
        validated(ModelSpec, TINY | changes, "tiny.toml")
    assert str(caught.value).startswith(f"tiny.toml: {expected}")


def test_a_missing_value():
    values = {key: value for key, value in TINY.items() if key != "vocab_size"}
    with pytest.raises(BadInput, match=r"^tiny\.toml: vocab_size is missing$"):
        validated(ModelSpec, values, "tiny.toml")


def test_impossible_latent_attention():
    mla = MLA(kv_lora_rank=8, qk_nope_head_dim=3, qk_rope_head_dim=2, v_head_dim=4)
    right = {"mla": mla, "n_kv_heads": 6, "head_dim": 5}
    assert tiny(**right).decoder_layers[0].kv_size == 10
    with pytest.raises(ValidationError, match=r"head_dim is 4; with this mla it must be 5"):
        tiny(**right | {"head_dim": 4})
    with pytest.raises(ValidationError, match="n_kv_heads is 2; with mla it must be n_heads, 6"):
        tiny(**right | {"n_kv_heads": 2})


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    size = st.integers(1, 40)
    kv_heads = draw(st.integers(1, 4))
    every, shared = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    n_experts = draw(st.integers(1, 6))
    return tiny(
        dtype=draw(st.sampled_from(["float16", "bfloat16", "float32"])),
        n_layers=draw(st.integers(1, 6)),
        n_encoder_layers=draw(st.integers(0, 3)),
        hidden_size=draw(size),
        vocab_size=draw(size),
        n_heads=kv_heads * draw(st.integers(1, 3)),
        n_kv_heads=kv_heads,
        head_dim=draw(size),
        attention_bias=draw(st.sampled_from(["none", "qkv", "all"])),
        qk_norm=draw(st.sampled_from(["none", "head", "all"])),
        relative_attention_buckets=draw(st.integers(0, 4)),
        norm_bias=draw(st.booleans()),
        n_experts=n_experts,
        top_k=draw(st.integers(1, n_experts)),
        expert_ffn_size=draw(size),
        ffn_matrices=draw(st.sampled_from([2, 3])),
        ffn_bias=draw(st.booleans()),
        router_bias=draw(st.booleans()),
        n_shared_experts=shared,
        shared_ffn_size=5 if shared else 0,
        dense_ffn_size=draw(size),
        first_dense_layers=draw(st.integers(0, 2)),
        moe_every=every,
        moe_offset=draw(st.none() | st.integers(0, every - 1)),
        tied_embeddings=draw(st.booleans()),
    )


@given(models())
def test_parameters_are_layers_embeddings_and_head(spec):
    layers = spec.encoder_layers + spec.decoder_layers
    around = spec.embedding_parameters + spec.head_parameters
    assert spec.parameters == sum(layer.parameters for layer in layers) + around
    idle = sum((la.n_experts - la.top_k) * la.expert_parameters for la in layers)
    assert spec.active_parameters == spec.parameters - idle


@given(models())
def test_one_more_expert_adds_its_weights_and_its_row_of_the_gate(spec):
    if spec.n_experts == 1:
        return
    more = tiny(**dict(spec) | {"n_experts": spec.n_experts + 1})
    layers = [*spec.encoder_layers, *spec.decoder_layers]
    moe = [layer for layer in layers if layer.is_moe]
    row = spec.hidden_size + spec.router_bias
    assert more.parameters - spec.parameters == sum(la.expert_parameters + row for la in moe)
    assert more.active_parameters - spec.active_parameters == len(moe) * row


@given(models())
def test_layers_are_where_the_model_says(spec):
    assert len(spec.decoder_layers) == spec.n_layers
    assert len(spec.encoder_layers) == spec.n_encoder_layers
    for index, layer in enumerate(spec.decoder_layers):
        assert (layer.index, layer.is_moe) == (index, has_experts(spec, index))
        assert layer.cross_attention == spec.is_encoder_decoder
        assert layer.qkv_size == layer.query_size + layer.kv_size
    kv = spec.n_layers * 2 * spec.n_kv_heads * spec.head_dim
    assert spec.kv_bytes_per_token == kv * spec.bytes_per_parameter
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
