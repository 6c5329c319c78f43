"""One machine: its devices, memories and links, and questions about them."""

import math
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError, model_validator

from schedules.errors import BadInput, suggest
from schedules.task import DType, KernelClass
from sim.channels import OPERATION_PLACES
from sim.hardware_parts import (
    LINKS_OF_ALL,
    Amount,
    Channel,
    Cpu,
    Emulated,
    Flag,
    Gpu,
    Host,
    Link,
    Name,
    Part,
    Rate,
    first_of,
)


class Hardware(Part):
    """One machine.

    Parameters
    ----------
    gpu, cpu: the devices.
    links: bytes/s by name: `h2d` and `d2h` (pinned memory, DMA), `h2d_pageable` and `d2h_pageable`
        (staged by the driver), `pin` (one CPU thread copies pageable memory to pinned staging),
        `pin_parallel` (the same copy by all threads of a process that does nothing else meanwhile),
        `peer` (GPU to GPU, exactly when there are several), `disk` (exactly when there is a disk).
    link_call_s: fixed seconds of one copy call.
    peer_call_s: of one message between GPUs where a network joins them, its latency included; None:
        as of any copy.
    shared_host_link: whether several GPUs share one path to the host.
    host: the issuing thread.
    disk: bytes of the disk, where there is one.
    channels: bytes/s that streams share where they work at the same time, by name: `cpu` (the
        host's DRAM), `gpu` (each GPU's memory), `host_link` (the path to all GPUs); and `cores`,
        threads that run at once at full speed. None of them is shared unless it is given;
        `host_link` takes the place of `shared_host_link`.
    emulated: how the host stands in for a GPU, where there is none.

    Raises `pydantic.ValidationError` for anything malformed; `load_hardware` turns it into a
    sentence.

    >>> from sim.hardware import load_hardware
    >>> t4 = load_hardware("gcp-t4-24c")
    >>> f"{t4.compute_rate('gpu', 'gemm', 'float16').peak / 1e12:.0f} TFLOPS"
    '65 TFLOPS'
    >>> f"{t4.with_rate('links.h2d', 2).links['h2d'].sustained / 1e9:.1f} GB/s"
    '24.7 GB/s'
    """

    name: Name
    description: Name
    gpu: Gpu
    cpu: Cpu
    links: Mapping[Link, Rate]
    link_call_s: Amount
    shared_host_link: Flag
    host: Host
    disk: Amount | None = None
    peer_call_s: Amount | None = None
    channels: Mapping[Channel, Amount] = {}
    emulated: Emulated | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Hardware":
        expected = {
            **dict.fromkeys(LINKS_OF_ALL, True),
            "peer": self.gpu.count > 1,
            "disk": self.disk is not None,
        }
        for link, needed in expected.items():
            if needed and link not in self.links:
                raise ValueError(f"links.{link} is missing")
            if link in self.links and not needed:
                lack = "gpu.count is 1" if link == "peer" else "no [disk] says how large it is"
                raise ValueError(f"links.{link} is given, but {lack}")
        if self.peer_call_s and self.gpu.count == 1:
            raise ValueError("peer_call_s is given, but gpu.count is 1")
        if self.emulated and (self.gpu.count > 1 or "gpu" in self.channels):
            raise ValueError("an emulated GPU is a single one, and its memory the channel 'cpu'")
        if queue := self.channels.get("queue"):
            if not self.emulated:
                raise ValueError("channels.queue is given, but there is no [emulated] GPU")
            if queue.value < OPERATION_PLACES:
                raise ValueError("channels.queue.value must be at least 2: an operation takes two")
        if self.host.pinnable_fraction.value > 1:
            raise ValueError("host.pinnable_fraction.value must be at most 1")
        return self

    def compute_rate(self, device: str, kernel_class: str, dtype: str) -> Rate:
        """Flops/s of a kernel class (`gemm`, `experts`, `attention`) on `gpu` or `cpu`.

        Raises `BadInput` where the device has no rates for the dtype (bfloat16 on a T4), and for
        an unknown device or kernel class.
        """
        if device not in ("gpu", "cpu"):
            raise BadInput(f"{self.name}: no device '{device}'; it must be 'gpu' or 'cpu'")
        unit = self.gpu if device == "gpu" else self.cpu
        classes = unit.compute.get(cast(DType, dtype))
        if classes is None:
            there = " and ".join(unit.compute)
            raise BadInput(f"{self.name}: {unit.name} has no rates for {dtype}, only for {there}")
        rate = classes.get(cast(KernelClass, kernel_class))
        if rate is None:
            near = suggest(kernel_class, classes)
            raise BadInput(f"{self.name}: no kernel class '{kernel_class}'{near}")
        return rate

    def link_rate(self, link: str) -> Rate:
        """Bytes/s of a link. Raises `BadInput` where the machine has none of this name."""
        rate = self.links.get(cast(Link, link))
        if rate is None:
            raise BadInput(f"{self.name} has no link '{link}'{suggest(link, self.links)}")
        return rate

    def capacities(self) -> dict[str, int]:
        """Bytes of each memory pool: `gpu` (one GPU), `cpu`, `pinned` and `disk` (0: none).

        Pinned memory is part of the host's: what is in `pinned` must fit into `cpu` as well.

        >>> from sim.hardware import load_hardware
        >>> sizes = load_hardware("gcp-t4-24c").capacities()
        >>> sizes["pinned"] / sizes["cpu"], sizes["disk"] / 2**30
        (0.5, 3000.0)
        """
        dram = self.cpu.memory.value
        return {
            "gpu": int(self.gpu.memory.value),
            "cpu": int(dram),
            "pinned": int(dram * self.host.pinnable_fraction.value),
            "disk": int(self.disk.value) if self.disk else 0,
        }

    def with_rate(self, path: str, factor: float) -> "Hardware":
        """A copy in which one rate or amount is `factor` times as large, for what-if questions.

        `path` names it as in the TOML file: `links.pin`, `cpu.memory_bandwidth`, `gpu.memory`; a
        table of rates (`links`, `gpu.compute`, `gpu.compute.float16`) scales all of them. The
        copy's name tells the change.

        Raises `BadInput` for a path that leads to no number, a factor that is not above zero, or a
        value that the change makes impossible.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise BadInput(f"{self.name}: the factor of {path} is {factor}; it must be above 0")
        try:
            changed: Hardware = _scaled(self, path.split("."), factor)
            return changed.model_copy(update={"name": f"{self.name} ({path} x {factor:g})"})
        except ValidationError as error:
            raise BadInput(f"{self.name}, {path} x {factor:g}: {first_of(error)}") from None
        except LookupError as error:
            raise BadInput(f"{self.name}: '{path}' leads to no rate: {error.args[0]}") from None


def _scaled(part: Any, path: list[str], factor: float) -> Any:
    """`part` with what lies at `path` inside it scaled; `LookupError` says what is not there."""
    if not path and isinstance(part, Rate | Amount):
        return part.times(factor)
    if isinstance(part, Mapping):
        if path and path[0] not in part:
            raise LookupError(f"no '{path[0]}'{suggest(path[0], part)}")
        chosen = path[:1] or list(part)
        return {**part, **{key: _scaled(part[key], path[1:], factor) for key in chosen}}
    keys = list(type(part).model_fields) if isinstance(part, Part) else []
    if not path or path[0] not in keys:
        raise LookupError(f"no '{path[0]}'{suggest(path[0], keys)}" if path else "it is no number")
    child = _scaled(getattr(part, path[0]), path[1:], factor)
    return type(part).model_validate({**dict(part), path[0]: child})
