"""What a micro-batch carries from step to step: its token ids and positions, on the device."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from runtime.memory import Memory
from schedules.batching import MicroBatch


@dataclass(frozen=True)
class MicroBatchState:
    """The tokens of one micro-batch: n sequences, t prompt tokens that follow one another.

    Parameters
    ----------
    prompt_ids, prompt_positions: (t,) on the device.
    last: (n,) the row of each prompt's last token.
    ids: (n,) the newest token of each sequence, which is not in the cache yet.
    positions: (n,) its position.
    requests: (n,) which prompts of the session these are.
    """

    batch: MicroBatch
    prompt_ids: Tensor
    prompt_positions: Tensor
    last: Tensor
    ids: Tensor
    positions: Tensor
    lengths: Tensor
    requests: Tensor

    @property
    def starts(self) -> list[int]:
        """The first row of each prompt."""
        return [0, *accumulate(self.batch.prompt_lengths)][:-1]

    def tokens(self, step: int) -> int:
        """Rows of the hidden states: prompt tokens in prefill (step 0), else sequences."""
        return self.batch.prompt_tokens if step == 0 else self.batch.size

    def contexts(self, step: int, first: int, stop: int) -> list[int]:
        """Cached tokens of sequences [first, stop) in a decode step, the newest included."""
        return [length + step for length in self.batch.prompt_lengths[first:stop]]


def make_state(
    batch: MicroBatch, prompts: list[list[int]], memory: Memory, device: torch.device
) -> MicroBatchState:
    """The state before prefill; `prompts` are all of the session, as token ids."""
    own = [prompts[request] for request in batch.requests]
    lengths = torch.tensor([len(prompt) for prompt in own])

    def put(values: Tensor) -> Tensor:
        made = memory.gpu_tensor("token ids", values.shape, torch.int64)
        return made.copy_(values)

    return MicroBatchState(
        batch,
        prompt_ids=put(torch.tensor([token for prompt in own for token in prompt])),
        prompt_positions=put(torch.cat([torch.arange(len(prompt)) for prompt in own])),
        last=put(lengths.cumsum(0) - 1),
        ids=put(torch.zeros_like(lengths)),
        positions=put(torch.zeros_like(lengths)),
        lengths=put(lengths),
        requests=put(torch.tensor(batch.requests)),
    )
