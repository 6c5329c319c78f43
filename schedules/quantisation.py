"""Weights and cache in 8 or 4 bits, with a scale for each group of elements of a row.

FineQuant (arXiv 2308.09723, section 3): each group of a matrix row's elements has a scale of its
own in half precision, so that an outlier costs its group alone; elements are whole numbers times
the scale, symmetric about zero. Activations and arithmetic stay in the model's format.

By hand, one of Mixtral's experts, 3 x 4096 x 14336 = 176.2e6 parameters: 352.3e6 B in float16; in
4 bits with groups of 64, 176.2e6 x (4 / 8 + 2 / 64) = 93.6e6 B, a factor of 3.76.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Bits = Literal[4, 8]

SCALE_BYTES = 2
"""Of a group's scale, in float16."""

GROUP = 64
"""Elements of a group where nobody says otherwise; FineQuant's finest."""


def packed_bytes(bits: int, group: int = GROUP) -> float:
    """Bytes of a parameter, its share of a scale included.

    >>> packed_bytes(4), packed_bytes(8, 128)
    (0.53125, 1.015625)
    """
    return bits / 8 + SCALE_BYTES / group


def packed_row_bytes(cols: int, bits: int, group: int = GROUP) -> int:
    """Bytes of a packed row, whose last group may be shorter than the others.

    >>> packed_row_bytes(4096, 4)
    2176
    """
    return -(-cols * bits // 8) + -(-cols // group) * SCALE_BYTES


class Quantisation(BaseModel):
    """What of a model is in so many bits; None: in the model's own format.

    Parameters
    ----------
    experts: the matrices of routed experts, or of the FFN of a layer that has none.
    dense: those of attention and of shared experts. Routers, norms, embeddings and the output head
        are never quantised.
    kv: keys and values in the cache.
    group: elements of a row that share a scale.
    fused: kernels convert what they have read in registers; otherwise matrices are written out in
        the model's format before each use, which costs a write and a read of every parameter. The
        cache on the CPU is always read once and converted in registers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experts: Bits | None = None
    dense: Bits | None = None
    kv: Bits | None = None
    group: Annotated[int, Field(ge=8, le=4096)] = GROUP
    fused: bool = False

    def stored(self, bits: int | None, plain: int) -> float:
        """Bytes of an element in memory and on a link; `plain`: in the model's format."""
        return float(plain) if bits is None else packed_bytes(bits, self.group)

    def unpacking(self, bits: int | None, plain: int) -> float:
        """Bytes that each use of an element moves beside: a write and a read of it as plain."""
        return 0.0 if bits is None or self.fused else 2.0 * plain
