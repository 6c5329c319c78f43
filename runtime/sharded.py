"""One tensor-parallel rank's part of all weights, as views of the whole."""

from __future__ import annotations

from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import SHARED_MATRICES
from runtime.weights import WeightSource
from schedules.errors import BadInput
from schedules.layout import layer_matrices
from schedules.model import ModelSpec

BY_ROWS = ("gate", "up", "shared_gate", "shared_up")


class Sharded:
    """A `WeightSource` with rank `rank`'s part of `source` (Megatron-LM, arXiv 1909.08053, 3).

    Queries, keys and values are split by heads, the output projection by columns, the FFN and each
    expert by their inner width; router, norms and embedding are whole. Of KV heads that are fewer
    than ranks, several ranks have the same one. Of the head, every rank has as many rows of the
    vocabulary. What `out_projection` and `ffn` give with these weights are terms of a sum over the
    ranks.

    Raises `BadInput` where heads, widths or the vocabulary do not divide (see `schedules.layout`),
    and for a norm over all heads (OLMoE).
    """

    def __init__(self, source: WeightSource, rank: int, world: int) -> None:
        self._source = source
        self._architecture = source.architecture.sharded(rank, world)

    @property
    def architecture(self) -> Architecture:
        """See `WeightSource`."""
        return self._architecture

    def matrix(self, layer: int, name: str, expert: int = 0) -> Tensor:
        """See `WeightSource`; `o` and `down` are strided views."""
        whole, arch = self._source.matrix(layer, name, expert), self._architecture
        if name in ("q", "k", "v"):
            return whole[self._heads(name)]
        if name == "o":
            return whole[:, self._heads("q")]
        if name == "router":
            return whole
        width = arch.shared_width if name in SHARED_MATRICES else self._width(layer)
        inner = slice(arch.rank * width, (arch.rank + 1) * width)
        by_rows = name in BY_ROWS or (name == "down" and arch.transposed_down)
        return whole[inner] if by_rows else whole[:, inner]

    def vector(self, layer: int, name: str) -> Tensor | None:
        """See `WeightSource`."""
        whole = self._source.vector(layer, name)
        if whole is not None and name in ("q_bias", "k_bias", "v_bias"):
            return whole[self._heads(name[0])]
        return whole

    def embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.embedding()

    def head(self) -> Tensor:
        """See `WeightSource`."""
        start, stop = self._architecture.vocabulary
        return self._source.head()[start:stop]

    def final_norm(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.final_norm()

    def encoder_embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.encoder_embedding()

    def encoder_norm(self) -> Tensor | None:
        """See `WeightSource`."""
        return self._source.encoder_norm()

    def _heads(self, name: str) -> slice:
        """Elements of this rank's heads of queries, keys or values."""
        arch = self._architecture
        if name == "q":
            return slice(arch.rank * arch.query_size, (arch.rank + 1) * arch.query_size)
        first = arch.rank * arch.spec.n_kv_heads // arch.world * arch.head_dim
        return slice(first, first + arch.kv_width)

    def _width(self, layer: int) -> int:
        return self._architecture.ffn_width(self._architecture.spec.decoder_layers[layer].is_moe)


def check_shards(spec: ModelSpec, rank: int, world: int) -> None:
    """Raises `BadInput` unless the model can be split over `world` ranks and `rank` is one."""
    if world < 1 or not 0 <= rank < world:
        raise BadInput(f"rank {rank} of {world}; ranks go from 0 to their number less one")
    if world > 1 and spec.qk_norm == "all":
        raise BadInput(f"{spec.name}: its norm over all heads cannot be split over {world} GPUs")
    for layer in spec.decoder_layers:
        layer_matrices(spec, layer, world)  # it refuses what does not divide
