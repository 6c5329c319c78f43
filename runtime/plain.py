"""The model in the plainest way: everything resident, one thing after another.

The reference for runs with random weights, which no other implementation knows, and the shortest
correct use of the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runtime.changes import Change
from runtime.functions import (
    decode_attention,
    embed,
    ffn,
    head,
    out_projection,
    prefill_attention,
    qkv,
)
from runtime.weights import WeightSource, layer_weights
from runtime.workspace import Workspace
from schedules.errors import BadInput
from schedules.kernels import Kernels
from schedules.layer_sizes import LayerSizes
from schedules.validated import shown

Sampler = Callable[[Tensor, Tensor, int], Tensor]
"""(logits (n, vocab_size), requests (n,) int64: which prompt each row is of, position: which of its
generated tokens this is, from 0) -> token ids (n,) int64."""

SMALL_BYTES = 2**16  # for the alignment of temporaries of tiny models


def greedy(logits: Tensor, requests: Tensor, position: int) -> Tensor:
    """The most probable token of each row."""
    return logits.argmax(dim=-1)


def plain_generate(
    source: WeightSource,
    prompts: Sequence[Sequence[int]],
    gen_len: int,
    sampler: Sampler = greedy,
    change: Change | None = None,
) -> list[list[int]]:
    """`gen_len` tokens for each prompt, whether or not one of them ends the sequence.

    `change`: what a method computes instead of the layers' own FFNs with experts.

    Raises `BadInput` for a prompt without tokens, a token that is not in the vocabulary, and a
    sequence longer than the model's context.
    """
    _check(source, prompts, gen_len)
    with torch.inference_mode():
        model = Plain(source, [len(p) for p in prompts], gen_len, change)
        requests = torch.arange(len(prompts))
        hidden = model.prefill([token for prompt in prompts for token in prompt])
        last = torch.tensor([len(p) for p in prompts]).cumsum(0) - 1
        tokens = [sampler(model.logits(hidden[last]), requests, 0)]
        for position in range(1, gen_len):
            hidden = model.decode(tokens[-1], position)
            tokens.append(sampler(model.logits(hidden), requests, position))
        return torch.stack(tokens, dim=1).tolist()


def plain_logits(source: WeightSource, ids: Sequence[int], change: Change | None = None) -> Tensor:
    """Logits (t, vocab_size) of every position of one sequence of t tokens; dtype of the model.

    `change`: see `plain_generate`.
    """
    _check(source, [ids], 0)
    with torch.inference_mode():
        model = Plain(source, [len(ids)], 0, change)
        return model.logits(model.prefill(list(ids)))


class Plain:
    """All layers in host memory, and a KV cache with room for every sequence."""

    def __init__(
        self,
        source: WeightSource,
        lengths: list[int],
        gen_len: int,
        change: Change | None = None,
    ) -> None:
        self.arch, self.source, self.lengths = source.architecture, source, lengths
        self.change = change or Change()
        self.blocks = [spec.index for spec in self.arch.spec.decoder_layers if spec.is_moe]
        self.layers = [layer_weights(source, i) for i in range(self.arch.spec.n_layers)]
        capacities = torch.tensor(lengths) + gen_len
        self.offsets = (capacities.cumsum(0) - capacities).tolist()
        rows, arch = int(capacities.sum()), self.arch
        shape = (len(self.layers), 2, rows, arch.n_kv_heads, arch.head_dim)
        self.cache = torch.zeros(shape, dtype=arch.dtype)
        sizes, tokens = LayerSizes(arch.spec, Kernels(experts="loop")), sum(lengths)
        need = max(sizes.workspace_bytes(s, tokens, 0) for s in arch.spec.decoder_layers)
        self.workspace = Workspace.of_size(int(need) + SMALL_BYTES)

    def prefill(self, ids: list[int]) -> Tensor:
        """Hidden states (t, H) of all prompts, one after another, after the last layer."""
        positions = torch.cat([torch.arange(n) for n in self.lengths])
        offsets = torch.tensor(self.offsets).repeat_interleave(torch.tensor(self.lengths))

        def attend(packed: Tensor, out: Tensor, keys: Tensor, values: Tensor) -> None:
            prefill_attention(self.arch, packed, self.lengths, out)

        return self._layers(torch.tensor(ids), positions, offsets + positions, attend)

    def decode(self, ids: Tensor, position: int) -> Tensor:
        """Hidden states (n, H) of one new token of each sequence; `ids` were generated before."""
        positions = torch.tensor(self.lengths) + position - 1
        contexts = (positions + 1).tolist()

        def attend(packed: Tensor, out: Tensor, keys: Tensor, values: Tensor) -> None:
            shape = (len(packed), self.arch.n_heads, self.arch.head_dim)
            q = packed[:, : self.arch.query_size].reshape(shape)
            decode_attention(q, keys, values, self.offsets, contexts, out.view(shape))

        return self._layers(ids, positions, torch.tensor(self.offsets) + positions, attend)

    def _layers(
        self,
        ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor, Tensor], None],
    ) -> Tensor:
        arch, ws = self.arch, self.workspace
        hidden = torch.empty(len(ids), arch.hidden_size, dtype=arch.dtype)
        packed = torch.empty(len(ids), arch.qkv_size, dtype=arch.dtype)
        attended = torch.empty(len(ids), arch.query_size, dtype=arch.dtype)
        embed(self.source.embedding(), ids, hidden)
        self.change.begin(self, ids, positions)
        for layer, (w, (keys, values)) in enumerate(zip(self.layers, self.cache, strict=True)):
            qkv(arch, w, hidden, positions, packed, ws)
            new = packed[:, arch.query_size :].view(len(ids), 2, *keys.shape[1:])
            keys[slots], values[slots] = new[:, 0], new[:, 1]
            attend(packed, attended, keys, values)
            out_projection(arch, w, attended, hidden, ws)
            if w.is_moe:
                self.change.ffn(self, layer, hidden)
            else:
                ffn(arch, w, hidden, ws)
        return hidden

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, vocab_size) of hidden states (n, H)."""
        table = self.source.head()
        out = torch.empty(len(rows), len(table), dtype=self.arch.dtype)
        head(self.arch, table, self.source.final_norm(), rows, out, self.workspace)
        return out


def _check(source: WeightSource, prompts: Sequence[Sequence[int]], gen_len: int) -> None:
    arch = source.architecture
    if arch.encoder_decoder is not None:
        raise BadInput(f"{arch.spec.name} has an encoder; give it to runtime.plain_encoder_decoder")
    check_tokens(prompts, arch.spec.vocab_size)
    arch.check_context(max(len(p) for p in prompts) + gen_len)


def check_tokens(prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
    """Raises `BadInput` unless there are prompts, each with tokens of the vocabulary."""
    if not prompts:
        raise BadInput("there are no prompts; give at least one")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise BadInput(f"prompt {number} has no tokens; it must have at least one")
        wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise BadInput(
                f"prompt {number} has token {shown(wrong)}; it must be 0 to {vocabulary - 1}"
            )
