"""The simulator with a part of its physics taken away: what each part is worth.

An ablation changes the machine, the kernels or the routing of a run, what its issuer records, or
how seconds follow from its tasks. `moelab validate --ablate NAME` shows what becomes of the errors
on published figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

from schedules.errors import BadInput, suggest
from schedules.graph import RecordingIssuer
from schedules.kernels import Kernels
from schedules.routing import Routing
from sim.hardware_model import Hardware
from sim.hardware_parts import Amount, Rate

FAST = 1e6
"""So many times faster counts as free; what remains is below the rounding of any figure."""

HOST = ("host.issue_s", "host.sync_s", "host.ffn_s", "gpu.call_s", "cpu.call_s", "link_call_s")
PINNING = ("pin", "pin_parallel")


def same_hardware(hardware: Hardware) -> Hardware:
    """The machine as it is."""
    return hardware


def without_pinning(hardware: Hardware) -> Hardware:
    """Pageable memory is copied as if it were page-locked: pinning it takes no time."""
    for link in PINNING:
        hardware = hardware.with_rate(f"links.{link}", FAST)
    for link in ("h2d", "d2h"):
        factor = hardware.link_rate(link).sustained
        factor /= hardware.link_rate(f"{link}_pageable").sustained
        hardware = hardware.with_rate(f"links.{link}_pageable", max(1.0, factor))
    return hardware


def without_host(hardware: Hardware) -> Hardware:
    """Launching, waiting, and what the issuing thread does beside, take no time."""
    for path in HOST:
        hardware = hardware.with_rate(path, 1 / FAST)
    return hardware


def without_contention(hardware: Hardware) -> Hardware:
    """Every GPU's pinning worker copies as fast as if it were the only one.

    That is the peak of `links.pin` where there are several; their sustained rate is what they reach
    in sum.
    """
    if hardware.gpu.count == 1:
        return hardware
    rate = hardware.links["pin"]
    return hardware.with_rate("links.pin", rate.peak / rate.sustained)


def at_peak(hardware: Hardware) -> Hardware:
    """All rates are those of data sheets, none is a sustained one."""
    links = {name: _peak(rate) for name, rate in hardware.links.items()}
    changed = {"links": links}
    for device in ("gpu", "cpu"):
        unit = getattr(hardware, device)
        compute = {
            dtype: {kernel: _peak(rate) for kernel, rate in classes.items()}
            for dtype, classes in unit.compute.items()
        }
        bandwidth = _peak(unit.memory_bandwidth)
        changed[device] = unit.model_copy(
            update={"compute": compute, "memory_bandwidth": bandwidth}
        )
    return hardware.model_copy(update=changed)


def with_channels(hardware: Hardware) -> Hardware:
    """Streams share the memories of host and GPU, which carry at most what data sheets say."""
    channels = {
        device: Amount(
            value=rate.peak, source=f"The peak of {device}.memory_bandwidth: {rate.source}"
        )
        for device, rate in (
            ("cpu", hardware.cpu.memory_bandwidth),
            ("gpu", hardware.gpu.memory_bandwidth),
        )
    }
    return hardware.model_copy(update={"channels": channels})


def _peak(rate: Rate) -> Rate:
    return Rate(peak=rate.peak, sustained=rate.peak, source=rate.source)


def same_kernels(kernels: Kernels) -> Kernels:
    """The kernels as they are."""
    return kernels


def without_tiles(kernels: Kernels) -> Kernels:
    """A fused expert kernel computes no more rows than there are."""
    return replace(kernels, tile_rows=1, small_tile_rows=1)


def native_attention(kernels: Kernels) -> Kernels:
    """Attention on the CPU reads each cached element once, in the model's own format."""
    return replace(kernels, cpu_attention="native")


def same_routing(routing: Routing) -> Routing:
    """The routing as it is."""
    return routing


def uniform(routing: Routing) -> Routing:
    """All experts are equally likely."""
    return Routing(seed=routing.seed)


class NoBarriers(RecordingIssuer):
    """Records no barrier over chosen streams, as FlexGen's; those that end a phase stay."""

    def barrier(self, streams: Sequence[str] | None = None) -> None:
        if streams is None:
            super().barrier()


@dataclass(frozen=True)
class Ablation:
    """A part of the physics, taken away.

    Parameters
    ----------
    name, title: as on the command line; what is different.
    hardware, kernels, routing: each run's own, changed.
    recorder: takes the tasks of a run; None: as they are issued.
    seconds: how long a phase takes: by the `events` of the simulation, or as long as the busiest of
        its `streams`, or of the machine's `resources` (see `sim.bound_times`).
    """

    name: str
    title: str
    hardware: Callable[[Hardware], Hardware] = same_hardware
    kernels: Callable[[Kernels], Kernels] = same_kernels
    routing: Callable[[Routing], Routing] = same_routing
    recorder: type[RecordingIssuer] | None = None
    seconds: Literal["events", "streams", "resources"] = "events"


WHOLE = Ablation("none", "the simulator as it is")

ABLATIONS: Mapping[str, Ablation] = {
    one.name: one
    for one in (
        Ablation("pinning", "pinning pageable memory takes no time", hardware=without_pinning),
        Ablation(
            "contention",
            "the pinning workers of several GPUs do not slow one another",
            hardware=without_contention,
        ),
        Ablation("host", "launches, waits and the host's own work take no time", without_host),
        Ablation("tiles", "the expert kernel computes no padding", kernels=without_tiles),
        Ablation("barriers", "FlexGen without its barriers", recorder=NoBarriers),
        Ablation("float32", "FlexGen's CPU attention in float16", kernels=native_attention),
        Ablation("routing", "all experts are equally likely", routing=uniform),
        Ablation("sustained", "all rates at their data-sheet peaks", hardware=at_peak),
        Ablation("overlap", "a phase takes as long as its busiest stream", seconds="streams"),
        Ablation(
            "hrm",
            "the plain HRM: a phase takes as long as its busiest resource",
            kernels=without_tiles,
            seconds="resources",
        ),
        Ablation(
            "channels", "with channels at data-sheet peaks: contention", hardware=with_channels
        ),
    )
}


NAMES = (*ABLATIONS, "pinning+tiles")
"""What is shown when all are asked for: each alone, and two that hide each other. On a T4 pinning
and the expert kernel need about the same time, so that either alone may go without effect."""


def find_ablation(name: str) -> Ablation:
    """The ablation of this name; `a+b` is both. Raises `BadInput` for an unknown one.

    >>> find_ablation("pinning+host").title
    "pinning pageable memory takes no time; launches, waits and the host's own work take no time"
    """
    parts = name.split("+")
    for part in parts:
        if part not in ABLATIONS:
            raise BadInput(f"no ablation is named '{part}'{suggest(part, ABLATIONS)}")
    return reduce(_both, (ABLATIONS[part] for part in parts))


def _both(first: Ablation, second: Ablation) -> Ablation:
    return Ablation(
        name=f"{first.name}+{second.name}",
        title=f"{first.title}; {second.title}",
        hardware=lambda hardware: second.hardware(first.hardware(hardware)),
        kernels=lambda kernels: second.kernels(first.kernels(kernels)),
        routing=lambda routing: second.routing(first.routing(routing)),
        recorder=second.recorder or first.recorder,
        seconds=first.seconds if second.seconds == "events" else second.seconds,
    )
