"""The fields of `ModelSpec` from the config of a Switch Transformer, the one with an encoder."""

from schedules.hf_common import Fields
from schedules.hf_reader import ConfigReader

# Switch Transformers follow T5's pre-training on sequences of at most 512 tokens (T5, arXiv
# 1910.10683, section 3.1.2); relative positions set no limit of their own.
SWITCH_CONTEXT = 512


def switch_transformers(config: ConfigReader) -> Fields:
    """Switch Transformer: T5 with top-1 experts in every n-th layer of both stacks.

    The layers with experts are those with `index % step == 1` (all, if step is 1), where step is
    the number of layers over the number of sparse layers, as in transformers. Without tied
    embeddings the head has a matrix of its own; both stacks share one embedding, as in T5.
    """
    config.must_be("is_gated_act", False)
    encoder = config.layers("num_layers")
    decoder = config.layers("num_decoder_layers", encoder)
    step = _step(config, encoder, decoder)
    heads, width = config.whole("num_heads"), config.whole("d_ff")
    return {
        "n_layers": decoder,
        "n_encoder_layers": encoder,
        "hidden_size": config.whole("d_model"),
        "vocab_size": config.whole("vocab_size"),
        "n_heads": heads,
        "n_kv_heads": heads,
        "head_dim": config.whole("d_kv"),
        "relative_attention_buckets": config.whole("relative_attention_num_buckets", 32),
        "n_experts": config.whole("num_experts", low=2),
        "top_k": 1,
        "expert_ffn_size": width,
        "dense_ffn_size": width if step > 1 else 0,
        "ffn_matrices": 2,
        "router_bias": config.flag("router_bias", False),
        "moe_every": step,
        "moe_offset": 1 if step > 1 else 0,
        "tied_embeddings": config.flag("tie_word_embeddings", True),
        "max_context": config.whole("n_positions", SWITCH_CONTEXT),
    }


def _step(config: ConfigReader, encoder: int, decoder: int) -> int:
    steps = {}
    stacks = (("num_sparse_encoder_layers", encoder), ("num_sparse_decoder_layers", decoder))
    for key, layers in stacks:
        sparse = config.whole(key)
        if sparse > layers:
            raise config.error(key, f"at most the {layers} layers of its stack")
        steps[key] = layers // sparse
    first, second = steps
    if steps[first] != steps[second]:
        raise config.error(second, f"as frequent as {first}, one in {steps[first]} layers")
    return steps[first]
