"""A model with an encoder in the plainest way: everything resident, one thing after another.

As `plain`, for Switch Transformers: the encoder reads the prompts, the decoder begins with a start
token and writes one token per step, with a cache of its own keys and values and one of the
encoder's. A sequence is one token in a decoder's step, so only the encoder's experts can have more
tokens than their capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from runtime.architecture_shapes import n_layers
from runtime.changes import Change
from runtime.functions import (
    attend_runs,
    cross_keys,
    cross_projection,
    cross_queries,
    decode_attention,
    embed,
    encoder_attention,
    ffn,
    head,
    out_projection,
    qkv,
)
from runtime.functions.norms import norm
from runtime.pieces import LayerWeights
from runtime.plain import SMALL_BYTES, Sampler, check_tokens, greedy
from runtime.position_biases import position_biases
from runtime.weights import WeightSource, layer_weights
from runtime.workspace import Workspace
from schedules.errors import BadInput
from schedules.kernels import Kernels
from schedules.layer_sizes import LayerSizes
from schedules.layout import layer_at


class PlainEncoderDecoder:
    """All layers in host memory, and caches for these prompts and `gen_len` generated tokens.

    Raises `BadInput` for a model without an encoder, a prompt without tokens, and a token that is
    not in the vocabulary.
    """

    def __init__(
        self,
        source: WeightSource,
        prompts: Sequence[Sequence[int]],
        gen_len: int,
        change: Change | None = None,
    ) -> None:
        arch = source.architecture
        if arch.encoder_decoder is None:
            raise BadInput(f"{arch.spec.name} has no encoder; give it to runtime.plain")
        check_tokens(prompts, arch.spec.vocab_size)
        self.arch, self.source, self.traits = arch, source, arch.encoder_decoder
        self.change = change or Change()
        self.layers = [layer_weights(source, number) for number in range(n_layers(arch))]
        self.n_decoder = arch.spec.n_layers  # the encoder's layers follow
        self.blocks = [spec.index for spec in arch.spec.decoder_layers if spec.is_moe]
        self.lengths = [len(prompt) for prompt in prompts]
        self.offsets = list(accumulate(self.lengths, initial=0))[:-1]
        self.ids = torch.tensor([token for prompt in prompts for token in prompt])
        heads = (arch.n_kv_heads, arch.head_dim)
        own = (self.n_decoder, 2, len(prompts) * gen_len, *heads)
        self.first = [gen_len * number for number in range(len(prompts))]  # rows of `own`
        self.own = torch.zeros(own, dtype=arch.dtype)  # keys and values of what was generated
        crossed = (self.n_decoder, 2, len(self.ids), *heads)
        self.crossed = torch.zeros(crossed, dtype=arch.dtype)  # and of the encoded prompts
        vectors = [w.vectors for w in self.layers]
        self.biases = position_biases(arch, vectors, max(self.lengths), gen_len)
        self.workspace = Workspace.of_size(self._workspace_bytes() + SMALL_BYTES)

    def prefill(self) -> Tensor:
        """Encodes the prompts, one after another: (t, H); the decoder is ready to begin."""
        arch, ws, t = self.arch, self.workspace, len(self.ids)
        hidden = torch.empty(t, arch.hidden_size, dtype=arch.dtype)
        packed = torch.empty(t, arch.qkv_size, dtype=arch.dtype)
        attended = torch.empty(t, arch.query_size, dtype=arch.dtype)
        assert self.biases is not None
        positions = torch.cat([torch.arange(n) for n in self.lengths])
        embed(self.source.encoder_embedding(), self.ids, hidden)
        self.change.begin(self, self.ids, positions)
        for number, w in enumerate(self.layers[self.n_decoder :], start=self.n_decoder):
            qkv(arch, w, hidden, positions, packed, ws)
            encoder_attention(arch, packed, self.lengths, self.biases.encoder, attended)
            out_projection(arch, w, attended, hidden, ws)
            if w.is_moe:
                self.change.ffn(self, number, hidden, self.lengths)
            else:
                ffn(arch, w, hidden, ws)
        scale = self.source.encoder_norm()
        assert scale is not None
        norm(arch, hidden, scale, hidden)
        decoder = self.layers[: self.n_decoder]
        for w, (keys, values) in zip(decoder, self.crossed, strict=True):
            cross_keys(w, hidden, keys.view(t, -1), values.view(t, -1))
        return hidden

    def start(self) -> Tensor:
        """What the decoder reads first, (n,)."""
        return torch.full((len(self.lengths),), self.traits.start_token)

    def decode(self, ids: Tensor, position: int) -> Tensor:
        """Logits (n, vocab_size) after the decoder's token number `position` of each sequence."""
        arch, ws, n = self.arch, self.workspace, len(ids)
        hidden = torch.empty(n, arch.hidden_size, dtype=arch.dtype)
        embed(self.source.embedding(), ids, hidden)
        self.change.begin(self, ids, torch.full((n,), position))
        for number, (own, crossed) in enumerate(zip(self.own, self.crossed, strict=True)):
            w = self.layers[number]
            self._attend_own(w, hidden, own, position)
            self._attend_prompt(w, hidden, crossed)
            if w.is_moe:
                self.change.ffn(self, number, hidden)
            else:
                ffn(arch, w, hidden, ws)
        table = self.source.head()
        logits = torch.empty(n, len(table), dtype=arch.dtype)
        head(arch, table, self.source.final_norm(), hidden, logits, ws)
        return logits

    def _attend_own(self, w: LayerWeights, hidden: Tensor, cache: Tensor, position: int) -> None:
        """Self-attention of the newest tokens, which are added to the layer's cache."""
        arch, n = self.arch, len(hidden)
        packed = torch.empty(n, arch.qkv_size, dtype=arch.dtype)
        attended = torch.empty(n, arch.n_heads, arch.head_dim, dtype=arch.dtype)
        qkv(arch, w, hidden, torch.full((n,), position), packed, self.workspace)
        q, k, v = packed.view(n, 3, arch.n_heads, arch.head_dim).unbind(1)
        keys, values = cache
        newest = [row + position for row in self.first]
        keys[newest], values[newest] = k, v
        assert self.biases is not None
        bias, contexts = self.biases.decoder[:, -position - 1 :], [position + 1] * n
        attend_runs(q, keys, values, self.first, contexts, attended, arch.attention_scale, bias)
        out_projection(arch, w, attended.view(n, -1), hidden, self.workspace)

    def _attend_prompt(self, w: LayerWeights, hidden: Tensor, cache: Tensor) -> None:
        arch, n, (keys, values) = self.arch, len(hidden), cache
        q = torch.empty(n, arch.n_heads, arch.head_dim, dtype=arch.dtype)
        attended = torch.empty_like(q)
        cross_queries(arch, w, hidden, q.view(n, -1), self.workspace)
        scale = arch.attention_scale
        decode_attention(q, keys, values, self.offsets, self.lengths, attended, scale=scale)
        cross_projection(w, attended.view(n, -1), hidden)

    def _workspace_bytes(self) -> int:
        spec, tokens = self.arch.spec, max(len(self.ids), len(self.lengths))
        sizes = LayerSizes(spec, Kernels(experts="loop"))
        layers = (layer_at(spec, number) for number in range(n_layers(self.arch)))
        return int(max(sizes.workspace_bytes(layer, tokens, 0) for layer in layers))


