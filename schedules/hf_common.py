"""What the configs of several Hugging Face families have in common."""

from typing import Any

from schedules.hf_reader import REQUIRED, ConfigReader

Fields = dict[str, Any]


def rotary_fields(
    config: ConfigReader, kv_heads_required: bool = True, head_dim: int | None = None
) -> Fields:
    """Fields that decoders with rotary positions and grouped heads have in common."""
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    named = "num_key_value_heads" in config.values  # null stands for as many as query heads
    kv_default = REQUIRED if kv_heads_required and not named else heads
    kv_heads = config.whole("num_key_value_heads", kv_default)
    config.divides("num_key_value_heads", "num_attention_heads", kv_heads, heads)
    if config.values.get("head_dim") is None and head_dim is None:
        config.divides("num_attention_heads", "hidden_size", heads, hidden)
    return {
        "n_layers": config.layers("num_hidden_layers"),
        "hidden_size": hidden,
        "vocab_size": config.whole("vocab_size"),
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "head_dim": config.whole("head_dim", head_dim or hidden // heads),
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        "max_context": config.whole("max_position_embeddings"),
    }


def expert_fields(
    config: ConfigReader, n_experts: str, width: str, top_k: str = "num_experts_per_tok"
) -> Fields:
    """Number, width and choice of experts, under the keys that the family gives them."""
    experts, chosen = config.whole(n_experts, low=2), config.whole(top_k)
    if chosen > experts:
        raise config.error(top_k, f"at most {n_experts}, which is {experts}")
    return {
        "n_experts": experts,
        "top_k": chosen,
        "expert_ffn_size": config.whole(width),
        "ffn_matrices": 3,
    }


def projection_bias(config: ConfigReader) -> str:
    """`all` where `attention_bias` is true: query, key, value and output have biases."""
    return "all" if config.flag("attention_bias", False) else "none"
