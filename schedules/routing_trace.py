"""Routing of a workload: every token has its place in a sequence of its own."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from schedules.batching import MicroBatch
from schedules.choices import skip_choices
from schedules.errors import BadInput
from schedules.graph import RoutingTrace
from schedules.model import ModelSpec
from schedules.model_layers import LayerSpec
from schedules.routing import Routing
from schedules.routing_chains import chains
from schedules.routing_recorded import Recording, recording
from schedules.task import Task

SKIPS = 0x5C19  # tells the numbers drawn here from those of the routing
IntArray = NDArray[np.int64]
Answer = Callable[[int, bool, IntArray, IntArray, IntArray], IntArray]
"""Expert ids from layer, whether it is prefill, and each token's sequence, position and step."""


def routing_trace(
    routing: Routing, model: ModelSpec, batches: Sequence[MicroBatch], gen_len: int
) -> RoutingTrace:
    """Answers a gate with expert ids, one row for each token of its micro-batch.

    The tokens of a gate of step 0 are those of the prompts, one prompt after another; a later
    step has one token of each sequence. An encoder's gates are those of step 0, and a decoder
    behind an encoder starts a sequence of its own.

    Choices that the model skips have the id `SKIPPED`.

    Raises `BadInput` for recorded routing that is not of this model; see `check_routing`.
    """
    trace = _trace(routing, model, batches, gen_len)
    if not model.skip_below:
        return trace

    def skipping(gate: Task) -> IntArray:
        place = [gate.step, max(gate.layer, 0), max(gate.micro_batch, 0)]
        rng = np.random.default_rng([routing.seed, SKIPS, *place])
        return skip_choices(trace(gate), model.skip_below, rng)

    return skipping


def _trace(
    routing: Routing, model: ModelSpec, batches: Sequence[MicroBatch], gen_len: int
) -> RoutingTrace:
    if routing.kind == "uniform" or model.n_experts == 1:
        return _without_places(routing, model, batches)
    check_routing(routing, model)
    places = Places(batches, model.is_encoder_decoder)
    if routing.kind == "recorded":
        answer = _recorded(routing, places)
    else:
        answer = _drawn(routing, model, places, gen_len)

    def trace(gate: Task) -> IntArray:
        of_gate = places.of(max(gate.micro_batch, 0), gate.step)
        return answer(max(gate.layer, 0), gate.step == 0, *of_gate)

    return trace


def check_routing(routing: Routing, model: ModelSpec) -> None:
    """Raises `BadInput` for recorded routing of other layers, other experts or another top-k."""
    if routing.kind != "recorded" or model.n_experts == 1:
        return
    found = _recording(routing)
    found.check(model.n_experts, model.top_k)
    name = f"model '{model.name}'"
    if model.is_encoder_decoder:
        if found.prompts is None or found.decode is None:
            raise BadInput(
                f"'{found.where}' needs rows of step 0, which are those of the encoder, and of "
                f"later steps, those of the decoder: {name} has both"
            )
        found.check_layers(moe_layers(model.encoder_layers), True, f"the encoder of {name}")
    for prompts in (False,) if model.is_encoder_decoder else (True, False):
        found.check_layers(moe_layers(model.decoder_layers), prompts, name)


def moe_layers(layers: Sequence[LayerSpec]) -> tuple[int, ...]:
    """Indices of the layers that have experts."""
    return tuple(layer.index for layer in layers if layer.is_moe)


class Places:
    """Where the tokens of each micro-batch stand.

    `restart`: decode counts positions from 0, not from the end of the prompt.
    """

    def __init__(self, batches: Sequence[MicroBatch], restart: bool) -> None:
        self.batches = tuple(batches)
        self.restart = restart
        number = count()
        self.requests = [
            np.array(batch.requests or [next(number) for _ in batch.prompt_lengths])
            for batch in self.batches
        ]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Prompt lengths in the order of the requests, in tokens."""
        order = np.argsort(np.concatenate(self.requests))
        every = np.concatenate([batch.prompt_lengths for batch in self.batches])
        return tuple(every[order].tolist())

    def of(self, micro_batch: int, step: int) -> tuple[IntArray, IntArray, IntArray]:
        """Sequence, position and decode step (from 0) of each token of a gate."""
        lengths = np.array(self.batches[micro_batch].prompt_lengths)
        requests = self.requests[micro_batch]
        if step == 0:
            positions = np.concatenate([np.arange(n) for n in lengths])
            return np.repeat(requests, lengths), positions, positions
        steps = np.full_like(requests, step - 1)
        return requests, steps if self.restart else lengths + steps, steps


def _without_places(
    routing: Routing, model: ModelSpec, batches: Sequence[MicroBatch]
) -> RoutingTrace:
    def trace(gate: Task) -> IntArray:
        batch = batches[gate.micro_batch]
        tokens = batch.prompt_tokens if gate.step == 0 else batch.size
        return routing.trace(tokens, model.n_experts, model.top_k, gate)

    return trace


def _drawn(routing: Routing, model: ModelSpec, places: Places, gen_len: int) -> Answer:
    """Whole sequences are drawn at once, a layer at a time, and kept."""
    shape = (model.n_experts, model.top_k)
    lengths = places.lengths
    decoder = chains(
        routing.strengths("decoder"),
        routing.seed,
        "decoder",
        *shape,
        moe_layers(model.decoder_layers),
    )
    decoded = gen_len + (0 if places.restart else max(lengths))
    encoder = decoder
    if model.is_encoder_decoder:
        layers = moe_layers(model.encoder_layers)
        encoder = chains(routing.strengths("encoder"), routing.seed, "encoder", *shape, layers)

    def answer(
        layer: int, prompts: bool, sequences: IntArray, positions: IntArray, steps: IntArray
    ) -> IntArray:
        drawn = encoder if prompts else decoder
        drawn.reserve(len(lengths), max(lengths) if drawn is not decoder else decoded)
        return drawn.ids(layer, sequences, positions)

    return answer


def _recorded(routing: Routing, places: Places) -> Answer:
    found = _recording(routing)
    picks = found.picks(routing.seed, places.lengths)

    def answer(
        layer: int, prompts: bool, sequences: IntArray, positions: IntArray, steps: IntArray
    ) -> IntArray:
        return found.ids(layer, prompts, picks[sequences], positions, steps)

    return answer


def _recording(routing: Routing) -> Recording:
    assert routing.path is not None
    return recording(routing.path, routing.sha256)
