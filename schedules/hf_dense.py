"""The fields of `ModelSpec` from the configs of dense Hugging Face families."""

from schedules.hf_common import Fields, projection_bias, rotary_fields
from schedules.hf_reader import ConfigReader

_OPT_ONLY = (
    ("do_layer_norm_before", True),
    ("_remove_final_layer_norm", False),
    ("layer_norm_elementwise_affine", True),
)


def opt(config: ConfigReader) -> Fields:
    """OPT: dense, two matrices, biases, learned positions (two rows are reserved for padding)."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    config.divides("num_attention_heads", "hidden_size", heads, hidden)
    config.must_be("word_embed_proj_dim", hidden)
    for key, wanted in _OPT_ONLY:
        config.must_be(key, wanted)
    bias, context = config.flag("enable_bias", True), config.whole("max_position_embeddings")
    return {
        "n_layers": config.layers("num_hidden_layers"),
        "hidden_size": hidden,
        "vocab_size": config.whole("vocab_size"),
        "n_heads": heads,
        "n_kv_heads": heads,
        "head_dim": hidden // heads,
        "attention_bias": "all" if bias else "none",
        "norm": "layernorm",
        "norm_bias": True,
        "expert_ffn_size": config.whole("ffn_dim"),
        "ffn_matrices": 2,
        "ffn_bias": bias,
        "tied_embeddings": config.flag("tie_word_embeddings", True),
        "learned_positions": context + 2,
        "max_context": context,
    }


def llama(config: ConfigReader) -> Fields:
    """Llama: dense, SwiGLU."""
    fields = _dense(config, kv_heads_required=False)
    return fields | {
        "attention_bias": projection_bias(config),
        "ffn_bias": config.flag("mlp_bias", False),
    }


def mistral(config: ConfigReader) -> Fields:
    """Mistral: as Llama, without biases."""
    return _dense(config)


def qwen2(config: ConfigReader) -> Fields:
    """Qwen2: as Llama, with biases of query, key and value."""
    return _dense(config) | {"attention_bias": "qkv"}


def qwen3(config: ConfigReader) -> Fields:
    """Qwen3: as Llama, with a norm on each query and key head, which is 128 wide by default."""
    return _dense(config, head_dim=128) | {
        "attention_bias": projection_bias(config),
        "qk_norm": "head",
    }


def _dense(
    config: ConfigReader, kv_heads_required: bool = True, head_dim: int | None = None
) -> Fields:
    return rotary_fields(config, kv_heads_required, head_dim) | {
        "expert_ffn_size": config.whole("intermediate_size"),
        "ffn_matrices": 3,
    }
