"""How each supported family of Hugging Face models computes, read from its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from runtime.architecture_switch import (
    START_TOKEN,
    EncoderDecoder,
    check_switch,
    encoder_decoder_of,
)
from runtime.rope import NO_ROPE, Rope, default_rope, rope_of
from schedules.errors import BadInput, suggest
from schedules.model import ModelSpec
from schedules.validated import shown

SUPPORTED = (
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "dbrx",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
)
ENCODER_DECODERS = ("switch_transformers",)
SILU = ("silu", "swish")  # two names of one function in transformers
LAYER_NORM_EPS = 1e-5  # DBRX builds torch.nn.LayerNorm with its default


class Traits(NamedTuple):
    """The fields of `Architecture` beside sizes; see there."""

    norm_eps: float
    rope: Rope
    clip_qkv: float | None
    gate_norm: float | None
    eos_token_ids: tuple[int, ...]
    sliding_window: int | None
    encoder_decoder: EncoderDecoder | None = None


def check_supported(spec: ModelSpec, where: str) -> None:
    """Raises `BadInput` for a model that the functions of the runtime cannot compute."""
    if spec.family in ENCODER_DECODERS:
        check_switch(spec, where)
        return
    if spec.family not in SUPPORTED:
        raise BadInput(
            f"{where}: the runtime has no family {shown(spec.family)}"
            f"{suggest(spec.family, (*SUPPORTED, *ENCODER_DECODERS))}"
        )
    if spec.ffn_bias:
        raise BadInput(
            f"{where}: the FFN has biases (mlp_bias); the runtime has none, so it must not"
        )
    if spec.head_dim % 2:
        raise BadInput(f"{where}: head_dim is {spec.head_dim}; rotary embeddings need an even one")
    for field, right in _ONLY.items():
        value = getattr(spec, field)
        if value not in right:
            raise BadInput(
                f"{where}: {field} is {shown(value)}; the runtime needs {shown(right[0])}"
            )
    if spec.shared_expert_gate != (spec.n_shared_experts == 1):
        raise BadInput(f"{where}: a shared expert without shared_expert_gate is not in the runtime")


_ONLY: dict[str, tuple[object, ...]] = {
    "n_encoder_layers": (0,),
    "mla": (None,),
    "ffn_matrices": (3,),
    "norm_bias": (False,),
    "router_bias": (False,),
    "learned_positions": (0,),
    "relative_attention_buckets": (0,),
    "n_shared_experts": (0, 1),
}


def traits_of_family(spec: ModelSpec) -> Traits:
    """Defaults of the family's config in transformers, for weights that were never trained."""
    config = AutoConfig.for_model(spec.family)
    if spec.is_encoder_decoder:
        start = {"decoder_start_token_id": START_TOKEN}
        return _switch_traits(config, spec, start, spec.name)._replace(eos_token_ids=())
    rope = default_rope(config.rope_parameters["rope_theta"], spec.head_dim)
    traits = _traits(config, spec, rope)
    return traits._replace(eos_token_ids=(), sliding_window=None)


def traits_of_folder(folder: Path, spec: ModelSpec) -> Traits:
    """What `config.json` and, for the end of a sequence, `generation_config.json` say."""
    where = str(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and its validators raise many kinds
        reason = " ".join(str(error).split())
        raise BadInput(f"{where}: transformers cannot read it ({reason})") from None
    raw, generation = (_json(folder / name) for name in ("config.json", "generation_config.json"))
    if spec.is_encoder_decoder:
        told = {key: value for key, value in generation.items() if value is not None}
        traits = _switch_traits(config, spec, {**raw, **told}, where)
    else:
        traits = _decoder_traits(config, raw, spec, where)
    if generation.get("eos_token_id") is not None:
        traits = traits._replace(eos_token_ids=_tokens(generation["eos_token_id"]))
    return traits


def _decoder_traits(config: Any, raw: Mapping[str, Any], spec: ModelSpec, where: str) -> Traits:
    _check_activation(config, where)
    if spec.family == "dbrx" and not {"rope_parameters", "rope_scaling", "rope_theta"} & set(raw):
        _take_dbrx_theta(config, raw)
    return _traits(config, spec, rope_of(config, spec.head_dim, where))


def _switch_traits(config: Any, spec: ModelSpec, settings: Mapping[str, Any], where: str) -> Traits:
    return Traits(
        norm_eps=float(config.layer_norm_epsilon),
        rope=NO_ROPE,
        clip_qkv=None,
        gate_norm=None,
        eos_token_ids=_tokens(config.eos_token_id),
        sliding_window=None,
        encoder_decoder=encoder_decoder_of(config, spec, settings, where),
    )


def _traits(config: Any, spec: ModelSpec, rope: Rope) -> Traits:
    dbrx = spec.family == "dbrx"
    if dbrx:
        gate_norm = config.ffn_config.moe_normalize_expert_weights
    elif spec.family == "mixtral" or getattr(config, "norm_topk_prob", False):
        gate_norm = 1.0
    else:
        gate_norm = None
    clip = config.attn_config.clip_qkv if dbrx else getattr(config, "clip_qkv", None)
    return Traits(
        norm_eps=LAYER_NORM_EPS if dbrx else float(config.rms_norm_eps),
        rope=rope,
        clip_qkv=None if clip is None else float(clip),
        gate_norm=None if gate_norm is None else float(gate_norm),
        eos_token_ids=_tokens(config.eos_token_id),
        sliding_window=_window(config),
    )


def _take_dbrx_theta(config: Any, raw: Mapping[str, Any]) -> None:
    """DBRX was published with its theta under `attn_config`, where transformers 5 ignores it."""
    theta = raw["attn_config"].get("rope_theta")
    if isinstance(theta, int | float):
        config.rope_parameters["rope_theta"] = float(theta)


def _check_activation(config: Any, where: str) -> None:
    if config.model_type == "dbrx":
        key, name = "ffn_config.ffn_act_fn", config.ffn_config.ffn_act_fn.get("name", "silu")
    else:
        key, name = "hidden_act", config.hidden_act
    if name not in SILU:
        raise BadInput(
            f"{where}: {key} is {shown(name)}; it must be 'silu', the only supported one"
        )


def _window(config: Any) -> int | None:
    """Tokens that attention reaches back in any layer; None where it is not limited."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)


def _tokens(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _json(path: Path) -> Mapping[str, Any]:
    """An object in a file; nothing if there is none, or the file is broken."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
