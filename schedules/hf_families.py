"""The fields of `ModelSpec` from the config of each supported family of Hugging Face models.

Keys, their defaults and what they mean follow the implementations in transformers 5 (`modeling_*`
and `configuration_*` of each family); where an older release had another default, keys are
required. Every function takes the config and returns fields of `ModelSpec`.
"""

from collections.abc import Callable

from schedules.hf_common import Fields, expert_fields, projection_bias, rotary_fields
from schedules.hf_dense import llama, mistral, opt, qwen2, qwen3
from schedules.hf_encoder_decoder import switch_transformers
from schedules.hf_reader import ConfigReader


def mixtral(config: ConfigReader) -> Fields:
    """Mixtral: all layers MoE, the experts as wide as `intermediate_size`."""
    fields = rotary_fields(config)
    return fields | expert_fields(config, "num_local_experts", "intermediate_size")


def dbrx(config: ConfigReader) -> Fields:
    """DBRX: attention and FFN in sections of their own, layer norms without biases."""
    attention, ffn = config.section("attn_config"), config.section("ffn_config")
    hidden, heads = config.whole("d_model"), config.whole("n_heads")
    config.divides("n_heads", "d_model", heads, hidden)
    kv_heads = attention.whole("kv_n_heads")
    attention.divides("kv_n_heads", "n_heads", kv_heads, heads)
    config.must_be("tie_word_embeddings", False)
    return {
        "n_layers": config.layers("n_layers"),
        "hidden_size": hidden,
        "vocab_size": config.whole("vocab_size"),
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "head_dim": hidden // heads,
        "norm": "layernorm",
        "tied_embeddings": False,
        "max_context": config.whole("max_seq_len"),
    } | expert_fields(ffn, "moe_num_experts", "ffn_hidden_size", "moe_top_k")


def qwen3_moe(config: ConfigReader) -> Fields:
    """Qwen3 MoE: a norm on each query and key head."""
    return _qwen_moe(config) | {"attention_bias": projection_bias(config), "qk_norm": "head"}


def qwen2_moe(config: ConfigReader) -> Fields:
    """Qwen2 MoE: biases of query, key and value, and one gated shared expert."""
    return _qwen_moe(config) | {
        "attention_bias": "qkv" if config.flag("qkv_bias", True) else "none",
        "n_shared_experts": 1,
        "shared_ffn_size": config.whole("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
    }


def olmoe(config: ConfigReader) -> Fields:
    """OLMoE: a norm over all query heads and one over all key heads."""
    fields = rotary_fields(config, kv_heads_required=False)
    fields |= expert_fields(config, "num_experts", "intermediate_size")
    return fields | {"attention_bias": projection_bias(config), "qk_norm": "all"}


def deepseek_v2(config: ConfigReader) -> Fields:
    """DeepSeek-V2: latent attention, shared experts, dense layers at the start."""
    for key, wanted in (("moe_layer_freq", 1), ("mlp_bias", False)):
        config.must_be(key, wanted)
    mla = {
        key: config.whole(key)
        for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    }
    heads, first = config.whole("num_attention_heads"), config.whole("first_k_dense_replace", low=0)
    shared = config.whole("n_shared_experts", 0, low=0)
    return {
        "n_layers": config.layers("num_hidden_layers"),
        "hidden_size": config.whole("hidden_size"),
        "vocab_size": config.whole("vocab_size"),
        "n_heads": heads,
        "n_kv_heads": heads,
        "head_dim": mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"],
        "mla": mla | {"q_lora_rank": _query_rank(config)},
        "attention_bias": projection_bias(config),
        "n_shared_experts": shared,
        "shared_ffn_size": config.whole("moe_intermediate_size") if shared else 0,
        "dense_ffn_size": config.whole("intermediate_size") if first else 0,
        "first_dense_layers": first,
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        "max_context": config.whole("max_position_embeddings"),
    } | expert_fields(config, "n_routed_experts", "moe_intermediate_size")


def _qwen_moe(config: ConfigReader) -> Fields:
    """Every `decoder_sparse_step`-th layer has experts, save those in `mlp_only_layers`."""
    renamed = "num_experts" not in config.values and "num_local_experts" in config.values
    count = "num_local_experts" if renamed else "num_experts"  # transformers 5.23 writes the former
    fields = rotary_fields(config) | expert_fields(config, count, "moe_intermediate_size")
    every, n_layers = config.whole("decoder_sparse_step", 1), fields["n_layers"]
    dense = tuple(sorted({i for i in config.wholes("mlp_only_layers") if i < n_layers}))
    some_dense = every > 1 or bool(dense)
    return fields | {
        "dense_layers": dense,
        "moe_every": every,
        "dense_ffn_size": config.whole("intermediate_size") if some_dense else 0,
    }


def _query_rank(config: ConfigReader) -> int | None:
    """Null for a query projection of full rank; the key itself is required."""
    if "q_lora_rank" in config.values and config.values["q_lora_rank"] is None:
        return None
    return config.whole("q_lora_rank")


FAMILIES: dict[str, Callable[[ConfigReader], Fields]] = {
    "mixtral": mixtral,
    "dbrx": dbrx,
    "qwen3_moe": qwen3_moe,
    "qwen2_moe": qwen2_moe,
    "olmoe": olmoe,
    "deepseek_v2": deepseek_v2,
    "opt": opt,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "switch_transformers": switch_transformers,
}
