"""Weights in 8 or 4 bits, packed when a model is opened."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from runtime.architecture import Architecture
from runtime.architecture_shapes import matrix_shapes, n_layers
from runtime.packing import check_rows, pack_rows
from runtime.weights import WeightSource
from schedules.errors import BadInput
from schedules.layout import layer_at, layer_matrices
from schedules.model import ModelSpec


def changed_architecture(arch: Architecture, spec: ModelSpec) -> Architecture:
    """The architecture of a model that modifiers have changed.

    Raises `BadInput` for what the runtime does not do: fewer experts, a quantised cache, kernels
    that convert weights as they read them, and groups that rows cannot be cut into.
    """
    q = spec.quantisation
    if spec.n_experts != arch.spec.n_experts:
        raise BadInput("the runtime runs all experts of a model; modifier 'keep' is simulated only")
    if q is not None:
        if q.kv is not None:
            raise BadInput("the runtime keeps the cache as it is; modifier 'kv' is simulated only")
        if q.fused:
            raise BadInput(
                "the runtime has no fused kernels for packed weights; 'fused' is simulated only"
            )
        for layer in (*spec.decoder_layers, *spec.encoder_layers):
            for matrix in layer_matrices(spec, layer).values():
                if matrix.bits is not None:
                    check_rows(matrix.cols, matrix.bits, q.group)
    return replace(arch, spec=spec)


class Quantised:
    """A `WeightSource` whose quantised matrices are uint8 (rows, row_bytes), see `packing`.

    All are packed at once, which reads the whole model.

    Parameters
    ----------
    source: the weights as they are. architecture: of the model with its `quantisation`.
    """

    def __init__(self, source: WeightSource, architecture: Architecture) -> None:
        self._source, self._architecture = source, architecture
        self._packed: dict[tuple[int, str, int], Tensor] = {}
        for number in range(n_layers(architecture)):
            self._pack(number)

    def _pack(self, number: int) -> None:
        spec = self._architecture.spec
        if spec.quantisation is None:
            return
        matrices = layer_matrices(spec, layer_at(spec, number))
        for name, shape in matrix_shapes(self._architecture, number).items():
            bits = matrices[name].bits
            for expert in range(shape.stack) if bits is not None else ():
                assert bits is not None
                plain = self._source.matrix(number, name, expert)
                packed = pack_rows(plain, bits, spec.quantisation.group)
                self._packed[number, name, expert] = packed

    @property
    def architecture(self) -> Architecture:
        """See `WeightSource`."""
        return self._architecture

    def matrix(self, layer: int, name: str, expert: int = 0) -> Tensor:
        """See `WeightSource`; packed where the model says so."""
        found = self._packed.get((layer, name, expert))
        return self._source.matrix(layer, name, expert) if found is None else found

    def vector(self, layer: int, name: str) -> Tensor | None:
        """See `WeightSource`."""
        return self._source.vector(layer, name)

    def embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.embedding()

    def head(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.head()

    def final_norm(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.final_norm()

    def encoder_embedding(self) -> Tensor:
        """See `WeightSource`."""
        return self._source.encoder_embedding()

    def encoder_norm(self) -> Tensor | None:
        """See `WeightSource`."""
        return self._source.encoder_norm()


def modified(source: WeightSource, spec: ModelSpec) -> WeightSource:
    """The weights of a model that modifiers have changed. Raises `BadInput` as above."""
    return Quantised(source, changed_architecture(source.architecture, spec))
