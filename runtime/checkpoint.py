"""Weights of a Hugging Face checkpoint, where they lie in its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import matrix_shapes, n_layers, vector_sizes
from runtime.checkpoint_files import TensorFiles
from runtime.checkpoint_names import Place, matrix_places, model_places, vector_place
from runtime.weights import WeightSource
from schedules.errors import BadInput
from schedules.task import DType

Key = tuple[int, str, int]  # layer (-1: the model's own), name, expert


class Checkpoint:
    """A `WeightSource` over a folder with `config.json` and safetensors files.

    Every tensor is a view of its file's mapped memory, so opening a checkpoint of 90 GB takes a
    moment and no memory, and the operating system reads a page when it is first used.

    The run's dtype is that of the config, or `dtype`. A tensor that is stored in another one is
    converted when the checkpoint is opened and kept: that reads all of it and needs memory for a
    full copy. Convert the checkpoint once on disk if it will be used often.

    Parameters
    ----------
    folder: as Hugging Face publishes models: one `model.safetensors`, or shards with an index.
    dtype: of the run, where it is not the config's.

    Raises
    ------
    BadInput: one sentence with file and tensor, for a folder, config or file that is missing or
        broken, a tensor that is missing, quantised or of a wrong shape, and a value that float16
        cannot hold.
    """

    def __init__(self, folder: str | Path, dtype: DType | None = None) -> None:
        self._architecture = Architecture.from_folder(folder, dtype)
        self._files = TensorFiles(Path(folder))
        self._views: dict[Key, Tensor] = {}
        self._whole: dict[str, Tensor] = {}
        for key, places in _all_places(self._architecture):
            self._views[key] = self._view(places)

    @property
    def architecture(self) -> Architecture:
        """See `WeightSource`."""
        return self._architecture

    def matrix(self, layer: int, name: str, expert: int = 0) -> Tensor:
        """See `WeightSource`."""
        return self._views[layer, name, expert]

    def vector(self, layer: int, name: str) -> Tensor | None:
        """See `WeightSource`."""
        view = self._views.get((layer, name, -1))
        return None if view is None else view.view(-1)

    def embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._views[-1, "embedding", 0]

    def head(self) -> Tensor:
        """See `WeightSource`."""
        return self._views.get((-1, "head", 0), self.embedding())

    def final_norm(self) -> Tensor:
        """See `WeightSource`."""
        return self._views[-1, "final_norm", 0]

    def encoder_embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._views.get((-1, "encoder_embedding", 0), self.embedding())

    def encoder_norm(self) -> Tensor | None:
        """See `WeightSource`."""
        return self._views.get((-1, "encoder_norm", 0))

    def tensors(self) -> Iterator[tuple[str, Path, Tensor]]:
        """Every tensor that the model uses, in the run's dtype, with its name and file."""
        return ((name, self._files.path(name), tensor) for name, tensor in self._whole.items())

    def _view(self, places: tuple[Place, ...]) -> Tensor:
        place = next((p for p in places if p.tensor in self._files), None)
        if place is None:
            raise BadInput(f"{self._files.folder}: tensor {places[0].tensor} is missing")
        tensor = self._tensor(place)
        matrix = tensor[place.expert] if tensor.dim() == 3 else tensor
        return matrix[place.start : place.stop]

    def _tensor(self, place: Place) -> Tensor:
        """A whole tensor in the run's dtype, checked when it is first used."""
        name = place.tensor
        shape = self._files.shape(name)
        if shape != place.shape:
            raise BadInput(
                f"{self._files.path(name)}: {name} has shape {list(shape)}; by config.json it must"
                f" be {list(place.shape)}"
            )
        if name not in self._whole:
            same = self._files.dtype(name) == self._architecture.spec.dtype
            tensor = self._files.get(name)
            self._whole[name] = tensor if same else self._converted(name, tensor)
        return self._whole[name]

    def _converted(self, name: str, tensor: Tensor) -> Tensor:
        converted = tensor.to(self._architecture.dtype)
        if converted.dtype == torch.float16 and not is_finite(converted) and is_finite(tensor):
            raise BadInput(
                f"{self._files.path(name)}: {name} has values above 65504, which float16"
                f" cannot hold; run it in {self._files.dtype(name)}"
            )
        return converted


def check_finite(source: WeightSource) -> None:
    """Reads all weights once; raises `BadInput` for the first tensor with a NaN or an infinity."""
    if isinstance(source, Checkpoint):
        for name, path, tensor in source.tensors():
            if not is_finite(tensor):
                raise BadInput(f"{path}: {name} holds values that are not finite (NaN or infinity)")
        return
    for (layer, name, expert), _ in _all_places(source.architecture):
        if layer >= 0:
            matrix = (
                source.matrix(layer, name, expert) if expert >= 0 else source.vector(layer, name)
            )
            if matrix is not None and not is_finite(matrix):
                raise BadInput(f"{name} of layer {layer} holds values that are not finite")


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite, at the speed of memory: extremes pass NaN on."""
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))


def _all_places(arch: Architecture) -> Iterator[tuple[Key, tuple[Place, ...]]]:
    """Every weight of a model and where it may be; vectors have expert -1."""
    for name, places in model_places(arch).items():
        yield (-1, name, 0), places
    for layer in range(n_layers(arch)):
        shapes = matrix_shapes(arch, layer)
        for name, shape in shapes.items():
            for expert in range(shape.stack):
                yield (layer, name, expert), matrix_places(arch, shapes, layer, name, expert)
        for name, size in vector_sizes(arch, layer).items():
            yield (layer, name, -1), (vector_place(arch, layer, name, size),)
