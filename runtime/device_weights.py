"""Weights where they lie: in place for good, in pages that come and go, or still on the host.

The page table: for every buffer, which rows of which matrix lie where in it. It follows the order
of issue, as the dependencies do; so a task that reads a buffer finds what the last copy that was
issued before it has put there, and a schedule that runs a layer without its weights is refused.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from runtime.memory import Memory
from runtime.pieces import LayerWeights, Piece, merge_pieces
from runtime.unpacker import Unpacker
from runtime.weights import WeightSource
from schedules.contents import Span
from schedules.errors import MoelabError
from schedules.layout import Matrix, Rows, layer_at, layer_matrices, rows_of
from schedules.model import ModelSpec
from schedules.task import Buffer

Placed = tuple[str, Piece]  # a matrix's name, and some of its rows
Copy = tuple[Tensor, Tensor]  # target and source
VECTORS = (
    "attn_norm",
    "ffn_norm",
    "q_norm",
    "k_norm",
    "q_bias",
    "k_bias",
    "v_bias",
    "o_bias",
    "shared_expert_gate",
    "cross_norm",
    "position_bias",
    "router_bias",
)


class DeviceWeights:
    """All weights of a run on one GPU.

    Parameters
    ----------
    source: the weights in host memory; with tensor parallelism those of this GPU's shard.
    memory: the storage of the buffers.
    """

    def __init__(self, source: WeightSource, memory: Memory) -> None:
        self.source = source
        self.memory = memory
        self.model: ModelSpec = memory.model
        self.dtype: torch.dtype = source.architecture.dtype
        self.unpacker: Unpacker | None = None  # where weights are packed
        self.static: dict[tuple[int, str], list[Piece]] = {}
        self.pinned: dict[tuple[int, str], list[Piece]] = {}  # page-locked copies on the host
        self.contents: dict[int, Span] = {}
        self._placed: dict[tuple[int, Span], list[Placed]] = {}
        self._plans: dict[tuple[int, int, Span], list[Copy]] = {}
        self._resolved: dict[tuple[object, ...], LayerWeights] = {}
        self._keep_tables()

    def keep(self, buffers: Iterable[Buffer]) -> None:
        """Fill the buffers that hold weights for good."""
        for buffer in buffers:
            spans = [span for span in buffer.holds if isinstance(span, Span)]
            if not spans or not self.memory.has(buffer):
                continue
            table = self.static if buffer.pool.startswith("gpu") else self.pinned
            offset = 0
            for span in spans:
                for name, piece in self._carve(buffer, span, offset):
                    table.setdefault((span.layer, name), []).append(piece)
                    for target, part in self._from_source(span.layer, name, piece):
                        target.copy_(part)
                    offset += piece.tensor.nbytes

    def copies(self, source: Buffer, target: Buffer, span: Span) -> list[Copy]:
        """What a copy of a span moves; notes that the target holds it from now on."""
        self.contents[id(target)] = span
        key = (id(source), id(target), span)
        if key not in self._plans:
            if source.kind == "host weights":
                pairs = [
                    pair
                    for name, piece in self._rows_in(target, span)
                    for pair in self._from_home(span.layer, name, piece)
                ]
            else:
                self._check_staged(source, span)
                shape = (self.memory.span_bytes([span]),)
                staged = (self.memory.view(b, shape, torch.uint8) for b in (target, source))
                pairs = [(next(staged), next(staged))]
            self._plans[key] = pairs
        else:
            self._check_staged(source, span)
        return self._plans[key]

    def resolve(
        self,
        layer: int,
        names: Sequence[str],
        reads: Sequence[Buffer],
        some_experts: bool = False,
    ) -> LayerWeights:
        """The named matrices of a layer, from what is resident and what the buffers hold.

        `some_experts`: not all experts are meant. Raises `MoelabError` when rows of other matrices
        than the experts' are missing.
        """
        loaded = tuple(
            (buffer, span)
            for buffer in reads
            if (span := self.contents.get(id(buffer))) is not None and span.layer == layer
        )
        held = tuple((id(buffer), span) for buffer, span in loaded)
        key = (layer, tuple(names), held, some_experts)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(layer, names, loaded, some_experts)
        return self._resolved[key]

    def _resolve(
        self,
        layer: int,
        names: Sequence[str],
        loaded: Sequence[tuple[Buffer, Span]],
        some_experts: bool,
    ) -> LayerWeights:
        every = self._matrices(layer)
        found = {name: list(self.static.get((layer, name), ())) for name in names if name in every}
        for buffer, span in loaded:
            for name, piece in self._rows_in(buffer, span):
                if name in found:
                    found[name].append(piece)
        chosen_only = some_experts or any(span.part == "expert" for _, span in loaded)
        pieces = {name: merge_pieces(parts) for name, parts in found.items()}
        for name, parts in pieces.items():
            there = sum(piece.stop - piece.start for piece in parts)
            if there < every[name].rows and not (chosen_only and every[name].experts > 1):
                raise MoelabError(
                    f"layer {layer} has {there} of {every[name].rows} rows of its matrix '{name}' "
                    "on the device: the schedule did not bring them"
                )
        return LayerWeights(pieces, self.vectors[layer], self.unpacker)

    # -- rows and copies ------------------------------------------------------------------------

    def _rows_in(self, buffer: Buffer, span: Span) -> list[Placed]:
        key = (id(buffer), span)
        if key not in self._placed:
            self._placed[key] = self._carve(buffer, span, 0)
        return self._placed[key]

    def _carve(self, buffer: Buffer, span: Span, offset: int) -> list[Placed]:
        """The rows of a span, one after the other in a buffer, from `offset` bytes on."""
        every, placed = self._matrices(span.layer), []
        for rows in rows_of(self.model, span, self.memory.shards):
            n, matrix = rows.stop - rows.start, every[rows.matrix]
            if matrix.bits is None:
                tensor = self.memory.view(buffer, (n, matrix.cols), self.dtype, offset)
            else:
                tensor = self.memory.view(buffer, (n, matrix.row_bytes), torch.uint8, offset)
            placed.append((rows.matrix, Piece(rows.start, rows.stop, tensor)))
            offset += tensor.nbytes
        return placed

    def _from_home(self, layer: int, name: str, piece: Piece) -> list[Copy]:
        """From page-locked host memory where weights lie there, else from the source itself."""
        parts = self.pinned.get((layer, name), [])
        pairs: list[Copy] = []
        for part in parts:
            start, stop = max(part.start, piece.start), min(part.stop, piece.stop)
            if start < stop:
                target = piece.tensor[start - piece.start : stop - piece.start]
                pairs.append((target, part.tensor[start - part.start : stop - part.start]))
        return pairs if parts else self._from_source(layer, name, piece)

    def _from_source(self, layer: int, name: str, piece: Piece) -> list[Copy]:
        """A row range cut at the borders of experts."""
        matrix = self._matrices(layer)[name]
        each = matrix.rows // matrix.experts
        pairs = []
        for expert in range(piece.start // each, -(-piece.stop // each)):
            base = expert * each
            start, stop = max(piece.start, base), min(piece.stop, base + each)
            part = self.source.matrix(layer, name, expert)[start - base : stop - base]
            pairs.append((piece.tensor[start - piece.start : stop - piece.start], part))
        return pairs

    def _check_staged(self, source: Buffer, span: Span) -> None:
        held = self.contents.get(id(source), "nothing")
        if source.kind != "host weights" and held != span:
            raise MoelabError(
                f"{span} is copied from buffer '{source.name}', which holds {held}: the schedule "
                "did not bring it there"
            )

    def _matrices(self, layer: int) -> dict[str, Matrix]:
        return layer_matrices(self.model, layer_at(self.model, layer), self.memory.shards)

    def _keep_tables(self) -> None:
        """Embedding, head and vectors: small, used by all schedules, resident in all of them."""
        source, memory = self.source, self.memory

        def keep(name: str, tensor: Tensor) -> Tensor:
            made = memory.gpu_tensor(name, tensor.shape, tensor.dtype)
            return made.copy_(tensor)

        self.embedding = keep("embedding", source.embedding())
        tied = source.head().data_ptr() == source.embedding().data_ptr()
        self.head = self.embedding[: len(source.head())] if tied else keep("head", source.head())
        self.final_norm = keep("final norm", source.final_norm())
        self._keep_encoder(keep)
        self.vectors: list[dict[str, Tensor]] = []
        for layer in range(self.model.n_layers + self.model.n_encoder_layers):
            own = {name: source.vector(layer, name) for name in VECTORS}
            self.vectors.append({n: keep(n, v) for n, v in own.items() if v is not None})

    def _keep_encoder(self, keep: Callable[[str, Tensor], Tensor]) -> None:
        read, norm = self.source.encoder_embedding(), self.source.encoder_norm()
        own = read.data_ptr() != self.source.embedding().data_ptr()
        self.encoder_embedding = keep("embedding", read) if own else self.embedding
        self.encoder_norm = None if norm is None else keep("final norm", norm)


__all__ = ["Copy", "DeviceWeights", "Rows"]
