"""From logits to the next token, without asking the device anything.

A token depends on its logits, the seed, the index of its prompt and its position; not on the batch
that its prompt is in, nor on how often or in which order the sampler is called. For this,

* each (prompt, position) has one uniform number, from a counter-based generator whose key is the
  seed and the prompt's index (Philox, Salmon et al., SC 2011);
* probabilities are summed as whole numbers, which gives the same sum in every order. Cumulative
  sums of floats do not on a GPU, where the order follows from the number of rows.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from runtime.sampling_settings import Sampling

NOT_FINITE = -1
"""Stands for a token where the logits have no finite maximum: an overflow in the model."""

SCRATCH_BYTES = 64 * 2**20
BYTES_PER_LOGIT = 96
"""Tensors of the logits' size that live at once while sorting: float32 logits and differences (8),
weights (8), their sorted copies and indices (16), as much again for the sort's own buffers (32),
cumulative sums (8), a mask and its result (9); the rest is for the allocator's rounding."""


class Sampler(Protocol):
    """Chooses tokens.

    `logits` is (rows, vocab) on the device; `requests` (rows,) int64 on the device, the number
    within the batch of each row's prompt; `position` counts the generated tokens from 0, the one
    that prefill yields. Returns (rows,) int64 token ids; `NOT_FINITE` where the logits overflowed.
    """

    def __call__(self, logits: Tensor, requests: Tensor, position: int) -> Tensor:
        """Choose one token per row."""

    def scratch_bytes(self, rows: int, vocab: int) -> int:
        """The most device memory that one call takes beside its result."""


class Greedy:
    """The most likely token; among equals the one with the lowest id."""

    def __call__(self, logits: Tensor, requests: Tensor, position: int) -> Tensor:
        """Choose one token per row."""
        ids = logits.argmax(dim=-1)  # of a NaN where there is one
        best = logits.gather(-1, ids[:, None]).squeeze(-1)
        return torch.where(best.isfinite(), ids, NOT_FINITE)

    def scratch_bytes(self, rows: int, vocab: int) -> int:
        """A maximum, its index and a mask per row."""
        return 16 * rows


class Random:
    """Temperature, top-k and top-p sampling by inversion of the distribution function.

    Parameters
    ----------
    indices: of the batch's prompts, in the whole run.
    gen_len: tokens that each prompt generates.
    scratch_bytes: rows are processed in chunks of about this much memory (at least one row).
    """

    def __init__(
        self,
        sampling: Sampling,
        indices: Sequence[int],
        gen_len: int,
        device: torch.device | str = "cpu",
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> None:
        self.sampling = sampling
        self._limit = scratch_bytes
        table = uniforms(sampling.seed, indices, gen_len)
        self._uniform = torch.from_numpy(table).T.contiguous().to(device)  # (gen_len, n)

    def __call__(self, logits: Tensor, requests: Tensor, position: int) -> Tensor:
        """Choose one token per row."""
        rows, vocab = logits.shape
        uniform = self._uniform[position].index_select(0, requests)[:, None]
        ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
        for start in range(0, rows, self._chunk(vocab)):
            part = slice(start, start + self._chunk(vocab))
            ids[part] = self._draw(logits[part], uniform[part])
        return ids

    def scratch_bytes(self, rows: int, vocab: int) -> int:
        """That of one chunk of rows, and the uniform numbers."""
        return min(rows, self._chunk(vocab)) * vocab * BYTES_PER_LOGIT + 8 * rows

    def _chunk(self, vocab: int) -> int:
        return max(1, self._limit // (vocab * BYTES_PER_LOGIT))

    def _draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        scores = logits.float()  # (rows, vocab)
        best = scores.amax(dim=-1, keepdim=True)
        scores = _top_k(scores, self.sampling.top_k)
        scale = 2.0 ** (62 - logits.shape[-1].bit_length())  # the sum stays below 2^62
        weights = ((scores - best) / self.sampling.temperature).exp_().mul_(scale).long()
        weights = _top_p(weights, self.sampling)
        sums = weights.cumsum(dim=-1)
        total = sums[:, -1:]
        target = torch.minimum((uniform * total).long(), total - 1)
        ids = torch.searchsorted(sums, target, right=True)  # the first whose sum is above
        return torch.where(best.isfinite(), ids, NOT_FINITE).squeeze(-1)


def _top_k(scores: Tensor, k: int | None) -> Tensor:
    """The k highest scores, and any equal to the lowest of them; the others become -inf."""
    if k is None or k >= scores.shape[-1]:
        return scores
    lowest = scores.topk(k, dim=-1).values[:, -1:]
    return scores.masked_fill(scores < lowest, -torch.inf)


def _top_p(weights: Tensor, sampling: Sampling) -> Tensor:
    """The fewest heaviest weights that hold a share p, and any equal to the lightest of them."""
    if sampling.top_p is None or sampling.top_p == 1:
        return weights
    k = sampling.top_k
    if k is not None and k < weights.shape[-1]:
        heaviest = weights.topk(k, dim=-1).values
    else:
        heaviest = weights.sort(dim=-1, descending=True).values
    share = (weights.sum(dim=-1, keepdim=True).double() * sampling.top_p).ceil().long()
    last = torch.searchsorted(heaviest.cumsum(dim=-1), share)  # the first whose sum is enough
    lightest = heaviest.gather(-1, last.clamp_(max=heaviest.shape[-1] - 1))
    return weights.masked_fill(weights < lightest, 0)


def uniforms(seed: int, indices: Sequence[int], gen_len: int) -> np.ndarray[Any, Any]:
    """Uniform numbers in [0, 1) for each prompt and position: (len(indices), gen_len) float64.

    A longer generation has the same numbers first.
    """
    table = np.empty((len(indices), gen_len))
    for row, index in zip(table, indices, strict=True):
        key = np.array([seed, index], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).random(out=row)
    return table


def make_sampler(
    sampling: Sampling, indices: Sequence[int], gen_len: int, device: torch.device | str = "cpu"
) -> Sampler:
    """The sampler of one batch, whose prompts have these indices in the whole run."""
    return Greedy() if sampling.greedy else Random(sampling, indices, gen_len, device)
