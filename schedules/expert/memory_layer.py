"""A sparse memory layer: sizes and work of a table of values that product keys address.

UltraMem (arXiv 2411.12364): a token takes m of the n values of a table. They stand in a grid of
sqrt(n) rows and columns; a query is scored with the sqrt(n) keys of the rows and those of the
columns, and of the best m rows and columns the m best crossings are taken. The sum of the values,
weighted by their scores, goes through E matrices back to the hidden size: implicit value expansion,
in which the table appears E times, each time seen through another matrix.

As summaries of the paper give it, for the text itself was not at hand: values are half as wide as
the hidden state, so that min(tokens x m, n) x h / 2 elements are read (section 4; table 2); E = 4
(table 5). The width of keys and query is that of product-key memories (arXiv 1907.05242; `k_dim` of
the authors' code), for the one of UltraMem's models (table 6) is in no summary. Simplified: scores
add up as in product-key memories, where UltraMem multiplies them through a 2 x 2 Tucker core; its
causal convolution of queries and their norm are left out.

By hand, one layer of Mixtral 8x7B (h = 4096, experts of 8 x 3 x 4096 x 14336 parameters): values of
2048, n = 688,128 of them, 830 rows and 830 columns. A token takes 84 values, 84 x 2048 x 2 B =
344,064 B. Keys and query: 256 x (2 x 830 + 4096) = 1,473,536 parameters, expansion 4 x 2048 x 4096
= 33,554,432, which stay on the GPU.
"""

import math
from functools import lru_cache

from schedules.layer import LayerWork
from schedules.model import LayerSpec
from schedules.task import Work

KEY_WIDTH = 256
"""Of a key, and of the query."""

EXPANSION = 4
"""Matrices of the implicit value expansion, E."""

ID_BYTES = 8
"""Of a value's number."""

SCORE_CALLS = 8
"""Launches: norm, query, scores of rows and of columns, their top m, the grid, its top m."""

SUM_CALLS = 2 + EXPANSION
"""Launches: the weighted sum, the matrices of the expansion, the residual."""


class MemoryLayer:
    """What stands in for the routed experts of a layer, with as many parameters in its table.

    Parameters
    ----------
    values: that a token takes, m.
    """

    def __init__(self, work: LayerWork, layer: LayerSpec, values: int) -> None:
        self.work = work
        self.layer = layer
        self.values = values
        self.hidden = work.model.hidden_size
        self.width = max(1, self.hidden // 2)
        self.n = layer.expert_pool_parameters // self.width
        self.rows = math.isqrt(self.n - 1) + 1  # and as many columns
        self.score = lru_cache(maxsize=None)(self._score)
        self.weighted_sum = lru_cache(maxsize=None)(self._weighted_sum)

    # -- sizes, in bytes ------------------------------------------------------------------------

    @property
    def table_bytes(self) -> float:
        """All values: as many as the experts had."""
        return self.work.expert_bytes(self.layer)

    @property
    def value_bytes(self) -> float:
        """One value, in the format in which the experts would be."""
        return self.table_bytes / self.n

    @property
    def key_parameters(self) -> int:
        """Keys of rows and columns, and the projection of the query."""
        return KEY_WIDTH * (2 * self.rows + self.hidden)

    @property
    def resident_bytes(self) -> float:
        """What stays on the GPU: keys, the query's projection and the expansion."""
        return (self.key_parameters + self._expansion) * self.work.b

    @property
    def _expansion(self) -> int:
        return EXPANSION * self.width * self.hidden

    def score_bytes(self, tokens: float) -> float:
        """Scores of so many tokens: of all rows and columns, and of the crossings of the best."""
        best = min(self.values, self.rows)
        return tokens * (2 * self.rows + best * best) * self.work.b

    def id_bytes(self, tokens: float) -> float:
        """Numbers of the values that so many tokens take."""
        return tokens * self.values * ID_BYTES

    def chosen_bytes(self, tokens: float) -> float:
        """Numbers of the values that so many tokens take, and their scores."""
        return tokens * self.values * (ID_BYTES + self.work.b)

    def distinct(self, tokens: float) -> float:
        """Expected values that at least one of so many tokens takes; all sets are equally likely.

        One token misses a value with probability 1 - m / n.
        """
        if tokens <= 1:
            return tokens * self.values
        return -self.n * math.expm1(tokens * math.log1p(-self.values / self.n))

    # -- work on the GPU ------------------------------------------------------------------------

    def _score(self, tokens: float) -> Work:
        """Norm, query, scores of the keys, and the best m values of each token.

        2 flops for each parameter of keys and query; scores are written and read once.
        """
        parameters = self.key_parameters + self.layer.ffn_norm_parameters
        moved = parameters * self.work.b + self.work.hidden_bytes(tokens)
        moved += 2 * self.score_bytes(tokens) + self.chosen_bytes(tokens)
        flops = 2 * tokens * self.key_parameters
        return self._on_gpu({"gemm": flops}, moved, SCORE_CALLS)

    def _weighted_sum(self, tokens: float) -> Work:
        """The sum of each token's values, the expansion, and the residual.

        2 m flops for each element of a value, and 2 for each parameter of the expansion. A token
        reads its own values, whether or not another one has taken them too.
        """
        flops = {
            "attention": 2 * tokens * self.values * self.width,
            "gemm": 2 * tokens * self._expansion,
        }
        moved = tokens * self.values * self.value_bytes + self.chosen_bytes(tokens)
        moved += (self._expansion + 2 * tokens * EXPANSION * self.width) * self.work.b
        moved += 2 * self.work.hidden_bytes(tokens)
        return self._on_gpu(flops, moved, SUM_CALLS)

    def _on_gpu(self, flops: dict[str, float], moved: float, calls: int) -> Work:
        return Work(
            device="gpu",
            dtype=self.work.model.dtype,
            flops=flops,
            bytes={"gpu": moved},
            calls=calls,
        )
