"""HOBBIT in the plainest form: some experts of a layer in 4 bits, some skipped.

Which ones depends on what its caches held, so a run's own decisions are given. As HOBBIT has it, an
expert runs in one precision for all tokens of a step. Where a choice is skipped, the token's other
choices keep their weights, which then sum to less than before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from runtime.architecture_shapes import EXPERT_MATRICES
from runtime.changes import Change, PlainModel
from runtime.functions import experts, route, shared
from runtime.packing import pack_rows, unpack_rows
from runtime.pieces import LayerWeights, Piece
from schedules.expert.hobbit_precision import LOW_BITS, group_of
from schedules.expert.hobbit_stores import Wanted
from schedules.layout import layer_at

Decisions = Mapping[tuple[int, int], Wanted]
"""By step (0: prefill) and the decoder's layer: experts in the model's format, and in 4 bits."""

HIGH, LOW, SKIPPED = 0, 1, 2


class MixedPrecision(Change):
    """What a run of HOBBIT has computed.

    Parameters
    ----------
    prompt_tokens: of a sequence that is read at once, its generated tokens included; None: every
        pass is a step.
    """

    def __init__(self, decisions: Decisions, prompt_tokens: int | None = None) -> None:
        self.decisions, self.prompt_tokens = decisions, prompt_tokens
        self.passes = 0
        self.packed: dict[int, LayerWeights] = {}  # experts that went through 4 bits, by layer

    def anew(self) -> MixedPrecision:
        """The same for another generation; experts that went through 4 bits are kept."""
        made = MixedPrecision(self.decisions, self.prompt_tokens)
        made.packed = self.packed
        return made

    def begin(self, plain: PlainModel, ids: Tensor, positions: Tensor) -> None:
        if self.prompt_tokens is None:
            self.steps = torch.full_like(positions, self.passes)
        else:
            self.steps = (positions - self.prompt_tokens + 1).clamp(min=0)
        self.passes += 1

    def ffn(
        self,
        plain: PlainModel,
        layer: int,
        hidden: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        if layer not in plain.blocks:
            super().ffn(plain, layer, hidden, lengths)
            return
        arch, ws, w = plain.arch, plain.workspace, plain.layers[layer]
        with ws.scope():
            normed, ids, gates = route(arch, w, hidden, ws, lengths)
            precision = self._precision(plain, layer, ids)
            for form, weights in ((HIGH, w), (LOW, self._low(plain, layer))):
                experts(arch, weights, normed, ids, gates * (precision == form), hidden, ws)
            shared(arch, w, normed, hidden, ws)

    def _precision(self, plain: PlainModel, layer: int, ids: Tensor) -> Tensor:
        """In which form each choice (t, k) counts."""
        steps = self.steps.unique().tolist()
        table = torch.full((len(steps), plain.arch.spec.n_experts), SKIPPED)
        for row, step in zip(table, steps, strict=True):
            wanted = self.decisions[step, layer]
            row[wanted.high], row[wanted.low] = HIGH, LOW
        place = torch.searchsorted(torch.tensor(steps), self.steps)
        return table[place.unsqueeze(1), ids]

    def _low(self, plain: PlainModel, layer: int) -> LayerWeights:
        """The layer's experts as they are after 4 bits."""
        if layer not in self.packed:
            w, model = plain.layers[layer], plain.arch.spec
            group, n_experts = group_of(model, layer_at(model, layer)), model.n_experts
            matrices = {}
            for name in (name for name in EXPERT_MATRICES if name in w.matrices):
                every = [plain.source.matrix(layer, name, e) for e in range(n_experts)]
                rows = torch.cat([through_4_bits(matrix, group) for matrix in every])
                matrices[name] = (Piece(0, len(rows), rows),)
            self.packed[layer] = LayerWeights(matrices, w.vectors)
        return self.packed[layer]


def through_4_bits(matrix: Tensor, group: int) -> Tensor:
    """A matrix as it is after it was packed, in its own format."""
    out = torch.empty_like(matrix)
    unpack_rows(pack_rows(matrix, LOW_BITS, group), LOW_BITS, group, out)
    return out
