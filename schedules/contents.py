"""What buffers hold and copies move, in the model's own terms.

The simulator counts bytes and ignores this; the runtime moves the tensors that it names.
"""

from typing import Literal, NamedTuple

Part = Literal["attention", "resident", "experts", "expert", "ffn", "layer"]
"""Parts of a layer's weights: `attention` (query, key, value, output), `resident` (these, the
router and the shared experts), `experts` (all routed experts, or the dense FFN), `expert` (one of
them), `ffn` (router, shared and routed experts), `layer` (everything)."""

Half = Literal["both", "keys", "values"]


class Span(NamedTuple):
    """The share [start, stop) of a part of a layer's weights, in the order of `layout`.

    `layer` is its number in the model (`LayerSpec.number`), which tells those of an encoder and of
    a decoder apart; `expert` says which one, for the part `expert`.
    """

    layer: int
    part: Part
    start: float = 0.0
    stop: float = 1.0
    expert: int = -1


class KVSpan(NamedTuple):
    """The share [start, stop) of a micro-batch's sequences in a layer's KV cache."""

    layer: int
    micro_batch: int
    start: float = 0.0
    stop: float = 1.0
    half: Half = "both"


class Packed(NamedTuple):
    """Routed experts of a layer in few bits, a scale for each group of elements (`quantisation`).

    `expert` says which one; -1: all of them, one after the other. The matrices of an expert follow
    one another as in `layout`.
    """

    layer: int
    bits: int
    group: int
    expert: int = -1


Contents = Span | KVSpan | Packed
