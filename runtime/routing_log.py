"""Which experts the tokens took, as the gates of a run decided."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.state import MicroBatchState
from schedules.model import ModelSpec


class RoutingLog:
    """Expert ids of each step, in host memory: a gate's device copies them there in its stream.

    Layers without experts are left out. With an encoder, its layers are those of prefill.
    """

    def __init__(self, model: ModelSpec, states: Sequence[MicroBatchState], pinned: bool) -> None:
        self.model = model
        self.states = states
        self.pinned = pinned
        self.steps: list[NDArray[np.int16]] = []
        self.open(0)

    def open(self, step: int) -> None:
        """Make room for a step; the log of prefill and that of decode differ in size."""
        if step > 1:
            return
        self.layers = self._layers(step)
        self.row = {layer: i for i, layer in enumerate(self.layers)}
        sizes = [state.tokens(step) for state in self.states]
        self.first = [0, *np.cumsum(sizes).tolist()]
        shape = (len(self.layers), self.first[-1], self.model.top_k)
        self.ids = torch.zeros(shape, dtype=torch.int16, pin_memory=self.pinned)

    def sink(self, layer: int, micro_batch: int) -> Callable[[Tensor], None]:
        """Takes the ids (tokens, top_k) of a gate."""
        target = self._part(layer, micro_batch)

        def take(ids: Tensor) -> None:
            target.copy_(ids, non_blocking=True)

        return take

    def gate(self, layer: int, micro_batch: int) -> NDArray[np.int64]:
        """What a gate that has run has chosen, shape (tokens, top_k)."""
        return self._part(layer, micro_batch).numpy().astype(np.int64)

    def close_step(self) -> None:
        """Keep the ids of a step that has ended."""
        if self.model.n_experts > 1:
            self.steps.append(self.ids.numpy().copy())

    def frame(self) -> pd.DataFrame:
        """One row per step, layer and token: `request`, its `position`, `expert_0`, ...

        `step` 0 is prefill, with one row for every prompt token. With an encoder, layers of step 0
        are the encoder's, and in other steps positions count the decoder's tokens.
        """
        parts = [self._step_frame(step, ids) for step, ids in enumerate(self.steps)]
        if parts:
            return pd.concat(parts, ignore_index=True)
        names = ["step", "layer", "micro_batch", "request", "position"]
        return pd.DataFrame(columns=names)

    def _layers(self, step: int) -> list[int]:
        """Layers with experts in the pass of a step."""
        in_encoder = step == 0 and self.model.is_encoder_decoder
        layers = self.model.encoder_layers if in_encoder else self.model.decoder_layers
        return [layer.index for layer in layers if layer.is_moe]

    def _part(self, layer: int, micro_batch: int) -> Tensor:
        start, stop = self.first[micro_batch : micro_batch + 2]
        return self.ids[self.row[layer], start:stop]

    def _step_frame(self, step: int, ids: NDArray[np.int16]) -> pd.DataFrame:
        requests, positions, micro_batches = [], [], []
        for j, state in enumerate(self.states):
            lengths = np.array(state.batch.prompt_lengths)
            own = np.array(state.batch.requests)
            counts = lengths if step == 0 else np.ones_like(lengths)
            requests.append(np.repeat(own, counts))
            newest = step - 1 + (0 if self.model.is_encoder_decoder else lengths)
            places = [np.arange(n) for n in lengths] if step == 0 else [newest + 0 * lengths]
            positions.append(np.concatenate(places))
            micro_batches.append(np.full(int(counts.sum()), j))
        layers, tokens, top_k = ids.shape

        def every(parts: list[NDArray[np.int64]], dtype: str) -> NDArray[np.int64]:
            return np.tile(np.concatenate(parts).astype(dtype), layers)

        columns = {
            "step": np.full(layers * tokens, step, dtype=np.int32),
            "layer": np.repeat(np.array(self._layers(step), dtype=np.int16), tokens),
            "micro_batch": every(micro_batches, "int32"),
            "request": every(requests, "int32"),
            "position": every(positions, "int32"),
        }
        flat = ids.reshape(-1, top_k)
        return pd.DataFrame(columns | {f"expert_{i}": flat[:, i] for i in range(top_k)})
