"""Weights that were never trained: for speed, memory and tests, where the text does not matter."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import Shape, matrix_shapes, n_layers, vector_sizes
from schedules.errors import BadInput
from schedules.model import ModelSpec

BLOCK = 1_000_003  # elements of the random block; prime, so rows of a matrix start all over it
STD = 0.02  # `initializer_range` of the families' configs in transformers


class RandomWeights:
    """A `WeightSource` of normal values with standard deviation `std`; norms are ones.

    Large matrices are one random block over and over, each from a place of its own, which is as
    fast as memory can be written: rows differ, experts differ, layers differ. The same seed gives
    the same weights. Activations stay far within float16 for models of published sizes.

    Parameters
    ----------
    model: the sizes, or a whole architecture.
    seed: of all values.
    shared: all layers of a kind (with experts, without; of a stack) have the same weights in the
        same memory, so that a model with many layers needs memory for one.
    std: standard deviation of matrices, embeddings and biases.
    """

    def __init__(
        self,
        model: ModelSpec | Architecture,
        seed: int = 0,
        shared: bool = False,
        std: float = STD,
    ) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise BadInput(
                f"the seed of random weights is {seed!r}; it must be a whole number >= 0"
            )
        arch = model if isinstance(model, Architecture) else Architecture.from_spec(model)
        if arch.world > 1:
            raise BadInput("random weights are made for the whole model; wrap them in Sharded")
        self._architecture = arch
        self._seed = seed
        generator = torch.Generator().manual_seed(seed)
        block = torch.randn(BLOCK, generator=generator).mul_(std)
        self._block = block.to(self._architecture.dtype)
        self._layer = self._layer_of(shared)
        self._matrices: dict[tuple[int, str], Tensor] = {}
        self._vectors: dict[tuple[int, str], Tensor] = {}
        for layer in sorted(set(self._layer)):
            self._make(layer)
        self._make_model()

    @property
    def architecture(self) -> Architecture:
        """See `WeightSource`."""
        return self._architecture

    def matrix(self, layer: int, name: str, expert: int = 0) -> Tensor:
        """See `WeightSource`."""
        return self._matrices[self._layer[layer], name][expert]

    def vector(self, layer: int, name: str) -> Tensor | None:
        """See `WeightSource`."""
        return self._vectors.get((self._layer[layer], name))

    def embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._matrices[-1, "embedding"][0]

    def head(self) -> Tensor:
        """See `WeightSource`."""
        return self._matrices.get((-1, "head"), self._matrices[-1, "embedding"])[0]

    def final_norm(self) -> Tensor:
        """See `WeightSource`."""
        return self._vectors[-1, "final_norm"]

    def encoder_embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self.embedding()

    def encoder_norm(self) -> Tensor | None:
        """See `WeightSource`."""
        return self._vectors.get((-1, "encoder_norm"))

    def _layer_of(self, shared: bool) -> list[int]:
        """The layer whose weights each layer has."""
        spec = self._architecture.spec
        layers = (*spec.decoder_layers, *spec.encoder_layers)
        kinds = [(layer.stack, layer.is_moe) for layer in layers]
        return [kinds.index(kind) if shared else index for index, kind in enumerate(kinds)]

    def _make(self, layer: int) -> None:
        for index, (name, shape) in enumerate(matrix_shapes(self._architecture, layer).items()):
            self._matrices[layer, name] = self._random(shape, (layer, index))
        for index, (name, size) in enumerate(vector_sizes(self._architecture, layer).items()):
            one = self._random(Shape(1, 1, size), (layer, 100 + index))[0, 0]
            self._vectors[layer, name] = torch.ones_like(one) if name.endswith("norm") else one

    def _make_model(self) -> None:
        spec = self._architecture.spec
        table = Shape(1, spec.vocab_size, spec.hidden_size)
        n = n_layers(self._architecture)
        self._matrices[-1, "embedding"] = self._random(table, (n, 0))
        if not spec.tied_embeddings:
            self._matrices[-1, "head"] = self._random(table, (n, 1))
        norm = torch.ones(spec.hidden_size, dtype=self._block.dtype)
        self._vectors[-1, "final_norm"] = norm
        if spec.is_encoder_decoder:
            self._vectors[-1, "encoder_norm"] = norm

    def _random(self, shape: Shape, key: Iterable[int]) -> Tensor:
        """(stack, rows, cols) of random values that depend on the seed and `key` alone."""
        start = int(np.random.default_rng([self._seed, *key]).integers(BLOCK))
        block = self._block.roll(-start)
        flat = torch.empty(math.prod(shape), dtype=block.dtype)
        whole = len(flat) // BLOCK * BLOCK
        flat[:whole].view(-1, BLOCK).copy_(block.expand(whole // BLOCK, BLOCK))
        flat[whole:].copy_(block[: len(flat) - whole])
        return flat.view(tuple(shape))
