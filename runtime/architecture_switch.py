"""How Switch Transformers compute, read from a config: T5 with top-1 experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from schedules.errors import BadInput
from schedules.model import ModelSpec
from schedules.validated import shown

START_TOKEN = 0  # `decoder_start_token_id` of all published configs: the token that pads
BUCKETS = 4  # the encoder has half of them for each direction, and half of those for each distance


class EncoderDecoder(NamedTuple):
    """What only a model with an encoder has.

    Parameters
    ----------
    start_token: what the decoder reads first.
    expert_capacity: tokens of a sequence that an expert takes in one pass; it skips the rest.
    max_distance: from which distance on all tokens share the last bucket of the position bias.
    """

    start_token: int
    expert_capacity: int
    max_distance: int


def check_switch(spec: ModelSpec, where: str) -> None:
    """Raises `BadInput` for a Switch Transformer that the runtime cannot compute."""
    for field, right in _ONLY.items():
        value = getattr(spec, field)
        if value != right:
            raise BadInput(f"{where}: {field} is {shown(value)}; the runtime needs {shown(right)}")
    if spec.n_encoder_layers < 1:
        raise BadInput(f"{where}: n_encoder_layers is 0; a Switch Transformer has an encoder")
    if spec.relative_attention_buckets < BUCKETS:
        raise BadInput(
            f"{where}: relative_attention_buckets is {spec.relative_attention_buckets}; it must be"
            f" at least {BUCKETS}"
        )
    if spec.dtype == "float16":
        raise BadInput(
            f"{where}: Switch Transformers overflow in float16; run them in float32 or bfloat16"
        )


_ONLY: dict[str, object] = {
    "mla": None,
    "ffn_matrices": 2,
    "ffn_bias": False,
    "attention_bias": "none",
    "qk_norm": "none",
    "norm": "rmsnorm",
    "norm_bias": False,
    "learned_positions": 0,
    "n_shared_experts": 0,
    "top_k": 1,
}


def encoder_decoder_of(
    config: Any, spec: ModelSpec, settings: Mapping[str, Any], where: str
) -> EncoderDecoder:
    """From a transformers config; `settings` are the values of its files that concern generation.

    Raises `BadInput` for another activation than ReLU (transformers 5 has no gated FFN of this
    family), a router that is not in float32, and numbers that make no sense.
    """
    for key, wanted in (("dense_act_fn", "relu"), ("router_dtype", "float32")):
        value = getattr(config, key)
        if value != wanted:
            raise BadInput(f"{where}: {key} is {shown(value)}; it must be '{wanted}'")
    exact = spec.relative_attention_buckets // 2  # distances with a bucket of their own, at most
    distance = config.relative_attention_max_distance
    for key, value, low in (
        ("expert_capacity", config.expert_capacity, 1),
        ("relative_attention_max_distance", distance, exact + 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise BadInput(
                f"{where}: {key} is {shown(value)}; it must be a whole number of at least {low}"
            )
    return EncoderDecoder(_start_token(settings, spec, where), config.expert_capacity, distance)


def _start_token(settings: Mapping[str, Any], spec: ModelSpec, where: str) -> int:
    key = "decoder_start_token_id"
    token = settings.get(key)
    if token is None:
        raise BadInput(f"{where}: {key} is missing; it must be a token, in Switch Transformers 0")
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < spec.vocab_size:
        raise BadInput(
            f"{where}: {key} is {shown(token)}; it must be a token, 0 to {spec.vocab_size - 1}"
        )
    return token
