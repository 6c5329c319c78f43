"""The FFN of one expert, or of a layer without experts: gated, or T5's with ReLU."""

from __future__ import annotations

from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import EXPERT_MATRICES
from runtime.functions.linear import linear, swiglu
from runtime.pieces import LayerWeights
from runtime.workspace import Workspace


def feed_forward(
    arch: Architecture,
    w: LayerWeights,
    x: Tensor,
    width: int,
    out: Tensor,
    ws: Workspace,
    expert: int = 0,
) -> None:
    """out (t, H) = FFN of this width, of one expert, of x (t, H); `out` may be x.

    Three matrices: down(silu(gate(x)) * up(x)). Two: down(relu(up(x))).
    """
    with ws.scope():
        inner = ws.take((len(x), width), x.dtype)
        if arch.spec.ffn_matrices == 3:
            both = (inner, ws.take((len(x), width), x.dtype))
            swiglu(w, EXPERT_MATRICES, x, both, out, expert, arch.transposed_down)
            return
        linear(w, "up", x, inner, expert * width)
        inner.relu_()
        linear(w, "down", inner, out, expert * out.shape[1])
