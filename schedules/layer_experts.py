"""The work of single experts, for schedules that run them one by one over a pool of tokens."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from schedules.kernels import CALLS
from schedules.layer_sizes import LayerSizes
from schedules.model import LayerSpec
from schedules.routing import Routing
from schedules.task import Work


class ExpertWork(LayerSizes, ABC):
    """What `LayerWork` counts for a layer's routed experts as a whole, expert by expert.

    Over all experts and with `combine`, flops and bytes are those of `routed_experts`.
    """

    routing: Routing

    def one_expert(self, layer: LayerSpec, rows: tuple[int, ...]) -> Work:
        """One expert in several calls, of so many rows each; every call reads its weights.

        By hand, Mixtral 8x7B in float16 with calls of 3 and 2 rows: 2 x 2 x 3 x 4096 x 14336 B of
        weights; 5 rows of 2 x 4096 elements in and out and 3 x 14336 between; 5 x 2 x 3 x 4096 x
        14336 flops.
        """
        tile = 1
        if self.kernels.experts == "fused":
            tile = self.kernels.rows_per_tile(sum(rows), layer.n_experts)
        padded = sum(-(-count // tile) * tile for count in rows)
        return self._expert(layer, sum(rows), padded, len(rows))

    def _expert(self, layer: LayerSpec, rows: float, padded: float, calls: float) -> Work:
        """`rows` are read and written, `padded` are computed; each call reads the weights."""
        inner = 2 * self.model.hidden_size + layer.ffn_matrices * layer.ffn_size / self.gpus
        weights = self._expert_use(calls * layer.expert_parameters)
        flops = 2 * padded * layer.expert_parameters / self.gpus
        kind = "experts" if self.kernels.experts == "fused" else "gemm"
        moved = weights + rows * inner * self.b
        launches = max(1, round(CALLS["per_expert"] * calls))
        launches += self._expert_unpack_calls(layer, calls)
        return self._gpu("expert", {kind: flops}, moved, launches)

    def mean_expert(self, layer: LayerSpec, tokens: float, most: float) -> Work:
        """One expert as all are on average, for `tokens` tokens in calls of at most `most` rows.

        By hand, Mixtral 8x7B with 1200 tokens and calls of 200 rows: 1200 x 2 / 8 = 300 rows, two
        calls, each of which reads its weights. One token takes an expert with probability 1 / 4, so
        it is a quarter of a row, and a quarter of its weights is read.
        """
        experts, where = (layer.n_experts, layer.top_k), (layer.stack, layer.index)
        rows = padded = tokens * layer.choices / layer.n_experts
        if self.kernels.experts == "fused":
            tile = self.kernels.rows_per_tile(tokens * layer.choices, layer.n_experts)
            every = self.routing.expected_rows(tokens, *experts, tile, *where, kept=layer.kept)
            padded = every / layer.n_experts
        distinct = self.routing.expected_distinct(tokens, *experts, *where, kept=layer.kept)
        touched = distinct / layer.n_experts
        return self._expert(layer, rows, padded, touched * max(1, math.ceil(rows / most)))

    def combine(self, layer: LayerSpec, tokens: float) -> Work:
        """The shared experts, if there are any, and the residual."""
        own = layer.shared_parameters
        moved = self._dense_use(own) + 2 * self.hidden_bytes(tokens)
        flops = {"gemm": 2 * tokens * own / self.gpus}
        calls = 1 + (CALLS["dense"] + self._unpack_calls(3) if own else 0)
        return self._gpu("combine", flops, moved, calls)

    # -- weights in fewer bits ------------------------------------------------------------------

    def _expert_use(self, parameters: float) -> float:
        """Bytes that a use of so many parameters of experts moves on each GPU."""
        return parameters / self.gpus * (self.expert_b + self.expert_unpacking)

    def _dense_use(self, parameters: float) -> float:
        """The same for attention and shared experts."""
        return parameters / self.gpus * (self.dense_b + self.dense_unpacking)

    def _expert_unpack_calls(self, layer: LayerSpec, experts: float) -> int:
        """Launches that write out each matrix of so many experts."""
        return round(experts * layer.ffn_matrices) if self.expert_unpacking else 0

    def _unpack_calls(self, matrices: int) -> int:
        """Launches that write out so many dense matrices."""
        return matrices if self.dense_unpacking else 0

    @abstractmethod
    def _gpu(self, op: str, flops: Mapping[str, float], moved: float, calls: int) -> Work: ...
