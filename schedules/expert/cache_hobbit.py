"""Eviction as in HOBBIT: recency, frequency, precision and layer distance in one score."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schedules.errors import BadInput
from schedules.expert.cache_policies import Key
from schedules.expert.cache_scored import Scored
from schedules.validated import shown


@dataclass
class UseRecords:
    """HOBBIT's records of the current sequence, shared by its two caches (figure 12).

    Attributes
    ----------
    token: number T of the current token, from 1.
    layer: that ran last.
    last: number of the token that used an expert last, R.
    uses, high_uses: how often it was used in this sequence, F, and how often in high precision, H.
    """

    token: int = 1
    layer: int = 0
    last: dict[Key, int] = field(default_factory=dict)
    uses: dict[Key, int] = field(default_factory=dict)
    high_uses: dict[Key, int] = field(default_factory=dict)

    def next_sequence(self) -> None:
        """Forget all: HOBBIT starts anew with each sequence."""
        self.token, self.layer = 1, 0
        for records in (self.last, self.uses, self.high_uses):
            records.clear()

    def reach(self, layer: int, token: int | None) -> None:
        """`layer` runs, for this token; if None, for the next one where the layers start anew."""
        self.token = token if token is not None else self.token + (layer < self.layer)
        self.layer = layer

    def note(self, key: Key, high: bool) -> None:
        """`key` is used for the current token."""
        self.last[key] = self.token
        self.uses[key] = self.uses.get(key, 0) + 1
        if high:
            self.high_uses[key] = self.high_uses.get(key, 0) + 1


class Hobbit(Scored):
    """HOBBIT's multidimensional policy: recency, frequency, high precision, layer distance.

    score = w_lru R/T + w_lfu F/T + w_lhu H/T + w_fld (1 - ((l_key - l_now + L) mod L) / L)

    Source: HOBBIT (arXiv 2411.01433), section 3.4, equation 3. HOBBIT has one cache for each
    precision: give the two policies the same `records`. Its weights are fitted to a calibration
    set and not published; equal weights stand in.

    Parameters
    ----------
    n_layers: L.
    weights: of the terms, in that order. Raises `BadInput` if they do not sum to 1.
    records: of another policy's; own ones if None.
    """

    name = "hobbit"

    def __init__(
        self,
        n_layers: int,
        weights: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25),
        records: UseRecords | None = None,
    ) -> None:
        super().__init__(n_layers)
        if len(weights) != 4 or min(weights) < 0 or abs(sum(weights) - 1) > 1e-9:
            raise BadInput(f"HOBBIT's weights are four shares that sum to 1, not {shown(weights)}")
        self.weights = weights
        self.records = records if records is not None else UseRecords()
        self._high = True

    def begin(
        self, keys: Sequence[Key], *, token: int | None = None, high: bool = True, **context: Any
    ) -> None:
        """`high`: the precision of the use. `token`: its number, from 1.

        If `token` is None, a request for a layer before the latest one starts the next token.
        """
        super().begin(keys, **context)
        if token is not None and token < 1:
            raise BadInput(f"token {token} is impossible; the first of a sequence has number 1")
        self.records.reach(self.layer, token)
        self._high = high

    def use(self, key: Key) -> None:
        super().use(key)
        self.records.note(key, self._high)

    def score(self, key: Key) -> float:
        records, (w_lru, w_lfu, w_lhu, w_fld) = self.records, self.weights
        used = (
            w_lru * records.last.get(key, 0)
            + w_lfu * records.uses.get(key, 0)
            + w_lhu * records.high_uses.get(key, 0)
        )
        return used / records.token + w_fld * (1 - self.layers_ahead(key) / self.n_layers)
