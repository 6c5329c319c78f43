"""Pre-gates: a block's gate names the experts of a later block (Pre-gated MoE, arXiv 2308.12066,
section 4).

With activation level `level` the gate that stands in block n selects experts for block n + level.
The first `level` blocks, which no earlier gate can serve, keep gates of their own, so the first
block has two; the last `level` blocks have none. Every block still has exactly one gate that
decides for it, so there are as many parameters as in the original: a pre-gate starts as the trained
gate of the block that it names. The whole model is then trained further.

Simplified: the original is trained here, not downloaded, and is fine-tuned on the text that it was
trained on.
"""

import copy
from dataclasses import dataclass

from runtime.training.fit import Course, evaluate, fit
from runtime.training.model import MoELanguageModel, Router
from runtime.training.text import Text, random_windows, windows
from schedules.errors import BadInput


def source(block: int, level: int) -> int:
    """The block whose gate input decides for `block`.

    >>> [source(block, 1) for block in range(4)], [source(block, 2) for block in range(4)]
    ([0, 0, 1, 2], [0, 1, 0, 1])
    """
    return block - level if block >= level else block


def pre_gates(model: MoELanguageModel, level: int) -> Router:
    """Routing by gates that read `level` blocks earlier; 0 is the original.

    Raises `BadInput` unless 0 <= level < layers.
    """
    layers = model.sizes.layers
    if not 0 <= level < layers:
        raise BadInput(
            f"activation level {level} is not from 0 to {layers - 1}, for {layers} layers"
        )
    return lambda block, inputs: model.block(block).gate(inputs[source(block, level)])


@dataclass(frozen=True)
class PreGated:
    """Held-out losses in nats per token of a model with pre-gates.

    Parameters
    ----------
    level: activation level; 0 is the original with the same number of extra steps.
    before: with the gates moved and nothing trained.
    after: when fine-tuned.
    """

    level: int
    before: float
    after: float


def fine_tune(
    model: MoELanguageModel, text: Text, level: int, course: Course, seed: int
) -> PreGated:
    """Train a copy of the model with pre-gates; the same seed gives each level the same batches."""
    tuned = copy.deepcopy(model)
    router = pre_gates(tuned, level)
    rows = windows(text.held_out, model.sizes.context)

    def loss() -> float:
        return evaluate(tuned, rows, lambda tokens: router)

    before = loss()
    batches = random_windows(text.training, model.sizes.context, course.rows, seed)
    fit(tuned, batches, course, router)
    return PreGated(level, before, loss())
