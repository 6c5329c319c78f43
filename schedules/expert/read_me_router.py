"""Read-ME's router: a small transformer before the model, and the batches that its choices allow.

Read-ME (arXiv 2410.19123), table 1: one layer, four heads, embeddings and features of 512, an MLP
of 512 with SwiGLU: 18.0 M parameters with a vocabulary of 32,000. By hand, for eight experts:
32,000 x 512 + (4 + 3) x 512^2 + 512 x 8 = 18,223,104. Norms are left out.
"""

from collections.abc import Sequence
from functools import lru_cache

from schedules.batching import MicroBatch
from schedules.kernels import CALLS
from schedules.layer import LayerWork
from schedules.task import Work

WIDTH = 512
"""Of embeddings, features and MLP (table 1)."""

LAYER = (4 + 3) * WIDTH * WIDTH
"""Parameters of its layer: query, key, value and output; gate, up and down."""

ROUTER_CALLS = sum(CALLS[part] for part in ("embedding", "qkv", "attention", "out", "dense"))
"""Kernel launches of its layer; its head does what a layer's router does."""


class Router:
    """Sizes and work of the router, on the GPU, in the model's number format."""

    def __init__(self, work: LayerWork, n_experts: int) -> None:
        self.work = work
        self.n_experts = n_experts
        self.matrices = LAYER + WIDTH * n_experts
        self.route_prompts = lru_cache(maxsize=None)(self._route_prompts)
        self.route_tokens = lru_cache(maxsize=None)(self._route_tokens)

    @property
    def parameters(self) -> int:
        """With its own embeddings."""
        return self.work.model.vocab_size * WIDTH + self.matrices

    @property
    def weight_bytes(self) -> float:
        """Its weights."""
        return self.parameters * self.work.b

    def kv_bytes(self, tokens: float) -> float:
        """Its cached keys and values of so many tokens."""
        return 2 * WIDTH * tokens * self.work.b

    def _route_prompts(self, batch: MicroBatch) -> Work:
        """Every token of the prompts, causal: half of the pairs."""
        tokens = batch.prompt_tokens
        return self._route(tokens, batch.sum_of_squares / 2, tokens)

    def _route_tokens(self, sequences: float, context: float) -> Work:
        """A new token of each sequence; `context` tokens cached, summed over the sequences."""
        return self._route(sequences, context, context)

    def _route(self, tokens: float, pairs: float, cached: float) -> Work:
        """2 flops for each parameter of the matrices, 4 x 512 for each pair of tokens."""
        flops = {"gemm": 2 * tokens * self.matrices, "attention": 4 * WIDTH * pairs}
        moved = (self.matrices + 2 * tokens * WIDTH) * self.work.b + self.kv_bytes(cached)
        return Work(
            device="gpu",
            dtype=self.work.model.dtype,
            flops=flops,
            bytes={"gpu": moved},
            calls=ROUTER_CALLS + CALLS["router"],
        )


def batches_by_expert(needs: Sequence[tuple[int, ...]], most: int) -> list[list[int]]:
    """Requests in batches of at most `most` tokens, one token each, that share experts.

    `needs` has the experts of each request. The longest queue of requests with the same experts
    goes first, of equals the one that began first, and what room it leaves is filled from the next
    longest; what is left of a queue waits for the next batch. Source: Read-ME, algorithm 1.

    >>> batches_by_expert([(0,), (1,), (1,), (2,), (1,), (0,)], most=3)
    [[1, 2, 4], [0, 5, 3]]
    """
    queues: dict[tuple[int, ...], list[int]] = {}
    for request, experts in enumerate(needs):
        queues.setdefault(experts, []).append(request)
    batches: list[list[int]] = []
    while queues:
        batch: list[int] = []
        while queues and len(batch) < most:
            longest = max(queues, key=lambda experts: len(queues[experts]))
            room = most - len(batch)
            queue = queues.pop(longest)
            batch += queue[:room]
            if queue[room:]:
                queues[longest] = queue[room:]
        batches.append(batch)
    return batches
