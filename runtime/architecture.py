"""What the functions of the runtime must know of a model: its sizes and how its family computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from runtime.architecture_families import (
    Traits,
    check_supported,
    traits_of_family,
    traits_of_folder,
)
from runtime.architecture_switch import EncoderDecoder
from runtime.rope import Rope
from schedules.errors import BadInput
from schedules.layout import down_is_transposed
from schedules.model import ModelSpec
from schedules.task import DType
from schedules.validated import validated

__all__ = ["Architecture", "EncoderDecoder", "Rope"]


@dataclass(frozen=True)
class Architecture:
    """A model as one of `world` tensor-parallel ranks computes it.

    Sizes that are split over the ranks (heads, widths of FFNs, rows of the head) are this rank's;
    `spec` is always the whole model.

    Parameters
    ----------
    spec: sizes of the whole model; `spec.dtype` is that of weights, activations and KV cache.
    norm_eps: added to the variance in every norm.
    rope: angular frequencies of the rotary embedding.
    clip_qkv: queries, keys and values are clamped to [-clip_qkv, clip_qkv]; None: they are not.
    gate_norm: p of the p-norm by which the chosen experts' gates are divided; None: they are not.
    eos_token_ids: tokens that end a sequence.
    sliding_window: tokens that attention reaches back, None where it reaches all.
    encoder_decoder: what a model with an encoder has beside; None: it is decoder-only.
    rank, world: which of how many tensor-parallel ranks.
    """

    spec: ModelSpec
    norm_eps: float
    rope: Rope
    clip_qkv: float | None = None
    gate_norm: float | None = None
    eos_token_ids: tuple[int, ...] = ()
    sliding_window: int | None = None
    encoder_decoder: EncoderDecoder | None = None
    rank: int = 0
    world: int = 1

    @classmethod
    def from_folder(cls, folder: str | Path, dtype: DType | None = None) -> Architecture:
        """The model that a Hugging Face folder's `config.json` describes, in `dtype` if given.

        Values are read as transformers reads them, its defaults included. Raises `BadInput` (file,
        key, value, what would be right) for what the runtime cannot compute exactly: families other
        than `SUPPORTED` and `ENCODER_DECODERS`, biases of the FFN, activations other than the
        family's, rotary embeddings whose frequencies depend on the running length.
        """
        path = Path(folder)
        if not path.is_dir():
            raise BadInput(f"{path} is not a folder; give one with config.json and safetensors")
        spec = ModelSpec.from_hf_config(path / "config.json")
        check_supported(spec, str(path / "config.json"))
        architecture = cls._of(spec, traits_of_folder(path, spec))
        return architecture if dtype is None else architecture.with_dtype(dtype)

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Architecture:
        """A model with these sizes and otherwise its family's defaults, for random weights.

        Raises `BadInput` for what the runtime cannot compute, as `from_folder` does.
        """
        check_supported(spec, spec.name)
        return cls._of(spec, traits_of_family(spec))

    @classmethod
    def _of(cls, spec: ModelSpec, traits: Traits) -> Architecture:
        return cls(spec, **traits._asdict())

    def with_dtype(self, dtype: DType) -> Architecture:
        """The same model with weights, activations and KV cache in another dtype."""
        values = dict(self.spec) | {"dtype": dtype}
        spec = validated(ModelSpec, values, self.spec.name)
        check_supported(spec, spec.name)
        return replace(self, spec=spec)

    def sharded(self, rank: int, world: int) -> Architecture:
        """The part of rank `rank` of `world`; raises `BadInput` where the model cannot be split."""
        from runtime.sharded import check_shards  # it imports this module

        if world > 1 and self.encoder_decoder is not None:
            raise BadInput(f"{self.spec.name} has an encoder; the runtime has it on one GPU only")
        check_shards(self.spec, rank, world)
        return replace(self, rank=rank, world=world)

    def check_context(self, tokens: int) -> None:
        """Raises `BadInput` if a sequence of so many tokens (prompt and generated) is too long.

        Relative positions, which models with an encoder have, set no limit.
        """
        if self.encoder_decoder is not None:
            return
        longest, what = self.spec.max_context, "its longest context is"
        if self.sliding_window is not None and self.sliding_window < longest:
            longest, what = self.sliding_window, "with sliding-window attention it must stay within"
        if tokens > longest:
            raise BadInput(
                f"{self.spec.name}: a sequence has {tokens} tokens with what is generated; {what}"
                f" {longest}"
            )

    # -- sizes of this rank ----------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and KV cache."""
        return {
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
            "float32": torch.float32,
        }[self.spec.dtype]

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states; every rank has all of it."""
        return self.spec.hidden_size

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.spec.head_dim

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.spec.n_heads // self.world

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and of values; with more ranks than there are, ranks share them."""
        return max(1, self.spec.n_kv_heads // self.world)

    @property
    def query_size(self) -> int:
        """Elements of all query heads of a token, and of its attention output."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of the keys of a token, and of its values."""
        return self.n_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Elements of queries, keys and values of a token."""
        return self.query_size + 2 * self.kv_width

    @property
    def shared_width(self) -> int:
        """Width of the shared expert, 0 without one."""
        return self.spec.n_shared_experts * self.spec.shared_ffn_size // self.world

    def ffn_width(self, is_moe: bool) -> int:
        """Width of an expert, or of the FFN of a layer without experts."""
        spec = self.spec
        dense = spec.expert_ffn_size if spec.n_experts == 1 else spec.dense_ffn_size
        return (spec.expert_ffn_size if is_moe else dense) // self.world

    @property
    def vocabulary(self) -> tuple[int, int]:
        """Rows [start, stop) of the output head."""
        each = self.spec.vocab_size // self.world
        return self.rank * each, (self.rank + 1) * each

    # -- how the family computes -----------------------------------------------------------------

    @property
    def attention_scale(self) -> float:
        """Factor of the attention's scores: T5 has it in its weights."""
        return 1.0 if self.encoder_decoder is not None else self.head_dim**-0.5

    @property
    def head_scale(self) -> float:
        """Factor of the hidden states before the head: T5's is the embedding, which is larger."""
        tied_t5 = self.encoder_decoder is not None and self.spec.tied_embeddings
        return self.hidden_size**-0.5 if tied_t5 else 1.0

    @property
    def normalize_top_k(self) -> bool:
        """Whether the gates of the chosen experts are normalised."""
        return self.gate_norm is not None

    @property
    def transposed_down(self) -> bool:
        """Whether `down` is stored with a row per inner element (DBRX's w2)."""
        return down_is_transposed(self.spec)

    @property
    def router_dtype(self) -> torch.dtype:
        """In which the router's softmax gives probabilities: float32, except in DBRX."""
        return self.dtype if self.spec.family == "dbrx" else torch.float32

    @property
    def gate_dtype(self) -> torch.dtype:
        """In which gates weigh the experts: the model's, except in Mixtral."""
        return torch.float32 if self.spec.family == "mixtral" else self.dtype
