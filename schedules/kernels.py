"""Which kernels an implementation runs: they decide padding, copies and launches."""

from dataclasses import dataclass
from typing import Literal

# Kernel launches of an eager PyTorch implementation, counted from its operations:
CALLS = {
    "embedding": 1,
    "qkv": 7,  # norm, q, k, v, two rotations, pack
    "attention": 3,  # append to the cache, attention, reshape
    "out": 2,  # output projection, residual
    "router": 4,  # norm, gate, softmax, top-k
    "norm": 1,  # of the router, where it is alone
    "experts": 6,  # sort by expert, two grouped GEMMs, activation, combine, residual
    "per_expert": 6,  # select, three GEMMs (or two), activation, scatter: for each touched expert
    "dense": 5,  # two or three GEMMs, activation, residual
    "head": 3,  # norm, projection, argmax
}


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which kernels the published implementation of a schedule runs.

    Parameters
    ----------
    experts: `fused` is one grouped GEMM over all experts (class `experts` of the hardware),
        `loop` is one dense GEMM per touched expert (class `gemm`).
    cpu_attention: `native` reads each cached element once, in the model's dtype; `torch` first
        converts keys and values to float32, repeated for every query head, as FlexGen does.
    cpu_experts: `loop` computes experts on the CPU one matrix product after another, each in a
        parallel region; `fused` all of them as one task of threads that stay awake.
    logits: in prefill, of the `last` position or of `all` positions, in the model's dtype or, as
        Hugging Face models do, in float32 beside it.
    gathers: whether weights that are copied in shares are copied once more, into a contiguous
        tensor, also on one GPU, as ZeRO-3 does.
    tile_rows, small_tile_rows: a fused expert kernel computes in tiles of this many tokens, so
        each touched expert's tokens are padded to a multiple. Triton's fused MoE kernel of 2024, as
        used by MoE-Lightning and its FlexGen port, has tiles of 64 rows, and of 16 where there are
        no more choices than experts. Padding costs flops, not bytes.
    """

    experts: Literal["fused", "loop"] = "fused"
    cpu_attention: Literal["native", "torch"] = "native"
    cpu_experts: Literal["loop", "fused"] = "loop"
    logits: Literal["last", "all", "all_float32"] = "last"
    gathers: bool = True
    tile_rows: int = 64
    small_tile_rows: int = 16

    def rows_per_tile(self, choices: float, n_experts: int) -> int:
        """Rows of a tile for so many choices (tokens x top_k)."""
        return self.small_tile_rows if choices <= n_experts else self.tile_rows
