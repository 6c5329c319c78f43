"""Quantities that can be varied: each with its unit, its usual range, and what it changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from schedules.errors import BadInput, suggest
from schedules.lengths import Fixed
from sim.hardware_model import Hardware
from sim.scenario import Scenario

LEAST, MOST = 1 / 4, 8  # of the machine's own value: from a link two generations old to three ahead
BATCHES = (1, 1024)  # sequences
PROMPTS = (32, 4096)  # tokens


@dataclass(frozen=True)
class Quantity:
    """Something that a question leaves open.

    Parameters
    ----------
    unit: of its values: `sequences`, `tokens`, `bytes` or `bytes/s`.
    whole: whether it counts something.
    own: its value in a scenario; None where a scenario does not say.
    usual: the range in which it is looked at unless told otherwise, for a scenario.
    changed: a scenario in which it has another value.
    """

    name: str
    unit: Literal["sequences", "tokens", "bytes", "bytes/s"]
    whole: bool
    own: Callable[[Scenario], float | None]
    usual: Callable[[Scenario], tuple[float, float]]
    changed: Callable[[Scenario, float], Scenario]


def find_quantity(name: str) -> Quantity:
    """The quantity of this name. Raises `BadInput` for an unknown one.

    >>> find_quantity("pcie").unit
    'bytes/s'
    """
    if name not in QUANTITIES:
        raise BadInput(f"no quantity is named '{name}'{suggest(name, QUANTITIES)}")
    return QUANTITIES[name]


def with_gpu_memory(hardware: Hardware, memory_bytes: float) -> Hardware:
    """The machine with `memory_bytes` bytes on each GPU.

    >>> from sim.hardware import load_hardware
    >>> with_gpu_memory(load_hardware("gcp-t4-24c"), 32e9).capacities()["gpu"]
    32000000000
    """
    changed = hardware.with_rate("gpu.memory", memory_bytes / hardware.gpu.memory.value)
    name = f"{hardware.name} (GPU memory {memory_bytes / 1e9:.4g} GB)"
    return changed.model_copy(update={"name": name})


def with_pcie(hardware: Hardware, bytes_per_s: float) -> Hardware:
    """The machine with a link to each GPU that sustains `bytes_per_s` host to device.

    Device to host changes by the same factor. A pageable copy is staged, then sent, so per byte the
    link's part of its time changes and the staging does not. What the CPU copies into pinned
    memory, the disk and GPU to GPU stay as they are.

    >>> from sim.hardware import load_hardware
    >>> t4 = load_hardware("gcp-t4-24c")
    >>> links = with_pcie(t4, 2 * t4.links["h2d"].sustained).links
    >>> [f"{links[name].sustained / 1e9:.2f}" for name in ("h2d", "h2d_pageable", "pin")]
    ['24.70', '7.63', '8.50']
    """
    factor = bytes_per_s / hardware.links["h2d"].sustained
    changed = hardware
    for name in ("h2d", "d2h"):
        link, pageable = hardware.link_rate(name), hardware.link_rate(f"{name}_pageable")
        staging = max(0.0, 1 / pageable.sustained - 1 / link.sustained)  # s/byte
        staged = 1 / (staging + 1 / (factor * link.sustained))  # bytes/s
        changed = changed.with_rate(f"links.{name}", factor)
        changed = changed.with_rate(f"links.{name}_pageable", staged / pageable.sustained)
    name = f"{hardware.name} (PCIe {bytes_per_s / 1e9:.4g} GB/s)"
    return changed.model_copy(update={"name": name})


def _prompts(scenario: Scenario) -> tuple[float, float]:
    """Up to what the model has positions for beside what is generated."""
    least, most = PROMPTS
    if not scenario.model.is_encoder_decoder:  # relative positions have no limit
        most = min(most, scenario.model.max_context - scenario.workload.gen_len)
    return least, most


def _with_prompts(scenario: Scenario, tokens: float) -> Scenario:
    """All prompts of the workload are `tokens` long."""
    whole = round(tokens)
    name = f"{scenario.workload.name} (prompts of {whole} tokens)"
    changes = {"prompt_lengths": Fixed(tokens=whole), "name": name}
    return replace(scenario, workload=scenario.workload.model_copy(update=changes))


def _gpu_memory(scenario: Scenario) -> float:
    return scenario.hardware.gpu.memory.value


def _pcie(scenario: Scenario) -> float:
    return scenario.hardware.links["h2d"].sustained


def _around(own: Callable[[Scenario], float]) -> Callable[[Scenario], tuple[float, float]]:
    return lambda scenario: (LEAST * own(scenario), MOST * own(scenario))


QUANTITIES: Mapping[str, Quantity] = {
    found.name: found
    for found in (
        Quantity(
            "batch",
            "sequences",
            whole=True,
            own=lambda scenario: None,
            usual=lambda scenario: BATCHES,
            changed=lambda scenario, _: scenario,  # the batch belongs to the policy
        ),
        Quantity(
            "gpu-memory",
            "bytes",
            whole=False,
            own=_gpu_memory,
            usual=_around(_gpu_memory),
            changed=lambda s, value: replace(s, hardware=with_gpu_memory(s.hardware, value)),
        ),
        Quantity(
            "pcie",
            "bytes/s",
            whole=False,
            own=_pcie,
            usual=_around(_pcie),
            changed=lambda s, value: replace(s, hardware=with_pcie(s.hardware, value)),
        ),
        Quantity(
            "prompt",
            "tokens",
            whole=True,
            own=lambda scenario: None,
            usual=_prompts,
            changed=_with_prompts,
        ),
    )
}
