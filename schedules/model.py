"""The model: its layers, widths, experts and heads; what it weighs follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schedules.errors import BadInput
from schedules.model_checks import check
from schedules.model_layers import LayerSpec, build_layers
from schedules.quantisation import Quantisation
from schedules.task import DType
from schedules.validated import validated

__all__ = ["MAX_LAYERS", "MAX_SIZE", "MLA", "DType", "LayerSpec", "ModelSpec"]

MAX_SIZE = 10**8  # above any width, vocabulary or context; keeps products far from overflow
MAX_LAYERS = 10_000  # the layers of a stack are listed one by one

Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
OptionalSize = Annotated[int, Field(ge=0, le=MAX_SIZE)]
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


class MLA(BaseModel):
    """Widths of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    `q_lora_rank` is None where queries are projected by one matrix, as in DeepSeek-V2-Lite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kv_lora_rank: Size
    q_lora_rank: Size | None = None
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size


class ModelSpec(BaseModel):
    """A decoder-only or encoder-decoder Transformer, dense or with experts.

    Parameters
    ----------
    name, family: of this model, and of its architecture (`model_type` of Hugging Face).
    dtype: of weights, activations and KV cache.
    n_layers, n_encoder_layers: layers of the decoder, and of the encoder (0: decoder only).
    hidden_size, vocab_size: width of the hidden states; tokens in the vocabulary.
    n_heads, n_kv_heads, head_dim: heads of queries, of keys and values; width of a query head.
    mla: widths of multi-head latent attention, None for MHA and GQA.
    attention_bias: biases of `qkv` or of `all` four projections.
    qk_norm: norms of queries and keys, one scale per element of a `head` or of `all` heads.
    relative_attention_buckets: T5's position bias per head, held by the first layer of a stack.
    norm, norm_bias: kind of the norms; `layernorm` may have a bias beside its scale.
    n_experts, top_k: routed experts of an MoE layer (1: a dense model) and those a token takes.
    expert_ffn_size: width of an expert, or of the FFN of a dense model.
    ffn_matrices: 3 (gate, up, down) or 2 (up, down); `ffn_bias`: each with a bias.
    router_bias: whether the gate has a bias per expert.
    n_shared_experts, shared_ffn_size, shared_expert_gate: experts that every token takes, the width
        of one of them, and whether a gate of `hidden_size` weighs their sum.
    dense_ffn_size: FFN width of those layers of an MoE model that have no experts.
    first_dense_layers, dense_layers: how many layers at the start have none, and which others.
    moe_every, moe_offset: of the rest, layer i is MoE if i % moe_every == moe_offset; by default
        the last layer of each period.
    tied_embeddings: whether the output head is the token embedding.
    learned_positions: rows of a learned position embedding, 0 for rotary or relative positions.
    max_context: longest context in tokens.
    quantisation: what is kept in 8 or 4 bits; None: nothing.
    skip_below: a token drops an expert whose gate weight is less than this share of its first one's
        (see `schedules.choices`).
    published_parameters: the published count, None where there is none.
    source: where these values come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    family: Annotated[str, Field(min_length=1)]
    dtype: DType
    n_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    n_encoder_layers: Annotated[int, Field(ge=0, le=MAX_LAYERS)] = 0
    hidden_size: Size
    vocab_size: Size
    n_heads: Size
    n_kv_heads: Size
    head_dim: Size
    mla: MLA | None = None
    attention_bias: Literal["none", "qkv", "all"] = "none"
    qk_norm: Literal["none", "head", "all"] = "none"
    relative_attention_buckets: OptionalSize = 0
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_bias: bool = False
    n_experts: Size = 1
    top_k: Size = 1
    expert_ffn_size: Size
    ffn_matrices: Literal[2, 3]
    ffn_bias: bool = False
    router_bias: bool = False
    n_shared_experts: OptionalSize = 0
    shared_ffn_size: OptionalSize = 0
    shared_expert_gate: bool = False
    dense_ffn_size: OptionalSize = 0
    first_dense_layers: OptionalSize = 0
    dense_layers: Annotated[tuple[OptionalSize, ...], Field(strict=False)] = ()
    moe_every: Size = 1
    moe_offset: OptionalSize | None = None
    tied_embeddings: bool
    learned_positions: OptionalSize = 0
    max_context: Size
    quantisation: Quantisation | None = None
    skip_below: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    published_parameters: Annotated[int, Field(ge=1)] | None = None
    source: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check(self)
        return self

    @classmethod
    def from_hf_config(cls, config: str | Path | Mapping[str, Any]) -> ModelSpec:
        """The model that a Hugging Face config describes; see `hf_config.from_hf_config`."""
        from schedules.hf_config import from_hf_config  # it imports this module

        return from_hf_config(config)

    def with_layers(self, n: int) -> ModelSpec:
        """The same model with `n` decoder layers (and at most `n` of its encoder layers).

        Raises `BadInput` unless `n` is a whole number from 1 to `MAX_LAYERS`.
        """
        if n == self.n_layers:
            return self
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_LAYERS:
            raise BadInput(f"{self.name}: {n!r} layers; it must be 1 to {MAX_LAYERS}")
        changes = {
            "name": f"{self.name}-{n}l",
            "n_layers": n,
            "n_encoder_layers": min(n, self.n_encoder_layers),
            "published_parameters": None,
            "source": f"{self.source}; decoder layers changed from {self.n_layers} to {n}",
        }
        return validated(ModelSpec, dict(self) | changes, f"{self.name} with {n} layers")

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of an element in the model's own format: weights and KV cache that are not
        quantised, and activations."""
        return BYTES[self.dtype]

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there is an encoder; every decoder layer then has cross-attention."""
        return self.n_encoder_layers > 0

    @property
    def decoder_layers(self) -> tuple[LayerSpec, ...]:
        """The layers of the decoder, in order."""
        return build_layers(self, "decoder")

    @property
    def encoder_layers(self) -> tuple[LayerSpec, ...]:
        """The layers of the encoder, in order; empty without one."""
        return build_layers(self, "encoder")

    @property
    def norm_parameters(self) -> int:
        """Parameters of one norm over the hidden state."""
        return self.hidden_size * (2 if self.norm_bias else 1)

    @property
    def embedding_parameters(self) -> int:
        """Token and position embeddings; encoder and decoder share them."""
        return (self.vocab_size + self.learned_positions) * self.hidden_size

    @property
    def head_matrix_parameters(self) -> int:
        """The matrix that turns hidden states into logits, whether or not it is the embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """What the output adds to the model: its matrix unless tied, and each stack's last norm."""
        matrix = 0 if self.tied_embeddings else self.head_matrix_parameters
        return matrix + self.norm_parameters * (2 if self.is_encoder_decoder else 1)

    @property
    def parameters(self) -> int:
        """All parameters; a matrix that is used twice counts once."""
        layers = sum(layer.parameters for layer in (*self.encoder_layers, *self.decoder_layers))
        return layers + self.embedding_parameters + self.head_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters without the experts that a token does not take; embeddings and head count.

        With an encoder this is what an encoder token and a decoder token meet together.
        """
        layers = (*self.encoder_layers, *self.decoder_layers)
        active = sum(layer.active_parameters for layer in layers)
        return active + self.embedding_parameters + self.head_parameters

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that one token keeps in the KV cache of all decoder layers (self-attention)."""
        each: float = self.bytes_per_parameter
        if self.quantisation is not None:
            each = self.quantisation.stored(self.quantisation.kv, self.bytes_per_parameter)
        return sum(layer.kv_size for layer in self.decoder_layers) * each
