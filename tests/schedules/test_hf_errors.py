"""Malformed Hugging Face configs: one sentence with file, key, value and what is right."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.hf_config import from_hf_config
from schedules.model_presets import load_model

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "intermediate_size": 20,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
OPT = {
    "model_type": "opt",
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "ffn_dim": 20,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
DBRX = {
    "model_type": "dbrx",
    "d_model": 48,
    "n_heads": 6,
    "n_layers": 3,
    "max_seq_len": 64,
    "vocab_size": 100,
    "attn_config": {"kv_n_heads": 2},
    "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 4, "moe_top_k": 2},
}
SWITCH = {
    "model_type": "switch_transformers",
    "d_model": 48,
    "d_kv": 4,
    "d_ff": 20,
    "num_heads": 6,
    "num_layers": 6,
    "num_sparse_encoder_layers": 2,
    "num_sparse_decoder_layers": 2,
    "num_experts": 4,
    "vocab_size": 100,
}
DEEPSEEK = MIXTRAL | {
    "model_type": "deepseek_v2",
    "n_routed_experts": 4,
    "moe_intermediate_size": 10,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
}
SIZE = "it must be a whole number from 1 to 100000000"


def message(values: object) -> str:
    with pytest.raises(BadInput) as caught:
        from_hf_config(values)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("key", sorted(MIXTRAL))
def test_every_key_of_mixtral_is_required(key):
    values = {k: v for k, v in MIXTRAL.items() if k != key}
    assert message(values).startswith(f"config: {key} is missing; it must be ")


@pytest.mark.parametrize("value", [0, -4, 1.5, 48.0, math.nan, math.inf, "48", True, [48], 10**9])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "intermediate_size"])
def test_a_size_must_be_a_positive_whole_number(key, value):
    assert message(MIXTRAL | {key: value}) == f"config: {key} is {json.dumps(value)}; {SIZE}"


def test_a_null_size_is_no_size():
    assert message(MIXTRAL | {"vocab_size": None}) == f"config: vocab_size is null; {SIZE}"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            MIXTRAL | {"num_key_value_heads": 4},
            "num_key_value_heads is 4; it must be a divisor of num_attention_heads, which is 6",
        ),
        (
            MIXTRAL | {"hidden_size": 50},
            "num_attention_heads is 6; it must be a divisor of hidden_size, which is 50",
        ),
        (
            MIXTRAL | {"num_experts_per_tok": 5},
            "num_experts_per_tok is 5; it must be at most num_local_experts, which is 4",
        ),
        (
            MIXTRAL | {"num_local_experts": 1},
            "num_local_experts is 1; it must be a whole number from 2 to 100000000",
        ),
        (
            MIXTRAL | {"tie_word_embeddings": "yes"},
            'tie_word_embeddings is "yes"; it must be true or false',
        ),
        (
            MIXTRAL | {"torch_dtype": "int8"},
            'torch_dtype is "int8"; it must be one of float16, bfloat16, float32',
        ),
        (
            MIXTRAL | {"quantization_config": {"bits": 4}},
            "quantization_config is set; give the config of plain weights",
        ),
        (
            MIXTRAL | {"num_hidden_layers": 10_001},
            "num_hidden_layers is 10001; it must be a whole number from 1 to 10000",
        ),
        (
            OPT | {"word_embed_proj_dim": 24},
            "word_embed_proj_dim is 24; it must be 48, the only supported value",
        ),
        (
            OPT | {"do_layer_norm_before": False},
            "do_layer_norm_before is false; it must be true, the only supported value",
        ),
        (
            DBRX | {"attn_config": {"kv_n_heads": 4}},
            "attn_config.kv_n_heads is 4; it must be a divisor of n_heads, which is 6",
        ),
        (
            DBRX | {"attn_config": {}},
            f"attn_config.kv_n_heads is missing; {SIZE}",
        ),
        (
            DBRX | {"ffn_config": [4]},
            "ffn_config is [4]; it must be an object with keys and values",
        ),
        (
            DEEPSEEK,
            f"q_lora_rank is missing; {SIZE}",
        ),
        (
            DEEPSEEK | {"moe_layer_freq": 2},
            "moe_layer_freq is 2; it must be 1, the only supported value",
        ),
        (
            SWITCH | {"num_sparse_decoder_layers": 3},
            "num_sparse_decoder_layers is 3; it must be as frequent as num_sparse_encoder_layers,"
            " one in 3 layers",
        ),
        (
            SWITCH | {"num_sparse_encoder_layers": 7},
            "num_sparse_encoder_layers is 7; it must be at most the 6 layers of its stack",
        ),
        (
            MIXTRAL
            | {
                "model_type": "qwen3_moe",
                "num_experts": 4,
                "moe_intermediate_size": 9,
                "mlp_only_layers": [0, -1],
            },
            "mlp_only_layers is [0, -1]; it must be a list of whole numbers of at least 0",
        ),
    ],
)
def test_contradictions_name_key_value_and_what_is_right(values, expected):
    assert message(values) == f"config: {expected}"


def test_values_that_no_file_can_hold_are_shown_shortened():
    assert message(MIXTRAL | {"vocab_size": {3}}) == f"config: vocab_size is {{3}}; {SIZE}"
    endless = message(MIXTRAL | {"vocab_size": 10**5000})
    assert endless == f"config: vocab_size is a number of thousands of digits; {SIZE}"
    long = message(MIXTRAL | {"vocab_size": "9" * 1000})
    assert long == f'config: vocab_size is "{"9" * 56}...; {SIZE}'


def test_an_unknown_family_lists_or_suggests_known_ones():
    assert message(MIXTRAL | {"model_type": "mixtrall"}).endswith(
        "did you mean 'mixtral' or 'mistral'?"
    )
    assert "known: dbrx, deepseek_v2, llama" in message(MIXTRAL | {"model_type": "zzz"})
    assert message({"model_type": 7}).startswith("config: model_type is 7; it must be one of")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'model_type': 1}", "is not JSON: Expecting property name"),
        ("", "is not JSON: Expecting value"),
        ("[" * 100_000, "is not JSON: "),
        ("[1, 2]", "holds [1, 2]; it must hold an object with keys and values"),
        ("{}", "model_type is missing; it must be one of mixtral, dbrx"),
    ],
)
def test_files_that_are_not_configs(text, expected, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    found = message(path)
    assert found.startswith(str(path))
    assert expected in found


def test_nan_in_a_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MIXTRAL | {"vocab_size": math.nan}), encoding="utf-8")
    assert message(path) == f"{path}: vocab_size is NaN; {SIZE}"


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as UTF-8 text" in message(path)


def test_a_folder_without_a_config(tmp_path):
    assert message(tmp_path) == f"{tmp_path / 'config.json'}: there is no such file"
    with pytest.raises(BadInput, match="there is no such file"):
        load_model(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(
    base=st.sampled_from([MIXTRAL, OPT, DBRX, SWITCH, DEEPSEEK | {"q_lora_rank": None}]),
    data=st.data(),
)
def test_any_json_gives_a_model_or_one_sentence(base, data):
    key = data.draw(st.sampled_from(sorted(base)))
    values = base | {key: data.draw(JSON_VALUES)}
    assert re.fullmatch(r"\d+ parameters|config: .+", parameters_or_message(values))


def parameters_or_message(values: object) -> str:
    try:
        return f"{from_hf_config(values).parameters} parameters"
    except BadInput as error:
        return str(error)
