"""What happened in an expert cache, and how large it is."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from schedules.errors import BadInput


@dataclass(slots=True)
class Counts:
    """Events of a cache, in experts.

    Attributes
    ----------
    hits, misses: requested experts that were resident, and that were not.
    streamed: of the misses, those for which there was no room.
    prefetches: experts that came in without a request.
    evictions: experts that left to make room for another.
    """

    hits: int = 0
    misses: int = 0
    streamed: int = 0
    prefetches: int = 0
    evictions: int = 0

    @property
    def requests(self) -> int:
        """Requested experts."""
        return self.hits + self.misses

    @property
    def loads(self) -> int:
        """Experts that are copied, for a request or before one."""
        return self.misses + self.prefetches

    @property
    def hit_rate(self) -> float:
        """Share of the requested experts that were resident; 0 if none was requested."""
        return self.hits / self.requests if self.requests else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits + other.hits,
            self.misses + other.misses,
            self.streamed + other.streamed,
            self.prefetches + other.prefetches,
            self.evictions + other.evictions,
        )

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits - other.hits,
            self.misses - other.misses,
            self.streamed - other.streamed,
            self.prefetches - other.prefetches,
            self.evictions - other.evictions,
        )


class Tally:
    """Counts by layer: the first element of a key, or None where the key is not a tuple."""

    def __init__(self) -> None:
        self._by_layer: dict[Hashable, Counts] = {}

    def of(self, key: Hashable) -> Counts:
        """The counts of the layer of `key`, to be increased."""
        layer = key[0] if isinstance(key, tuple) and key else None
        try:
            return self._by_layer[layer]
        except KeyError:
            return self._by_layer.setdefault(layer, Counts())

    def total(self) -> Counts:
        """All layers together."""
        return sum(self._by_layer.values(), Counts())

    def by_layer(self) -> Mapping[Hashable, Counts]:
        """A copy, layer by layer."""
        return {layer: counts + Counts() for layer, counts in self._by_layer.items()}


def experts_in_bytes(budget_bytes: float, expert_bytes: float) -> int:
    """Whole experts of `expert_bytes` each that fit in `budget_bytes`.

    Raises `BadInput` if the budget is negative or an expert has no bytes.

    >>> experts_in_bytes(1e9, 352_321_536)  # float16 experts of Mixtral-8x7B
    2
    """
    if expert_bytes <= 0:
        raise BadInput(
            f"an expert of {expert_bytes:g} bytes cannot be cached; it needs more than 0"
        )
    if budget_bytes < 0:
        raise BadInput(f"a cache of {budget_bytes:g} bytes is impossible; it needs 0 or more")
    return int(budget_bytes // expert_bytes)


def experts_in_ratio(ratio: float, layers: int, experts: int) -> int:
    """Room for a share of all experts: round(layers x experts x ratio), halves to even.

    The rule of Pre-gated MoE's cache experiments. Raises `BadInput` outside 0 to 1.

    >>> experts_in_ratio(0.01, layers=12, experts=128)  # Switch-Large-128's decoder
    15
    """
    if not 0 <= ratio <= 1:
        raise BadInput(f"a cache ratio of {ratio:g} is impossible; it is a share from 0 to 1")
    return round(layers * experts * ratio)