def generate(
    source: WeightSource,
    prompts: Sequence[Sequence[int]],
    gen_len: int,
    sampler: Sampler = greedy,
    change: Change | None = None,
) -> list[list[int]]:
    """`gen_len` tokens for each prompt, whether or not one of them ends the sequence.

    `change`: what a method computes instead of the layers' own FFNs with experts.

    Raises `BadInput` as `PlainEncoderDecoder` does.
    """
    with torch.inference_mode():
        model = PlainEncoderDecoder(source, prompts, gen_len, change)
        model.prefill()
        requests, ids, tokens = torch.arange(len(prompts)), model.start(), []
        for position in range(gen_len):
            ids = sampler(model.decode(ids, position), requests, position)
            tokens.append(ids)
        return torch.stack(tokens, dim=1).tolist()


def forced_logits(
    source: WeightSource,
    prompt: Sequence[int],
    ids: Sequence[int],
    change: Change | None = None,
) -> Tensor:
    """Logits (t + 1, vocab_size) before each of the t tokens `ids` of an answer, and after them."""
    with torch.inference_mode():
        model = PlainEncoderDecoder(source, [prompt], len(ids) + 1, change)
        model.prefill()
        read = [model.start(), *torch.tensor([[token] for token in ids], dtype=torch.int64)]
        return torch.cat([model.decode(token, position) for position, token in enumerate(read)])
