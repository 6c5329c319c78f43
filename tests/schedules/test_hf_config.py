"""Hugging Face configs: every family against transformers, files and folders."""

import json
from pathlib import Path

import pytest

from schedules.hf_config import from_hf_config
from schedules.hf_families import FAMILIES
from schedules.model import ModelSpec
from schedules.model_presets import load_model

ROTARY = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "mixtral": ROTARY | {"intermediate_size": 20, "num_local_experts": 4, "num_experts_per_tok": 2},
    "dbrx": {
        "d_model": 48,
        "n_heads": 6,
        "n_layers": 3,
        "max_seq_len": 64,
        "vocab_size": 100,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "qwen3_moe": ROTARY
    | {
        "head_dim": 10,
        "attention_bias": True,
        "intermediate_size": 30,
        "moe_intermediate_size": 10,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
    },
    "qwen2_moe": ROTARY
    | {
        "intermediate_size": 30,
        "moe_intermediate_size": 10,
        "shared_expert_intermediate_size": 25,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "decoder_sparse_step": 2,
    },
    "olmoe": ROTARY
    | {
        "num_key_value_heads": None,
        "intermediate_size": 20,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "deepseek_v2": ROTARY
    | {
        "num_key_value_heads": 6,
        "attention_bias": True,
        "intermediate_size": 30,
        "moe_intermediate_size": 10,
        "n_routed_experts": 5,
        "num_experts_per_tok": 3,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 12,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
    },
    "opt": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "ffn_dim": 20,
        "vocab_size": 100,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 48,
    },
    "llama": ROTARY | {"intermediate_size": 20, "attention_bias": True, "mlp_bias": True},
    "mistral": ROTARY | {"intermediate_size": 20, "head_dim": 10, "tie_word_embeddings": True},
    "qwen2": ROTARY | {"intermediate_size": 20},
    "qwen3": ROTARY | {"intermediate_size": 20},
    "switch_transformers": {
        "d_model": 48,
        "d_kv": 4,
        "d_ff": 20,
        "num_heads": 6,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "num_sparse_encoder_layers": 2,
        "num_sparse_decoder_layers": 2,
        "num_experts": 4,
        "vocab_size": 100,
        "router_bias": True,
    },
}
# What transformers 5.23.0 builds from these configs: AutoModelFor....from_config on the device
# `meta`, tied weights counted once.
TRANSFORMERS_COUNTS = {
    "mixtral": 63_504,
    "dbrx": 63_504,
    "qwen3_moe": 52_680,
    "qwen2_moe": 48_336,
    "olmoe": 73_008,
    "deepseek_v2": 46_692,
    "opt": 42_828,
    "llama": 37_656,
    "mistral": 36_816,
    "qwen2": 37_248,
    "qwen3": 314_256,
    "switch_transformers": 136_528,
}


def config(family: str, **changes: object) -> dict[str, object]:
    return CONFIGS[family] | {"model_type": family} | changes


def test_every_family_is_covered_here():
    assert list(CONFIGS) == list(TRANSFORMERS_COUNTS)
    assert sorted(CONFIGS) == sorted(FAMILIES)


@pytest.mark.parametrize("family", CONFIGS)
def test_parameters_are_those_that_transformers_builds(family):
    spec = from_hf_config(config(family))
    assert spec.family == family
    assert spec.parameters == TRANSFORMERS_COUNTS[family]
    assert spec.published_parameters is None


@pytest.mark.parametrize("family", CONFIGS)
def test_a_file_its_folder_and_its_values_give_the_same_model(family, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config(family)), encoding="utf-8")
    from_file = from_hf_config(path)
    assert from_file == from_hf_config(tmp_path) == from_hf_config(str(path)) == load_model(path)
    assert from_file.name == tmp_path.name
    assert str(path) in from_file.source
    same = {"name": family, "source": "-"}
    from_values = ModelSpec.from_hf_config(config(family))
    assert dict(from_values) | same == dict(from_file) | same


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_survives_json(family):
    spec = from_hf_config(config(family))
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.decoder_layers == spec.decoder_layers


def test_the_published_mixtral_config_gives_the_preset():
    published = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": 32000,
    }
    preset = load_model("mixtral-8x7b")
    ours = {key: getattr(preset, key) for key in ("name", "published_parameters", "source")}
    assert dict(from_hf_config(published)) | ours == dict(preset)


def test_a_small_switch_config_places_experts_as_transformers_does():
    """6 layers, 2 of them sparse: step 3, so layers 1 and 4 (index % 3 == 1)."""
    spec = from_hf_config(config("switch_transformers"))
    for stack in (spec.encoder_layers, spec.decoder_layers):
        assert [layer.index for layer in stack if layer.is_moe] == [1, 4]
    every = from_hf_config(
        config("switch_transformers", num_sparse_encoder_layers=6, num_sparse_decoder_layers=6)
    )
    assert all(layer.is_moe for layer in every.decoder_layers)


def test_qwen_layers_without_experts():
    alternating = from_hf_config(config("qwen2_moe"))
    assert [layer.is_moe for layer in alternating.decoder_layers] == [False, True, False]
    listed = from_hf_config(config("qwen3_moe", mlp_only_layers=[1, 7]))
    assert [layer.is_moe for layer in listed.decoder_layers] == [True, False, True]
    assert listed.dense_layers == (1,)
    assert listed.decoder_layers[1].ffn_size == 30


@pytest.mark.parametrize(
    ("family", "changes", "dtype"),
    [
        ("mixtral", {}, "float16"),
        ("mixtral", {"torch_dtype": "bfloat16"}, "bfloat16"),
        ("mixtral", {"dtype": "float32", "torch_dtype": "bfloat16"}, "float32"),
        ("switch_transformers", {}, "float32"),
        ("switch_transformers", {"torch_dtype": "float16"}, "float16"),
    ],
)
def test_the_dtype_is_that_of_the_config(family, changes, dtype):
    assert from_hf_config(config(family, **changes)).dtype == dtype


def test_the_name_is_that_of_the_file_the_folder_or_the_values(tmp_path, monkeypatch):
    folder = tmp_path / "my-moe"
    folder.mkdir()
    for name in ("config.json", "other.json"):
        (folder / name).write_text(json.dumps(config("mixtral")), encoding="utf-8")
    assert from_hf_config(folder).name == "my-moe"
    assert from_hf_config(folder / "other.json").name == "other"
    monkeypatch.chdir(folder)
    assert from_hf_config(Path("config.json")).name == "my-moe"
    assert from_hf_config(config("mixtral", _name_or_path="org/name")).name == "org/name"
    assert from_hf_config(config("mixtral")).name == "mixtral"


def test_the_number_of_qwen3s_experts_under_its_newer_name():
    """transformers 5.23 writes `num_local_experts`; both names give the same model."""
    old = config("qwen3_moe")
    new = {("num_local_experts" if key == "num_experts" else key): old[key] for key in old}
    assert new != old
    assert from_hf_config(new) == from_hf_config(old)
