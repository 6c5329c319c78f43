"""Verifying a method whose function depends on what its caches held: by the run's own decisions.

They are kept in memory while a run goes on, not in its journal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runtime.batches import Batch
from runtime.changes_hobbit import Decisions, MixedPrecision
from runtime.journal import Finished
from runtime.verify import Verification, plain_reference, verify
from runtime.weights import WeightSource
from schedules.errors import BadInput
from schedules.expert.hobbit_stores import MixedPrecision as MixedPrecisionSchedule
from schedules.schedule import Schedule


class Decided:
    """The decisions of a run's batches, by sequence."""

    def __init__(self) -> None:
        self._of: dict[int, Decisions] = {}

    def note(self, batch: Batch, schedule: Schedule) -> None:
        """A batch begins; its schedule will know what it has decided."""
        if isinstance(schedule, MixedPrecisionSchedule):
            self._of |= dict.fromkeys(batch.indices, schedule.decisions)

    def of(self, index: int) -> Decisions:
        """The decisions for a sequence. Raises `BadInput` where an earlier call has made them."""
        if index not in self._of:
            raise BadInput(
                f"--verify cannot judge sequence {index}, which was finished by an earlier call: "
                "which of its experts ran in 4 bits is not kept; leave --verify out, or run all in "
                "another folder"
            )
        return self._of[index]


def verify_decided(
    decided: Decided,
    source: WeightSource,
    prompts: Sequence[Sequence[int]],
    sequences: Sequence[Finished],
    gen_len: int,
    eos_token_ids: Collection[int],
) -> Verification:
    """As `verify`, each sequence with the plain model changed as its batch was."""
    spec, every = source.architecture.spec, [decided.of(s.index) for s in sequences]
    parts = []
    for sequence, decisions in zip(sequences, every, strict=True):
        prompt_tokens = None if spec.is_encoder_decoder else len(prompts[sequence.index])
        change = MixedPrecision(decisions, prompt_tokens)
        reference = plain_reference(source, change.anew)
        parts.append(verify(reference, prompts, [sequence], gen_len, eos_token_ids, spec.dtype))
    return Verification(
        reference=parts[0].reference,
        sequences=len(parts),
        tokens=sum(part.tokens for part in parts),
        differences=tuple(d for part in parts for d in part.differences),
    )
