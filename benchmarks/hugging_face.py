"""The baselines: transformers, and accelerate's offload; timed as the schedules in `systems.py`."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import cpu_offload, dispatch_model, infer_auto_device_map, init_empty_weights
from systems import Prompts, Timed, joined
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.generation.streamers import BaseStreamer

from runtime.weights import WeightSource


class Clock(BaseStreamer):
    """Notes when the prompt and each token were there; `generate` brings them to the host."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def run_transformers(model: Any, prompts: Prompts, gen_len: int, batch: int, device: str) -> Timed:
    """`generate` with its KV cache, for prompts of one length, `batch` at a time."""
    parts = []
    for start in range(0, len(prompts), batch):
        ids = torch.tensor(prompts[start : start + batch], device=device)
        clock = Clock()
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            streamer=clock,
            do_sample=False,
            max_new_tokens=gen_len,
            pad_token_id=0,
            eos_token_id=None,
        )
        tokens = tuple(map(tuple, made[:, ids.shape[1] :].tolist()))
        prefill_s, *step_s = np.diff(clock.times).tolist()
        parts.append(Timed(tokens, prefill_s, tuple(step_s)))
    return joined(parts)


def state_dict(source: WeightSource) -> dict[str, Tensor]:
    """Weights of a Mixtral as transformers 5 names them, in memory of their own."""
    spec = source.architecture.spec

    def stacked(layer: int, name: str) -> Tensor:
        return torch.stack([source.matrix(layer, name, e) for e in range(spec.n_experts)])

    state = {
        "model.embed_tokens.weight": source.embedding().clone(),
        "model.norm.weight": source.final_norm().clone(),
        "lm_head.weight": source.head().clone(),
    }
    for layer in range(spec.n_layers):
        prefix = f"model.layers.{layer}."
        experts = prefix + "mlp.experts."
        gate_up = [stacked(layer, name) for name in ("gate", "up")]
        state[experts + "gate_up_proj"] = torch.cat(gate_up, dim=1)
        state[experts + "down_proj"] = stacked(layer, "down")
        state[prefix + "mlp.gate.weight"] = source.matrix(layer, "router").clone()
        for name in "qkvo":
            state[f"{prefix}self_attn.{name}_proj.weight"] = source.matrix(layer, name).clone()
        for ours, theirs in (("attn", "input"), ("ffn", "post_attention")):
            vector = source.vector(layer, f"{ours}_norm")
            assert vector is not None
            state[f"{prefix}{theirs}_layernorm.weight"] = vector.clone()
    return state


def mixtral(source: WeightSource, state: Mapping[str, Tensor]) -> Any:
    """A model of transformers over weights that are there already."""
    arch, spec = source.architecture, source.architecture.spec
    config = MixtralConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.expert_ffn_size,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.n_kv_heads,
        num_local_experts=spec.n_experts,
        num_experts_per_tok=spec.top_k,
        max_position_embeddings=spec.max_context,
        rms_norm_eps=arch.norm_eps,
        tie_word_embeddings=False,
    )
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=arch.dtype)
    model.load_state_dict(dict(state), assign=True)
    return model.eval()


def offloaded(model: Any, gpu_bytes: int) -> Any:
    """accelerate's offload: `gpu_bytes` of whole modules on the GPU, the others on the CPU."""
    device_map = infer_auto_device_map(
        model,
        max_memory={0: gpu_bytes, "cpu": 1 << 50},
        no_split_module_classes=list(model._no_split_modules or ()),
    )
    return dispatch_model(model, device_map, main_device=0)


@dataclass(frozen=True)
class Link(Mapping[str, Tensor]):
    """Weights that arrive as copies, at the rate of a link in bytes/s."""

    weights: Mapping[str, Tensor]
    rate: float

    def __getitem__(self, name: str) -> Tensor:
        begin = time.perf_counter()
        copy = self.weights[name].clone()
        time.sleep(max(0.0, copy.nbytes / self.rate - (time.perf_counter() - begin)))
        return copy

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def offloaded_behind_link(model: Any, rate: float) -> Any:
    """accelerate's offload of all weights, on a machine whose device is a part of host memory.

    accelerate takes every weight from a mapping before the module that needs it runs, and drops it
    after; here the mapping copies, and holds the copy to `rate` bytes/s. The experts run one by
    one: `generate` takes a model without weights for one on a GPU, and would copy the experts' for
    every token.
    """
    model.set_experts_implementation("eager")
    return cpu_offload(model, torch.device("cpu"), state_dict=Link(model.state_dict(), rate))
