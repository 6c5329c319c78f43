"""The position biases of both stacks of a model with an encoder, for the lengths of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions.position_bias import bias_by_distance


class PositionBiases(NamedTuple):
    """encoder: (heads, 2 n - 1) for keys up to n - 1 before or after a query, n the longest prompt.
    decoder: (heads, gen_len) for keys gen_len - 1 to 0 before a query."""

    encoder: Tensor
    decoder: Tensor


def position_biases(
    arch: Architecture, vectors: Sequence[Mapping[str, Tensor]], longest: int, gen_len: int
) -> PositionBiases | None:
    """From the vectors of all layers, the decoder's first; None for a model without an encoder."""
    spec = arch.spec
    if arch.encoder_decoder is None:
        return None
    farthest = arch.encoder_decoder.max_distance
    shape = (spec.relative_attention_buckets, spec.n_heads)
    decoder, encoder = (vectors[n]["position_bias"].view(shape) for n in (0, spec.n_layers))
    return PositionBiases(
        bias_by_distance(encoder, 1 - longest, longest - 1, True, farthest),
        bias_by_distance(decoder, 1 - gen_len, 0, False, farthest),
    )
