"""How tokens are chosen, apart from torch: what the command line asks for."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from schedules.errors import BadInput
from schedules.lengths import positive_int

LOWEST_TEMPERATURE = 1e-6  # below, float32 differences of logits overflow; 0 is greedy


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; above it, tokens are drawn, from the `top_k` most likely ones alone
    or from the fewest that hold a share `top_p`, or both: first k, then p of what is left.

    Raises `BadInput` for an impossible value, and for a limit that greedy decoding would ignore.

    >>> Sampling(temperature=0.0, top_k=40)
    Traceback (most recent call last):
    ...
    schedules.errors.BadInput: top_k = 40 has no effect at temperature 0; give a temperature above 0
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if self.top_k is not None:
            positive_int(self.top_k, "top_k")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"seed is {self.seed}; it must be a whole number from 0 to 2^63 - 1")
        for name in ("top_k", "top_p"):
            if self.greedy and getattr(self, name) is not None:
                raise BadInput(
                    f"{name} = {getattr(self, name)} has no effect at temperature 0; give a "
                    "temperature above 0"
                )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _check_temperature(value: float) -> None:
    if not math.isfinite(value) or (value != 0 and value < LOWEST_TEMPERATURE):
        raise BadInput(
            f"temperature is {value}; it must be 0 (the most likely token) or at least "
            f"{LOWEST_TEMPERATURE:g}"
        )
