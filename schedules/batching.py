"""Requests into micro-batches of nearly equal token counts (MoE-Lightning's request batching)."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from schedules.errors import BadInput
from schedules.lengths import positive_int


@dataclass(frozen=True)
class MicroBatch:
    """The requests that are computed together.

    `index` counts from 0; `prompt_lengths` has one entry per request, in tokens; `requests` says
    which they are, counted from 0 in the order in which they were given.
    """

    index: int
    prompt_lengths: tuple[int, ...]
    requests: tuple[int, ...] = field(default=(), compare=False)

    @cached_property
    def size(self) -> int:
        """Number of requests."""
        return len(self.prompt_lengths)

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts together: the rows of prefill's matrix products."""
        return sum(self.prompt_lengths)

    @cached_property
    def longest(self) -> int:
        """Longest prompt in tokens."""
        return max(self.prompt_lengths)

    @cached_property
    def sum_of_squares(self) -> int:
        """Sum of squared prompt lengths in tokens^2: the query-context pairs of full attention."""
        return sum(length * length for length in self.prompt_lengths)


def balance(lengths: Sequence[int], micro_batch_size: int) -> tuple[MicroBatch, ...]:
    """Distribute requests so that micro-batches hold about as many tokens each.

    Longest first, each request joins the micro-batch with the fewest tokens among those that still
    have room, the lowest index among equals. `lengths` are prompt lengths in tokens; there are
    ceil(n / micro_batch_size) micro-batches of at most `micro_batch_size` requests, none empty.
    Takes O(n log n) time.

    The paper also leaves a request for the next batch when its micro-batch's prompts and
    generations would exceed the KV cache. Here the whole batch runs: whether its cache fits is for
    the caller to check, with the policy.

    Raises `BadInput` for no requests, or a length or size that is not a whole number above 0.

    Source: MoE-Lightning (arXiv 2411.11217), appendix A.2, algorithm 2.

    >>> [batch.prompt_lengths for batch in balance([3, 9, 4, 8], micro_batch_size=2)]
    [(9, 3), (8, 4)]
    """
    mu = positive_int(micro_batch_size, "the micro-batch size")
    return spread(lengths, -(-len(lengths) // mu), mu)


def spread(lengths: Sequence[int], count: int, room: int) -> tuple[MicroBatch, ...]:
    """The rule of `balance` for a given number of micro-batches of at most `room` requests each.

    Raises `BadInput` for no requests, fewer requests than micro-batches, or too little room.

    >>> [batch.prompt_lengths for batch in spread([3, 9, 4, 8], count=3, room=2)]
    [(9,), (8,), (4, 3)]
    """
    mu = positive_int(room, "the micro-batch size")
    if not lengths:
        raise BadInput("there are no requests to batch; give at least one prompt length")
    if not len(lengths) / mu <= count <= len(lengths):
        raise BadInput(f"{len(lengths)} requests do not fill {count} micro-batches of at most {mu}")
    sizes = [positive_int(length, "a prompt length") for length in lengths]
    contents: list[list[int]] = [[] for _ in range(count)]
    with_room = [(0, index) for index in range(len(contents))]  # (tokens, index), a heap
    for request in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        length = sizes[request]
        tokens, index = with_room[0]
        contents[index].append(request)
        if len(contents[index]) < mu:
            heapq.heapreplace(with_room, (tokens + length, index))
        else:
            heapq.heappop(with_room)
    return tuple(
        MicroBatch(index, tuple(sizes[r] for r in held), tuple(held))
        for index, held in enumerate(contents)
    )
