"""The device: where memory lies, how bytes are copied, and which clock counts.

`HostDevice` stands in for a GPU on a machine without one: its memory is separate tensors in host
memory, and its links can be held to a stated bandwidth. `CudaDevice` is a CUDA GPU.
"""

import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from runtime.described import described
from schedules.errors import BadInput, Infeasible, in_gb

ALIGNMENT = 256  # bytes; enough for every kernel and for whole cache lines
CUDA_RESERVE_BYTES = 320 << 20
"""What PyTorch allocates beside the plan: 64 MiB of cuBLAS workspaces (Hopper), 128 of grouped
products or 32 of attention, 64 of sampling; the rest is rounding, to 2 MiB for each large tensor
and 20 MiB for the first of less."""
REGISTERED_BYTES = 64 << 20
"""Page-locked memory of this size and above is locked where it lies: PyTorch's own allocator rounds
up to a power of two. What is smaller might share a page with other memory."""


@dataclass(frozen=True)
class DeviceOptions:
    """What a run may use.

    Parameters
    ----------
    device: `cuda` or `cpu`.
    gpu_memory_bytes: the budget of the device's memory.
    host_memory_bytes: host memory for weights, cache and staging.
    link_bytes_per_s: rate to which copies to and from a host device are held; None: not held.
    gpu_threads, cpu_threads: threads that compute for a host device, and for the CPU's attention;
        0: half of the cores each.
    """

    device: Literal["cuda", "cpu"]
    gpu_memory_bytes: int
    host_memory_bytes: int
    link_bytes_per_s: float | None = None
    gpu_threads: int = 0
    cpu_threads: int = 0

    def __post_init__(self) -> None:
        for name, value in (
            ("the GPU memory", self.gpu_memory_bytes),
            ("the host memory", self.host_memory_bytes),
        ):
            if value <= 0:
                raise BadInput(f"{name} is {value} bytes; it must be more than 0")
        if self.link_bytes_per_s is not None and not self.link_bytes_per_s > 0:
            raise BadInput(
                f"the link has {self.link_bytes_per_s} bytes/s; it must have more than 0"
            )
        if self.device == "cuda" and self.link_bytes_per_s is not None:
            raise BadInput("a link can be held to a bandwidth with --device cpu only")

    @property
    def threads(self) -> tuple[int, int]:
        """Threads of the (host) device, and of the CPU's attention."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        half = max(1, cores // 2)
        cpu = self.cpu_threads or (half if self.device == "cpu" else cores)
        return self.gpu_threads or half, cpu


class Device(Protocol):
    """What the executor needs of a device."""

    name: str
    torch_device: torch.device
    is_cuda: bool

    def empty(self, size_bytes: int, where: str) -> Tensor:
        """Bytes in `gpu`, `cpu` or `pinned` memory. Raises `Infeasible` when there are none."""

    def used_bytes(self) -> int:
        """Largest use of the device's memory so far, as its allocator counts."""

    def paced(self, start_ns: int, moved_bytes: int) -> None:
        """Hold a copy that began at `start_ns` to the link's bandwidth."""


class HostDevice:
    """Host memory as device memory."""

    name = "host"
    torch_device = torch.device("cpu")
    is_cuda = False

    def __init__(self, options: DeviceOptions) -> None:
        self.rate = options.link_bytes_per_s
        self._used = 0

    def empty(self, size_bytes: int, where: str) -> Tensor:
        if where == "gpu":
            self._used += size_bytes
        return _allocated(lambda: torch.empty(size_bytes, dtype=torch.uint8), size_bytes, where)

    def used_bytes(self) -> int:
        return self._used

    def paced(self, start_ns: int, moved_bytes: int) -> None:
        if self.rate is None:
            return
        left = moved_bytes / self.rate - (time.perf_counter_ns() - start_ns) * 1e-9
        if left > 0:
            time.sleep(left)


class CudaDevice:
    """The current CUDA GPU."""

    is_cuda = True

    def __init__(self, options: DeviceOptions) -> None:
        if not torch.cuda.is_available():
            raise BadInput("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
        index = torch.cuda.current_device()
        self.torch_device = torch.device("cuda", index)
        torch.cuda.empty_cache()  # what sessions before this one have used counts as free
        # It plans every context length anew, for tens of milliseconds, in every thread.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        if options.gpu_memory_bytes > free:
            raise BadInput(
                f"--gpu-memory {options.gpu_memory_bytes / 2**30:.2f} GiB is more than the "
                f"{free / 2**30:.2f} GiB that are free on {self.name}"
            )
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, options.gpu_memory_bytes / total), index
        )
        torch.cuda.reset_peak_memory_stats(index)

    def empty(self, size_bytes: int, where: str) -> Tensor:
        device = self.torch_device if where == "gpu" else torch.device("cpu")

        def make() -> Tensor:
            if where == "pinned":
                return _pinned(size_bytes)
            return torch.empty(size_bytes, dtype=torch.uint8, device=device)

        return _allocated(make, size_bytes, where)

    def used_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def paced(self, start_ns: int, moved_bytes: int) -> None:
        """A real link needs no holding back."""


def open_device(options: DeviceOptions) -> Device:
    """The device that the options ask for. Raises `BadInput` where there is none."""
    return CudaDevice(options) if options.device == "cuda" else HostDevice(options)


def usual_bytes(device: str) -> int | None:
    """Nine tenths of the CUDA device's memory; None without one, and for the host."""
    if device != "cuda" or not torch.cuda.is_available():
        return None
    _, total = torch.cuda.mem_get_info()
    return int(0.9 * total)


def _pinned(size_bytes: int) -> Tensor:
    """Page-locked host memory."""
    if size_bytes < REGISTERED_BYTES:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
    made = torch.empty(size_bytes, dtype=torch.uint8)
    runtime, pointer = torch.cuda.cudart(), made.data_ptr()
    error = int(runtime.cudaHostRegister(pointer, size_bytes, 0))
    if error:
        raise RuntimeError(f"cudaHostRegister: CUDA error {error}")
    weakref.finalize(made, runtime.cudaHostUnregister, pointer).atexit = False
    return made


def _allocated(make: Callable[[], Tensor], size_bytes: int, where: str) -> Tensor:
    try:
        return make()
    except (RuntimeError, MemoryError) as error:  # torch's allocators raise RuntimeError
        raise Infeasible(
            f"pool '{where}': {in_gb(size_bytes)} could not be allocated ({described(error)})"
        ) from None
