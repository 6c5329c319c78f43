"""Drawn routing with memory: Zipf popularity, correlated over tokens and layers."""

from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schedules.model_layers import Stack
from schedules.routing_draws import (
    Ranks,
    counters,
    draw_distinct,
    popularity,
    stream_key,
    uniforms,
)
from schedules.routing_strengths import Strengths

Label = Literal["encoder", "decoder", "prompt"]
_LABELS: dict[Label, int] = {"encoder": 0, "decoder": 1, "prompt": 2}
_STACKS: dict[Stack, int] = {"encoder": 0, "decoder": 1}
_FRESH, _KIND, _POPULAR = range(3)  # what random numbers are for


class Chains:
    """The experts of all tokens of a stack, whole sequences at a time.

    Layers work in ranks of popularity; each has a permutation of its own that says which expert has
    which rank. A token takes the ranks of the token before it, those of its own in the layer before
    (so the experts to which the two permutations lead from those), or draws; so every layer's
    popularity stays that of Zipf's law.

    Parameters
    ----------
    label: tells draws apart; `prompt` are draws of their own in the decoder's layers.
    layers: indices of the MoE layers in order; None: all numbers from 0.
    """

    def __init__(
        self,
        strengths: Strengths,
        seed: int,
        label: Label,
        n_experts: int,
        top_k: int,
        layers: tuple[int, ...] | None = None,
    ) -> None:
        self.strengths = strengths
        self.seed = seed
        self.label = _LABELS[label]
        self.stack = _STACKS["encoder" if label == "encoder" else "decoder"]
        self.n_experts = n_experts
        self.top_k = top_k
        self.layers = layers
        self.sequences = self.length = 0
        self._ranks: dict[int, Ranks] = {}

    def reserve(self, sequences: int, length: int) -> None:
        """Make room for so many sequences and tokens of each; what was drawn stays the same."""
        self.sequences = max(sequences, self.sequences)
        if length > self.length:
            self.length = length
            self._ranks = {}

    def ids(
        self, layer: int, sequences: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Expert ids of the tokens at these places, shape (tokens, top_k)."""
        if len(sequences) == 0:
            return np.empty((0, self.top_k), dtype=np.int64)
        most = int(sequences.max()) + 1, int(positions.max()) + 1
        if most[0] > self.sequences or most[1] > self.length:
            self.reserve(*(2 ** (n - 1).bit_length() for n in most))  # so that room rarely grows
        return self.experts(layer)[self.ranks(layer)[sequences, positions]]

    def ranks(self, layer: int) -> Ranks:
        """Ranks of popularity, shape (sequences, length, top_k)."""
        before = None
        for number in self._up_to(layer):
            there = self._ranks.get(number)
            if there is None:
                there = np.empty((0, self.length, self.top_k), dtype=np.int16)
            if len(there) < self.sequences:
                new = self._draw(number, len(there), before)
                there = self._ranks[number] = np.concatenate([there, new])
            before = there
        return self._ranks[layer]

    def experts(self, layer: int) -> NDArray[np.int64]:
        """The expert of each rank, shape (n_experts,)."""
        rng = np.random.default_rng([self.seed, self.stack, layer, _POPULAR])
        return rng.permutation(self.n_experts)

    def _up_to(self, layer: int) -> Iterable[int]:
        """The layers on which `layer` depends, and itself."""
        if self.strengths.layer_correlation == 0:
            return [layer]
        if self.layers is None:
            return range(layer + 1)
        return self.layers[: self.layers.index(layer) + 1]

    def _draw(self, layer: int, first: int, before: Ranks | None) -> Ranks:
        """The ranks of the sequences from `first` on; `before` are those of the layer before."""
        places = counters(self.sequences - first, self.length, first)
        drawn = draw_distinct(self._weights, self.top_k, self._key(layer, _FRESH), places.ravel())
        ranks = drawn.reshape(*places.shape, self.top_k)
        s = self.strengths
        if s.is_independent:
            return ranks
        kind = uniforms(self._key(layer, _KIND), places)
        if before is not None:
            as_before = kind >= s.token_correlation
            as_before &= kind < s.token_correlation + s.layer_correlation
            np.copyto(ranks, before[first:], where=as_before[:, :, None])
        return _repeated(ranks, kind < s.token_correlation)

    def _key(self, layer: int, purpose: int) -> int:
        return stream_key(self.seed, self.label, layer, purpose)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        active = self.strengths.active
        most = None if active is None else max(active, self.top_k)
        return popularity(self.n_experts, self.strengths.exponent, most)


def _repeated(ranks: Ranks, as_token_before: NDArray[np.bool_]) -> Ranks:
    """Each token that repeats the one before it gets its ranks; the first has none before it."""
    positions = np.arange(ranks.shape[1])
    own = np.where(as_token_before, 0, positions)
    source = np.maximum.accumulate(own, axis=1)
    return np.take_along_axis(ranks, source[:, :, None], axis=1)


@lru_cache(maxsize=4)
def chains(
    strengths: Strengths,
    seed: int,
    label: Label,
    n_experts: int,
    top_k: int,
    layers: tuple[int, ...] | None = None,
) -> Chains:
    """`Chains` for these values; the last few are kept, with what they have drawn."""
    return Chains(strengths, seed, label, n_experts, top_k, layers)
