"""The work of an FFN with experts in parts: some on the CPU, some on the GPU, and added up.

By hand, Mixtral 8x7B in float16 (h = 4096, experts of 3 x 4096 x 14336), one token with both of its
experts on the CPU: weights 2 x 3 x 4096 x 14336 x 2 B = 704.6e6 B, read once; flops
2 rows x 2 x 3 x 4096 x 14336 = 704.6e6; activations 2 rows x (2 x 4096 + 3 x 14336) x 2 B =
204800 B. At 40 GB/s that takes 17.6 ms, and the weights alone decide.
"""

from schedules.kernels import CALLS
from schedules.layer_experts import ExpertWork
from schedules.model import LayerSpec
from schedules.task import Work


class ExpertParts(ExpertWork):
    """What `LayerWork` counts for the parts of an FFN that the CPU and the GPU share."""

    cpu_share: float
    _memo: dict[tuple[object, ...], Work]

    def cpu_experts(self, layer: LayerSpec, distinct: float, rows: float) -> Work:
        """`distinct` routed experts on the CPU for `rows` choices; weights are read in place, once.

        A row reads and writes as on the GPU: 2 h, and f for each matrix of width f. Each matrix is
        a parallel region of its own (`Kernels.cpu_experts` = loop), or all are one (fused).
        """
        inner = 2 * self.model.hidden_size + layer.ffn_matrices * layer.ffn_size / self.gpus
        moved = self._expert_use(distinct * layer.expert_parameters) + rows * inner * self.b
        flops = 2 * rows * layer.expert_parameters / self.gpus
        fused = self.kernels.cpu_experts == "fused"
        calls = 1 if fused else round(distinct * layer.ffn_matrices)
        calls += self._expert_unpack_calls(layer, distinct)
        key = ("cpu experts", flops, moved, calls)
        if key not in self._memo:
            self._memo[key] = Work(
                device="cpu",
                dtype=self.model.dtype,
                flops={"experts": flops},
                bytes={"cpu": moved},
                calls=calls,
                share=self.cpu_share,
            )
        return self._memo[key]

    def shared_experts(self, layer: LayerSpec, tokens: float) -> Work:
        """The experts that every token takes, on the GPU, with their gate.

        p parameters over h inputs: p / h activations between, beside h in and h out. By hand, one
        token of DeepSeek-V2-Lite (two of 3 x 2048 x 1408, bfloat16): 34.6e6 B of weights, 34.6e6
        flops, and (2 x 2048 + 8448) x 2 B of activations.
        """
        p, h = layer.shared_parameters / self.gpus, self.model.hidden_size
        moved = self._dense_use(layer.shared_parameters) + tokens * (2 * h + p / h) * self.b
        calls = CALLS["dense"] + self._unpack_calls(3)
        return self._gpu("shared", {"gemm": 2 * tokens * p}, moved, calls)

    def add_outputs(self, tokens: float, parts: int) -> Work:
        """Add `parts` outputs to the hidden states: each addition reads two and writes one."""
        return self._gpu("add", {}, 3 * parts * self.hidden_bytes(tokens), parts)

    def unpack(self, layer: LayerSpec, bits: tuple[int, ...], scale_bytes: float = 0.0) -> Work:
        """Write experts of so many bits a parameter out in the model's format, one kernel each.

        By hand, one of Mixtral's 176e6 parameters from 4 bits to float16: 88e6 B are read and
        352e6 written. `scale_bytes`: of a parameter's share of a scale, read too.
        """
        p = layer.expert_parameters / self.gpus
        moved = p * (sum(bits) / 8 + len(bits) * (scale_bytes + self.b))
        return self._gpu("unpack", {}, moved, len(bits))

    def sent_bytes(self, layer: LayerSpec, tokens: float) -> float:
        """What the CPU needs of tokens to compute their experts: hidden states, ids and weights."""
        return self.hidden_bytes(tokens) + self.routed_bytes(layer, tokens)
