"""The models of `throughput.py`, their checkpoints and prompts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from systems import Prompts
from transformers import AutoModelForCausalLM, MixtralConfig

from schedules.task import DType


@dataclass(frozen=True)
class Size:
    """A model and what it is asked.

    Parameters
    ----------
    gpu_bytes: the budget. link_bytes_per_s: of a host device.
    """

    hidden: int
    width: int
    heads: int
    kv_heads: int
    layers: int
    vocabulary: int
    prompts: int
    prompt_len: int
    gen_len: int
    gpu_bytes: int
    link_bytes_per_s: float
    dtype: DType = "float32"


SIZES = {
    "tiny": Size(64, 96, 4, 2, 4, 160, 4, 6, 3, 2_200_000, 1e9),
    "mini": Size(256, 640, 8, 2, 6, 1024, 64, 64, 32, 56_000_000, 5e8),
    "small": Size(1024, 3584, 16, 4, 6, 8192, 64, 64, 8, 2_000_000_000, 4e9),
    "large": Size(4096, 14336, 32, 8, 8, 32000, 512, 128, 8, 16 << 30, 25e9, "float16"),
}
"""`large` has layers of Mixtral 8x7B; the others about its ratios. What fits on the GPU beside two
layers is a third to a half of the weights."""


def write_checkpoint(size: Size, folder: Path) -> Path:
    """A Mixtral with random weights, by transformers."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=4096,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    kind = getattr(torch, size.dtype)
    AutoModelForCausalLM.from_config(config, dtype=kind).save_pretrained(folder)
    return folder


def random_prompts(size: Size) -> Prompts:
    """Prompts of one length."""
    generator = torch.Generator().manual_seed(1)
    shape = (size.prompts, size.prompt_len)
    return tuple(map(tuple, torch.randint(size.vocabulary, shape, generator=generator).tolist()))
