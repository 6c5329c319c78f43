"""Tiny checkpoints with random weights, saved by transformers, and what transformers makes of them.

Weights are large enough that logits differ clearly and greedy tokens do not repeat.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
torch.set_num_threads(1)  # on models this small, more threads only wait for one another

VOCABULARY = 160
GAIN = 8.0  # on the matrices of transformers' initialisation, which have deviation 0.02
ROTARY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 2,
    "initializer_range": 0.02,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 48}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": ROTARY | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": ROTARY
    | EXPERTS
    | {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    | {"shared_expert_intermediate_size": 80},
    "qwen3_moe": ROTARY
    | EXPERTS
    | {"num_hidden_layers": 3, "head_dim": 32, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "olmoe": ROTARY | {"num_experts": 6, "num_experts_per_tok": 3, "clip_qkv": 1.0},
    "dbrx": {
        "vocab_size": VOCABULARY,
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "max_seq_len": 256,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 500_000.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "llama": ROTARY | {"attention_bias": True},
    "mistral": ROTARY | {"head_dim": 24, "sliding_window": None},
    "qwen2": ROTARY | {"tie_word_embeddings": True},
    "qwen3": ROTARY | {"head_dim": 32, "tie_word_embeddings": True},
}

SWITCH: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_heads": 4,
    "num_layers": 4,
    "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 2,
    "num_sparse_decoder_layers": 1,
    "num_experts": 6,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}


def save_switch(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    **changes: Any,
) -> Path:
    """A folder with a tiny Switch Transformer; `changes` are values of its config.

    The decoder's last norm undoes the factor of a tied head, which makes logits small here.
    """
    config = AutoConfig.for_model("switch_transformers", **(SWITCH | changes))
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = _values(name, weight, generator)
            scaled = config.tie_word_embeddings and name == "decoder.final_layer_norm.weight"
            weight.copy_(values * config.d_model**0.5 if scaled else values)
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB" if sharded else "1GB")
    return folder


def switch_reference(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The Switch Transformer as transformers loads it, with its plainest attention."""
    return AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    ).eval()


def save_checkpoint(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    fused: bool = False,
    **changes: Any,
) -> Path:
    """A folder with config and safetensors of a tiny model; `changes` are values of its config.

    `sharded`: several files with an index. `fused`: experts in `gate_up_proj` and `down_proj`.
    """
    config = AutoConfig.for_model(family, **(FAMILIES[family] | changes))
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_values(name, weight, generator))
    model.to(dtype).save_pretrained(
        folder, max_shard_size="100KB" if sharded else "1GB", save_original_format=not fused
    )
    return folder


def _values(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Norms around 1, biases around 0, matrices with deviation 0.02 x GAIN."""
    if weight.dim() > 1:
        return torch.randn(weight.shape, generator=generator) * 0.02 * GAIN
    if "norm" in name:
        return 0.5 + torch.rand(weight.shape, generator=generator)
    return 0.5 * torch.randn(weight.shape, generator=generator)


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The checkpoint as transformers loads it, with its plainest attention and experts."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    ).eval()


@torch.no_grad()
def reference_logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits (t, vocab_size) of every position."""
    return model(torch.tensor([list(ids)]), use_cache=False).logits[0]


def reference_tokens(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], gen_len: int
) -> list[list[int]]:
    """Greedy tokens of each prompt, with all of the sequence computed anew for every token."""
    made = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(gen_len):
            ids.append(int(reference_logits(model, ids)[-1].argmax()))
        made.append(ids[len(prompt) :])
    return made


def random_prompts(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Prompts of these lengths over the vocabulary of the tiny models."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
