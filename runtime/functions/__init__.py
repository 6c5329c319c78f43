"""What one layer computes, as plain functions on tensors.

Shapes: t tokens, H hidden_size, k experts per token, n sequences. Functions run under
`torch.inference_mode`, on the current stream of their tensors' device. Temporaries come from the
workspace, except where PyTorch has no way to say where a result goes; those are kept below
`linear.BLOCK_BYTES` by working on a block of rows at a time. On CUDA nothing waits for the device,
with one exception that is stated there: `experts` without a grouped GEMM waits for the counts.
"""

from runtime.functions.attention import attend_runs, decode_attention, prefill_attention
from runtime.functions.biased_attention import encoder_attention
from runtime.functions.cross_attention import cross_keys, cross_projection, cross_queries
from runtime.functions.embedding import embed, head
from runtime.functions.experts import experts
from runtime.functions.ffn import ffn, shared
from runtime.functions.position_bias import bias_by_distance
from runtime.functions.projections import out_projection, qkv
from runtime.functions.router import Routed, route

__all__ = [
    "Routed",
    "attend_runs",
    "bias_by_distance",
    "cross_keys",
    "cross_projection",
    "cross_queries",
    "decode_attention",
    "embed",
    "encoder_attention",
    "experts",
    "ffn",
    "head",
    "out_projection",
    "prefill_attention",
    "qkv",
    "route",
    "shared",
]
