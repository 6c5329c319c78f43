"""Tensors for the buffers of a schedule, allocated once.

A buffer's size follows the schedule. Weights are cut between rows and caches between sequences, so
a buffer that receives such a cut gets room for one row, or one sequence, more. Caches are cut where
a share of them stays on the GPU (r_c), else whole micro-batches' move.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from runtime.device import ALIGNMENT, Device
from runtime.kv import KVLayout
from schedules.contents import KVSpan, Span
from schedules.errors import Infeasible, MoelabError, in_gb
from schedules.layout import layer_at, layer_matrices, rows_of
from schedules.model import ModelSpec
from schedules.task import Buffer

CUT = {"weights", "module weights", "experts", "staging"}  # kinds that receive rows
CACHE = {"KV block", "KV staging"}  # kinds that receive sequences
ROUNDING_BYTES = 1 << 15  # of the workspace, whose tensors are aligned
TABLES = {"embeddings"}  # embedding and head, which the runtime allocates by itself


@dataclass
class Memory:
    """The storage of every buffer that this process uses.

    Parameters
    ----------
    shards: tensor-parallel GPUs among which weights and heads are split.
    layout: where the sequences of each micro-batch lie in a KV block.
    cuts_cache: whether shares of micro-batches' caches move.
    """

    device: Device
    model: ModelSpec
    shards: int
    layout: KVLayout
    capacity_bytes: int
    cuts_cache: bool = True
    storage: dict[int, Tensor] = field(default_factory=dict)
    gpu_bytes: int = 0
    _views: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def commit(self, buffers: Sequence[Buffer]) -> None:
        """Allocate all buffers, those of the device as one: each by itself would be rounded up.

        Raises `Infeasible` when the device has no room for them.
        """
        slack = self._slack()
        sizes = [(b, -(-self._size(b, slack) // ALIGNMENT) * ALIGNMENT) for b in buffers]
        on_gpu = [(b, size) for b, size in sizes if size and b.pool.startswith("gpu")]
        for buffer, size in on_gpu:
            self.take_gpu(buffer.name, size)
        whole = self.device.empty(sum(size for _, size in on_gpu), "gpu")
        for (buffer, _), part in zip(on_gpu, whole.split([n for _, n in on_gpu]), strict=True):
            self.storage[id(buffer)] = part
        for buffer, size in sizes:
            if size and not buffer.pool.startswith("gpu"):
                where = "pinned" if buffer.pinned and self.device.is_cuda else "cpu"
                self.storage[id(buffer)] = self.device.empty(size, where)

    def gpu_tensor(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Device memory that no buffer stands for: embeddings, norms, token ids."""
        made = torch.Size(shape).numel() * dtype.itemsize
        self.take_gpu(name, made)
        return self.device.empty(made, "gpu").view(dtype).view(tuple(shape))

    def take_gpu(self, name: str, size_bytes: int) -> None:
        """Count device memory. Raises `Infeasible` above the budget."""
        if self.gpu_bytes + size_bytes > self.capacity_bytes:
            raise Infeasible(
                f"pool 'gpu' is too small: '{name}' needs {in_gb(size_bytes)} beside "
                f"{in_gb(self.gpu_bytes)} in use, but the budget is {in_gb(self.capacity_bytes)}"
            )
        self.gpu_bytes += size_bytes

    def view(
        self, buffer: Buffer, shape: Sequence[int], dtype: torch.dtype, offset_bytes: int = 0
    ) -> Tensor:
        """A tensor in a buffer's storage. Raises `MoelabError` when the buffer is too small."""
        key = (id(buffer), tuple(shape), dtype, offset_bytes)
        if key not in self._views:
            self._views[key] = self._view(buffer, shape, dtype, offset_bytes)
        return self._views[key]

    def _view(
        self, buffer: Buffer, shape: Sequence[int], dtype: torch.dtype, offset_bytes: int
    ) -> Tensor:
        storage = self.storage.get(id(buffer))
        size = torch.Size(shape).numel() * dtype.itemsize
        if storage is None and not size:  # a share that rounds to nothing
            where = self.device.torch_device if buffer.pool.startswith("gpu") else "cpu"
            return torch.empty(tuple(shape), dtype=dtype, device=where)
        room = 0 if storage is None else len(storage) - offset_bytes
        if storage is None or size > room:
            raise MoelabError(
                f"buffer '{buffer.name}' has {room} bytes, but a tensor of shape {tuple(shape)} "
                f"needs {size}"
            )
        return storage[offset_bytes : offset_bytes + size].view(dtype).view(tuple(shape))

    def has(self, buffer: Buffer) -> bool:
        """Whether a buffer has memory of its own."""
        return id(buffer) in self.storage

    # -- sizes ----------------------------------------------------------------------------------

    def _size(self, buffer: Buffer, slack: tuple[int, int]) -> int:
        spans = [h for h in buffer.holds if isinstance(h, Span)]
        if buffer.kind in TABLES:
            return 0
        if buffer.kind == "host weights":  # they stay where they were read, unless page-locked
            return self.span_bytes(spans) if buffer.pinned and self.device.is_cuda else 0
        if spans or buffer.kind in ("resident weights", "static weights"):
            return self.span_bytes(spans)
        blocks = [h for h in buffer.holds if isinstance(h, KVSpan)]
        if blocks:
            return sum(self.layout.block_bytes(h) for h in blocks)
        size = buffer.bytes
        if size and buffer.kind in CUT:
            size += slack[0]
        if size and buffer.kind in CACHE and self.cuts_cache:
            size += slack[1]
        if buffer.kind == "workspace":
            size += ROUNDING_BYTES
        return -(-size // ALIGNMENT) * ALIGNMENT

    def span_bytes(self, spans: Sequence[Span]) -> int:
        """Bytes of the rows that spans cover."""
        total = 0
        for span in spans:
            matrices = layer_matrices(self.model, layer_at(self.model, span.layer), self.shards)
            for rows in rows_of(self.model, span, self.shards):
                total += (rows.stop - rows.start) * matrices[rows.matrix].row_bytes
        return total

    def _slack(self) -> tuple[int, int]:
        """Bytes of the longest row, and of the longest sequence."""
        matrices = [
            matrix
            for layer in self.model.decoder_layers
            for matrix in layer_matrices(self.model, layer, self.shards).values()
        ]
        row = max(matrix.row_bytes for matrix in matrices)
        return row, self.layout.longest_bytes
