"""Methods that change the function: what they compute instead of a layer's own FFN with experts.

Each stands here in the plainest way, for `runtime.plain`: a schedule that changes the function must
give the tokens of a plain model changed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from runtime.architecture import Architecture
from runtime.functions import experts, ffn, route, shared
from runtime.functions.norms import norm
from runtime.functions.router import Routed
from runtime.pieces import LayerWeights
from runtime.predictor import PredictorNetwork
from runtime.weights import WeightSource
from runtime.workspace import Workspace
from schedules.errors import BadInput
from schedules.policy import Policy
from schedules.schedule import Schedule


class PlainModel(Protocol):
    """What a change needs of a plain model.

    `layers` have the numbers of `schedules.layout`; `blocks` are the decoder's with experts.
    """

    arch: Architecture
    source: WeightSource
    layers: list[LayerWeights]
    blocks: list[int]
    workspace: Workspace


class Change:
    """Changes nothing; the base of all that do. One serves one generation."""

    def begin(self, plain: PlainModel, ids: Tensor, positions: Tensor) -> None:
        """A pass over a stack of layers begins: token ids (t,) and their positions (t,).

        The rows of a pass over prompts are those of one prompt after another.
        """

    def ffn(
        self,
        plain: PlainModel,
        layer: int,
        hidden: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Add the FFN of a layer with experts to hidden (t, H); `lengths`: see `route`."""
        ffn(plain.arch, plain.layers[layer], hidden, plain.workspace, lengths=lengths)


class GatesAhead(Change):
    """Pre-gated MoE: a block's gate names the experts of the block `level` further on.

    The first `level` blocks have their own gates beside.
    """

    def __init__(self, level: int) -> None:
        self.level = level
        self.named: dict[int, Routed] = {}  # by the layer whose experts they are

    def begin(self, plain: PlainModel, ids: Tensor, positions: Tensor) -> None:
        self.ahead = dict(zip(plain.blocks, plain.blocks[self.level :], strict=False))

    def ffn(
        self,
        plain: PlainModel,
        layer: int,
        hidden: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        target = self.ahead.get(layer)
        if target is not None:
            with plain.workspace.scope():
                chosen = route(plain.arch, plain.layers[target], hidden, plain.workspace)
                self.named[target] = Routed(*(part.clone() for part in chosen))
        if layer in self.named:
            named_ffn(plain, layer, hidden, self.named.pop(layer))
        else:
            super().ffn(plain, layer, hidden, lengths)


def named_ffn(plain: PlainModel, layer: int, hidden: Tensor, chosen: Routed) -> None:
    """Add what the experts make that something else than the layer's gate has named."""
    arch, ws, w = plain.arch, plain.workspace, plain.layers[layer]
    with ws.scope():
        normed = ws.take(hidden.shape, hidden.dtype)
        norm(arch, hidden, w.vectors["ffn_norm"], normed)
        experts(arch, w, normed, chosen.ids, chosen.gates, hidden, ws)
        shared(arch, w, normed, hidden, ws)


def _predicted(policy: Policy, predictor: PredictorNetwork | None) -> Change:
    from runtime.changes_sida import Predicted  # it imports this module

    assert predictor is not None  # `check_predictor` has seen to it
    return Predicted(predictor)


def _decided(policy: Policy, predictor: PredictorNetwork | None) -> Change:
    raise BadInput(
        "which experts run in 4 bits depends on what the caches held; give the decisions of a run "
        "to runtime.changes_hobbit.MixedPrecision"
    )


CHANGES: Mapping[str, Callable[[Policy, PredictorNetwork | None], Change]] = {
    "pre-gates": lambda policy, predictor: GatesAhead(policy.level),
    "predicted": _predicted,
    "mixed-precision": _decided,
}
"""By the name that a schedule gives to how it changes the function (`Schedule.change`)."""


def change_of(
    kind: type[Schedule], policy: Policy, predictor: PredictorNetwork | None = None
) -> Change | None:
    """What a schedule computes instead of the model's own function; None: nothing else.

    `predictor`: where one names the experts in place of the routers.
    """
    return None if kind.change is None else CHANGES[kind.change](policy, predictor)


MakeChange = Callable[[], Change | None]


def no_change() -> None:
    """The model computes what it is."""
    return
