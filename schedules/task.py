"""What a schedule issues: tasks, the buffers they touch, and the work they do.

`Work` says how much, never how long. Only a cost model of `sim` turns it into seconds.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from schedules.contents import Contents

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

DType = Literal["float16", "bfloat16", "float32"]
"""Number formats of weights, activations and arithmetic."""

KernelClass = Literal["gemm", "experts", "attention"]
KERNELS: tuple[KernelClass, ...] = get_args(KernelClass)
"""Kernel classes that sustain different shares of a processor's peak: dense GEMMs, the grouped
GEMM of the experts, and the attention core."""


class Work(BaseModel):
    """How much one task does.

    Parameters
    ----------
    device: where it executes; `link` is a copy engine or a copying thread, `host` the issuing
        thread's own bookkeeping, `none` costs nothing.
    dtype: the number format of its arithmetic.
    flops: floating-point operations by kernel class (`KERNELS`).
    bytes: bytes read and written by memory (`gpu`, `cpu`, `disk`).
    link_bytes: bytes moved by link (`h2d`, `d2h`, `pin`, `peer`, ...).
    calls: kernel launches, copy calls or parallel regions, each with a fixed cost.
    share: share of the device that works on it, such as half of the cores for one of two processes
        that are each bound to their half.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["gpu", "cpu", "link", "host", "none"] = "none"
    dtype: DType = "float16"
    flops: Mapping[str, Amount] = {}
    bytes: Mapping[str, Amount] = {}
    link_bytes: Mapping[str, Amount] = {}
    calls: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __add__(self, other: "Work") -> "Work":
        """The two one after the other on the same device: amounts add up."""
        return Work(
            device=self.device,
            dtype=self.dtype,
            flops=_sum(self.flops, other.flops),
            bytes=_sum(self.bytes, other.bytes),
            link_bytes=_sum(self.link_bytes, other.link_bytes),
            calls=self.calls + other.calls,
            share=self.share,
        )

    @property
    def total_flops(self) -> float:
        """Floating-point operations of all kernel classes."""
        return sum(self.flops.values())

    @property
    def total_bytes(self) -> float:
        """Bytes read and written in all memories."""
        return sum(self.bytes.values())

    @property
    def total_link_bytes(self) -> float:
        """Bytes moved over all links."""
        return sum(self.link_bytes.values())


NOTHING = Work()


def _sum(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in (*a, *(k for k in b if k not in a))}


class Task(NamedTuple):
    """A handle to an issued task; `number` counts the tasks of the issuer from 0."""

    number: int
    op: str
    stream: str
    layer: int
    micro_batch: int
    step: int


class Buffer:
    """A named piece of memory in a pool; the issuer derives dependencies from its accesses.

    `holds` is what lies in it for good, `pinned` whether it is page-locked, and `owner` the GPU
    whose process uses it (-1: all of them).
    """

    __slots__ = (
        "_readers",
        "_writer",
        "bytes",
        "freed",
        "holds",
        "name",
        "owner",
        "pinned",
        "pool",
    )

    def __init__(
        self,
        name: str,
        pool: str,
        bytes: int,
        holds: tuple[Contents, ...] = (),
        pinned: bool = False,
        owner: int = -1,
    ) -> None:
        self.name = name
        self.pool = pool
        self.bytes = bytes
        self.holds = holds
        self.pinned = pinned
        self.owner = owner
        self.freed = False
        self._writer: tuple[int, int] | None = None  # (stream, or lane, and task) that wrote last
        self._readers: dict[int, int] = {}  # stream, or lane -> last task that read since

    @property
    def kind(self) -> str:
        """The name without its indices: `KV[3,0]` is a `KV`."""
        return self.name.partition("[")[0]

    def __repr__(self) -> str:
        return f"Buffer({self.name!r}, {self.pool!r}, {self.bytes})"
