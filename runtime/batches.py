"""The prompts of a run in batches, and the sequences of a batch while they grow."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.journal import Finished
from schedules.errors import MoelabError
from schedules.lengths import positive_int
from schedules.policy import Policy
from schedules.schedule import Schedule

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Prompts that are computed together: one session.

    `number` counts the batches from 0, `first` is the index of its first prompt in the whole run.
    """

    number: int
    first: int
    prompts: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def indices(self) -> range:
        """Of its prompts, in the whole run."""
        return range(self.first, self.first + len(self.prompts))


def split(prompts: Sequence[tuple[int, ...]], batch_size: int) -> tuple[Batch, ...]:
    """The prompts in their order, `batch_size` at a time; the last batch may be smaller.

    >>> [list(batch.indices) for batch in split([(1,), (2, 3), (4,)], 2)]
    [[0, 1], [2]]
    """
    size = positive_int(batch_size, "the batch size N")
    starts = range(0, len(prompts), size)
    return tuple(Batch(i, s, tuple(prompts[s : s + size])) for i, s in enumerate(starts))


def policy_for(policy: Policy, kind: type[Schedule], batch: Batch) -> Policy:
    """The policy with N the size of this batch, and mu at most that (all of it where the schedule
    runs the batch as one)."""
    n = len(batch)
    return policy.model_copy(update={"N": n, "mu": n if kind.one_batch else min(policy.mu, n)})


class Sequences:
    """The tokens of one batch while it is generated.

    Parameters
    ----------
    gen_len: tokens of each sequence at most.
    eos_token_ids: a sequence ends with the first of these.
    known: sequences by index that were finished before; they are computed again, not handed out
        again, and compared.
    """

    def __init__(
        self,
        batch: Batch,
        gen_len: int,
        eos_token_ids: Collection[int],
        known: Mapping[int, Finished],
    ) -> None:
        self._batch = batch
        self._eos = np.array(sorted(eos_token_ids), dtype=np.int64)
        self._tokens: IntArray = np.zeros((len(batch), gen_len), dtype=np.int64)
        self._known: IntArray = np.full((len(batch), gen_len), -1, dtype=np.int64)
        self._open = np.ones(len(batch), dtype=bool)
        self._differs = np.zeros(len(batch), dtype=bool)
        self.positions = 0
        for row, index in enumerate(batch.indices):
            if index in known:
                token_ids = known[index].token_ids
                self._known[row, : len(token_ids)] = token_ids
                self._open[row] = False

    @property
    def done(self) -> bool:
        """Whether every sequence is finished."""
        return not self._open.any()

    @property
    def differing(self) -> int:
        """Known sequences for which other tokens came out this time."""
        return int(self._differs.sum())

    def add(self, ids: IntArray) -> list[Finished]:
        """Take the next token of every sequence; returns those that are finished by it.

        Raises `MoelabError` where a token is `sampling.NOT_FINITE`.
        """
        self._check(ids)
        position = self.positions
        self._tokens[:, position] = ids
        self.positions += 1
        known = self._known[:, position]
        self._differs |= (known >= 0) & (known != ids)
        stops = np.isin(ids, self._eos)
        full = self.positions == self._tokens.shape[1]
        rows = np.flatnonzero(self._open & (stops | full))
        self._open[rows] = False
        return [
            Finished(
                self._batch.first + int(row),
                tuple(self._tokens[row, : self.positions].tolist()),
                "stop" if stops[row] else "length",
            )
            for row in rows
        ]

    def _check(self, ids: IntArray) -> None:
        wrong = np.flatnonzero(ids < 0)
        if len(wrong):
            raise MoelabError(
                f"the logits of prompt {self._batch.first + int(wrong[0])} (counted from 0) for "
                f"generated token {self.positions} are not finite: weights that hold NaN, or an "
                "overflow, most likely of float16; try --dtype bfloat16 or float32"
            )
