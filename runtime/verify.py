"""Are the tokens those of the reference implementation?

For each generated token the reference reads the prompt and the tokens before it, and is asked what
it would choose. If it agrees everywhere, its own greedy generation is the same, token by token.
Where it does not, the sequence is followed on: the later tokens are judged by their own past.

The reference is `transformers` for a checkpoint, `plain.plain_logits` for random weights.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.changes import MakeChange, no_change
from runtime.environment import package_version
from runtime.journal import Finished
from runtime.plain import plain_logits
from runtime.progress import Meter, Silent
from runtime.verify_encoder_decoder import plain_seq2seq_logits, transformers_seq2seq_logits
from runtime.weights import WeightSource
from schedules.errors import BadInput, MoelabError
from schedules.task import DType

TOLERANCE_EPS = {"float32": 16, "float16": 8, "bfloat16": 8}
"""How far apart two logits may be and still be a tie: units of the dtype's machine epsilon times
the largest logit. Transformers differs from itself, reading a sequence at once or with a KV cache,
by 4 such units per logit in float32 and 1 in the others (median over 32 positions of a random
Mixtral with 4 and 16 layers on a CPU), and twice that between two logits; twice that again in
float32, and more in the others, where a gate's near-tie makes single positions differ by 6 units.
"""


@dataclass(frozen=True)
class Reference:
    """Something that knows the right logits.

    `logits(ids, n)`: those after each of the last `n` of the token ids, (n, vocab) on the CPU.
    """

    name: str
    logits: Callable[[Sequence[int], int], Tensor]


@dataclass(frozen=True)
class Difference:
    """A token that the reference would not choose.

    Parameters
    ----------
    index, position: of the prompt; of the token among the generated ones, from 0.
    token, reference: ours and the reference's.
    gap: how much higher the reference's logit of its token is than of ours.
    best_gap: between the reference's two highest logits.
    tolerance: the gap up to which it is a tie.
    """

    index: int
    position: int
    token: int
    reference: int
    gap: float
    best_gap: float
    tolerance: float

    @property
    def is_tie(self) -> bool:
        """Whether rounding explains it."""
        return self.gap <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """What came of a comparison; `differences` are near-ties and others, in order."""

    reference: str
    sequences: int
    tokens: int
    differences: tuple[Difference, ...]

    @property
    def ties(self) -> int:
        """Tokens that differ by rounding."""
        return sum(d.is_tie for d in self.differences)

    @property
    def differing(self) -> int:
        """Tokens that differ by more."""
        return len(self.differences) - self.ties

    @property
    def ok(self) -> bool:
        """Whether no token differs by more than rounding."""
        return self.differing == 0

    @property
    def sentence(self) -> str:
        """The outcome for a person."""
        equal = self.tokens - len(self.differences)
        of = f"tokens of {_count(self.sequences, 'sequence')}"
        if not self.differences:
            return f"all {self.tokens} {of} equal those of {self.reference}"
        text = f"{equal} of {self.tokens} {of} equal those of {self.reference}"
        if self.ties:
            worst = max((d for d in self.differences if d.is_tie), key=lambda d: d.gap)
            text += (
                f"; {_count(self.ties, 'near-tie')} (largest gap {worst.gap:.2g}, tolerance "
                f"{worst.tolerance:.2g})"
            )
        for first in [d for d in self.differences if not d.is_tie][:1]:
            text += (
                f"; {_count(self.differing, 'other token')}, first in sequence {first.index} at "
                f"position {first.position}: {first.token}, the reference chooses "
                f"{first.reference} (gap {first.gap:.2g}, tolerance {first.tolerance:.2g}, its two "
                f"best are {first.best_gap:.2g} apart)"
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {
            "ok": self.ok,
            "reference": self.reference,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "ties": self.ties,
            "differing": self.differing,
            "sentence": self.sentence,
        }
        rows = [asdict(d) | {"is_tie": d.is_tie} for d in self.differences]
        return values | {"differences": rows}


def verify(
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    sequences: Sequence[Finished],
    gen_len: int,
    eos_token_ids: Collection[int],
    dtype: DType,
    meter: Meter | None = None,
) -> Verification:
    """Compare greedy tokens with the reference's, one sequence after another.

    `dtype` is that of the run, for the tolerance (`TOLERANCE_EPS`). Raises `MoelabError` for a
    sequence that ends too early or goes on after its end.
    """
    meter = meter or Silent()
    meter.phase("verifying")
    differences: list[Difference] = []
    for sequence in sequences:
        _check_end(sequence, gen_len, frozenset(eos_token_ids))
        ids = [*prompts[sequence.index], *sequence.token_ids[:-1]]
        logits = reference.logits(ids, len(sequence.token_ids)).float()
        differences += compare(sequence, logits, dtype)
        meter.advance(len(sequence.token_ids))
    tokens = sum(len(s.token_ids) for s in sequences)
    return Verification(reference.name, len(sequences), tokens, tuple(differences))


def compare(sequence: Finished, logits: Tensor, dtype: DType) -> list[Difference]:
    """Tokens that do not have the highest of the reference's `logits` (n, vocab), float32.

    Of several highest logits any is right: order of sums decides.
    """
    ours = torch.tensor(sequence.token_ids)
    gaps = logits.max(dim=-1).values - logits.gather(-1, ours[:, None])[:, 0]
    factor = TOLERANCE_EPS[dtype] * torch.finfo(getattr(torch, dtype)).eps
    found = []
    for position in torch.nonzero(~(gaps <= 0)).flatten().tolist():  # NaN differs
        row = logits[position]
        best = row.topk(2) if len(row) > 1 else row.topk(1)
        found.append(
            Difference(
                index=sequence.index,
                position=position,
                token=int(ours[position]),
                reference=int(best.indices[0]),
                gap=float(gaps[position]),
                best_gap=float(best.values[0] - best.values[-1]),
                tolerance=factor * float(row.abs().max()),
            )
        )
    return found


def transformers_reference(folder: Path, dtype: DType) -> Reference:
    """The model of a checkpoint folder in `transformers`, on the CPU, computed in `dtype`.

    Needs memory for all weights. Raises `BadInput` where the library cannot load it.
    """
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # of loading
    try:
        logits = _transformers_logits(folder, getattr(torch, dtype))
    except Exception as error:  # the library raises what its many parts raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(f"'{folder}' cannot be verified, transformers says: {text}") from None

    return Reference(f"transformers {package_version('transformers')} ({dtype}, CPU)", logits)


def _transformers_logits(
    folder: Path, dtype: torch.dtype
) -> Callable[[Sequence[int], int], Tensor]:
    from transformers import AutoModelForCausalLM

    traits = Architecture.from_folder(folder).encoder_decoder
    if traits is not None:
        return transformers_seq2seq_logits(folder, dtype, traits.start_token)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, trust_remote_code=False
    ).eval()

    def logits(ids: Sequence[int], n: int) -> Tensor:
        with torch.inference_mode():
            out = model(torch.tensor([list(ids)]), use_cache=False, logits_to_keep=n)
            return out.logits[0, -n:]

    return logits


def plain_reference(source: WeightSource, make_change: MakeChange = no_change) -> Reference:
    """The plain model of the runtime, for weights or gates that no other implementation knows.

    `make_change`: what a method computes instead, anew for each sequence.
    """
    spec = source.architecture.spec
    modified = spec.quantisation is not None or spec.skip_below > 0
    changed = " changed alike" if modified or make_change() is not None else ""
    name = f"the plain model{changed} ({spec.dtype}, CPU)"
    if source.architecture.encoder_decoder is not None:
        return Reference(name, plain_seq2seq_logits(source, make_change))
    return Reference(name, lambda ids, n: plain_logits(source, ids, make_change())[-n:])


def _check_end(sequence: Finished, gen_len: int, eos: frozenset[int]) -> None:
    stops = [i for i, token in enumerate(sequence.token_ids, 1) if token in eos]
    right = min([*stops, gen_len])
    if len(sequence.token_ids) != right:
        raise MoelabError(
            f"sequence {sequence.index} has {len(sequence.token_ids)} tokens; its end is after "
            f"{right}"
        )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
