"""Eviction by a score that knows the layers: their common part, and EdgeMoE's."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from schedules.errors import BadInput
from schedules.expert.cache_policies import LRU, Key
from schedules.validated import shown


class Scored(LRU):
    """The key with the lowest score leaves; of equals, as LRU. Keys are (layer, expert).

    Parameters
    ----------
    n_layers: layers with experts, numbered from 0. Raises `BadInput` if it is not positive.
    """

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        if n_layers < 1:
            raise BadInput(
                f"a cache policy for {n_layers} layers is impossible; it needs 1 or more"
            )
        self.n_layers = n_layers
        self.layer = 0  # that runs now: the one of the latest request
        self._pairs: dict[Key, tuple[int, int]] = {}  # the keys seen, checked

    def begin(self, keys: Sequence[Key], **context: Any) -> None:
        super().begin(keys, **context)
        for key in keys:
            self.layer = self.pair(key)[0]

    def add(self, key: Key) -> None:
        self.pair(key)
        super().add(key)

    def evict(self, keep: Collection[Key]) -> Key | None:
        victim = min((key for key in self._order if key not in keep), key=self.score, default=None)
        if victim is not None:
            self.forget(victim)
        return victim

    @abstractmethod
    def score(self, key: Key) -> float:
        """What it is worth to keep `key`, now."""

    def pair(self, key: Key) -> tuple[int, int]:
        """Layer and expert. Raises `BadInput` if the key is no pair with a layer of the model."""
        if key not in self._pairs:
            self._pairs[key] = self.checked(key)
        return self._pairs[key]

    def checked(self, key: Key) -> tuple[int, int]:
        """`pair` of a new key."""
        whole = isinstance(key, tuple) and all(isinstance(i, int | np.integer) for i in key)
        if not isinstance(key, tuple) or not whole or len(key) != 2:
            raise BadInput(
                f"cache policy '{self.name}' needs keys (layer, expert), not {shown(key)}"
            )
        layer, expert = int(key[0]), int(key[1])
        if not 0 <= layer < self.n_layers:
            raise BadInput(
                f"cache policy '{self.name}' knows layers 0 to {self.n_layers - 1}, not {layer}"
            )
        return layer, expert

    def layers_ahead(self, key: Key) -> int:
        """Layers until the layer of `key` runs: 0 is the current one, 1 the next, then around."""
        return (self.pair(key)[0] - self.layer) % self.n_layers


class EdgeMoE(Scored):
    """EdgeMoE's policy: frequency of use over distance to the layer.

    score = f / d, d = (l_key - l_now) mod L, and d = L for the layer that runs now

    Source: EdgeMoE (arXiv 2308.14352), section III-C, "Cache eviction policy": what is used rarely,
    in a layer that is far away, leaves first. The formula printed there has l_now - l_key instead,
    which would evict the layers that run next; its text, "executed soon ... higher score for not
    being evicted", is followed here, and `as_printed` is the formula. It does not say what happens
    at distance 0; that layer runs again after L layers.

    Parameters
    ----------
    n_layers: L, layers with experts of the decoder.
    frequency: f of each key; keys without one have 0, as EdgeMoE does with the encoder's experts.
        If None, f is the number of uses so far.
    as_printed: the distance has the sign of the printed formula.
    """

    name = "edgemoe"

    def __init__(
        self,
        n_layers: int,
        frequency: Mapping[Key, float] | None = None,
        as_printed: bool = False,
    ) -> None:
        super().__init__(n_layers)
        self.as_printed = as_printed
        self._counting = frequency is None
        self._frequency = dict(frequency or {})

    def use(self, key: Key) -> None:
        super().use(key)
        if self._counting:
            self._frequency[key] = self._frequency.get(key, 0) + 1

    def score(self, key: Key) -> float:
        ahead = self.layers_ahead(key)
        distance = self.n_layers - ahead if self.as_printed else ahead or self.n_layers
        return self._frequency.get(key, 0) / distance
