"""What a machine is made of: rates and amounts, each with its source, and the devices.

Units: flops/s, bytes/s, bytes and seconds; GB is 10^9 bytes. Every value must be finite and above
zero, and every source at least ten characters long: a number whose origin nobody can repeat does
not enter.
"""

from collections.abc import Mapping
from reprlib import repr as short
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from schedules.errors import suggest
from schedules.task import KERNELS, DType, KernelClass

Link = Literal["h2d", "d2h", "h2d_pageable", "d2h_pageable", "pin", "pin_parallel", "peer", "disk"]
LINKS: tuple[Link, ...] = get_args(Link)
Channel = Literal["cpu", "gpu", "host_link", "cores", "queue"]

LINKS_OF_ALL: tuple[Link, ...] = (
    "h2d",
    "d2h",
    "h2d_pageable",
    "d2h_pageable",
    "pin",
    "pin_parallel",
)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Source = Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]


class Part(BaseModel):
    """Root of all parts: frozen, and an unknown key is answered with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        unknown = set(given) - set(cls.model_fields) if isinstance(given, dict) else set()
        for key in sorted(map(str, unknown)):
            raise ValueError(f"'{key}' is not a key here{suggest(key, cls.model_fields)}")
        return given


class Rate(Part):
    """How fast something works: flops/s or bytes/s.

    `peak` is what the hardware can do at most, `sustained` (at most the peak) what programs reach
    in a long run; all times use the second.

    >>> Rate(peak=320e9, sustained=220e9, source="T4 data sheet").times(2).peak
    640000000000.0
    """

    peak: Positive
    sustained: Positive
    source: Source

    @model_validator(mode="after")
    def _at_most_the_peak(self) -> "Rate":
        if self.sustained > self.peak:
            raise ValueError(
                f"sustained is {self.sustained:g}; it must be at most the peak, {self.peak:g}"
            )
        return self

    def times(self, factor: float) -> "Rate":
        """This rate, `factor` times as fast; the source says so."""
        return Rate(
            peak=self.peak * factor, sustained=self.sustained * factor, source=_whatif(self, factor)
        )


class Amount(Part):
    """A quantity: bytes, seconds or a share."""

    value: Positive
    source: Source

    def times(self, factor: float) -> "Amount":
        """`factor` times as much; the source says so."""
        return Amount(value=self.value * factor, source=_whatif(self, factor))


class Flag(Part):
    """A yes or no."""

    value: StrictBool
    source: Source


ROOFLINE = "The roofline of MoE-Lightning (arXiv 2411.11217, section 3): the slower of both decides"


def _whatif(part: Rate | Amount, factor: float) -> str:
    return f"what if, x {factor:g}: {part.source}"


Compute = Mapping[DType, Mapping[KernelClass, Rate]]


class _Device(Part):
    """`name`; `memory` in bytes; `compute` in flops/s by dtype and kernel class; `call_s`.

    `overlaps` says whether a kernel computes while its bytes come, as in a roofline; where it does
    not, the seconds of both add up, and its bandwidth is that of its own kernels alone.
    In a file a dtype may say `same_as = "float32"`, with a `source`, instead of its three rates.
    """

    name: Name
    memory: Amount
    compute: Annotated[Compute, Field(min_length=1)]
    memory_bandwidth: Rate
    call_s: Amount
    overlaps: Flag = Flag(value=True, source=ROOFLINE)

    @field_validator("compute", mode="before")
    @classmethod
    def _same_as(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {dtype: _resolved(classes, given) for dtype, classes in given.items()}

    @model_validator(mode="after")
    def _all_classes(self) -> "_Device":
        for dtype, classes in self.compute.items():
            for kernel_class in KERNELS:
                if kernel_class not in classes:
                    raise ValueError(f"compute.{dtype}.{kernel_class} is missing")
        return self


def _resolved(classes: Any, compute: dict[str, Any]) -> Any:
    """The rates of one dtype, with `same_as` followed."""
    if not isinstance(classes, dict) or set(classes) != {"same_as", "source"}:
        return classes
    source, model = classes["source"], compute.get(str(classes["same_as"]))
    if not isinstance(model, dict) or "same_as" in model:
        raise ValueError(f"same_as is {classes['same_as']!r}; it must name a dtype with own rates")
    return {
        name: {**rate, "source": source} if isinstance(rate, dict) else rate
        for name, rate in model.items()
    }


PROCESS_BYTES = 0.72e9
PROCESS_SOURCE = """Fitted to one figure of Pre-gated MoE (arXiv 2308.12066, authors' \
measurements): 1.597 GB of Switch-Base-8, on-demand, on a100-80g-epyc64. Assumed for other GPUs."""


class Gpu(_Device):
    """The GPUs of a machine, all alike.

    `count` of them; `memory`, bytes that one CUDA process can use on one GPU; `compute`, flops/s by
    dtype (a dtype without fast units is left out) and kernel class: `gemm` is a dense cuBLAS GEMM,
    `experts` the grouped or fused GEMM of an MoE layer, `attention` the attention kernel of
    prefill; `memory_bandwidth`, bytes/s; `call_s`, fixed seconds on the device for each kernel;
    `process`, bytes that a process takes beside its tensors (context, libraries' workspaces), which
    count where memory is measured from outside.
    """

    count: Count
    process: Amount = Amount(value=PROCESS_BYTES, source=PROCESS_SOURCE)


class Cpu(_Device):
    """The host processor.

    `cores`, physical; `memory`, bytes of host DRAM; `compute` as for the GPU; `memory_bandwidth`,
    bytes/s, sustained as attention streams the KV cache; `call_s`, fork and join of one parallel
    region.
    """

    cores: Count


FFN_S = 0.32e-3
FFN_SOURCE = """Fitted to one figure of Pre-gated MoE (arXiv 2308.12066, authors' measurements): \
a decoder layer of Switch-Base-8 on a100-80g-epyc64, GPU-only, batch 1. Assumed for other hosts."""


class Host(Part):
    """The thread that issues, an eager PyTorch program.

    `issue_s`, its seconds for each kernel it launches; `sync_s`, its seconds for a blocking
    synchronisation whose work is done; `task_s`, in place of `issue_s`, its seconds for each task
    where workers launch the kernels, as moelab's own runtime does; `ffn_s`, what the system of
    Pre-gated MoE does after each FFN with experts before it issues the next task;
    `pinnable_fraction`, the share of host memory that a program can count on page-locking.
    """

    issue_s: Amount
    sync_s: Amount
    pinnable_fraction: Amount
    ffn_s: Amount = Amount(value=FFN_S, source=FFN_SOURCE)
    task_s: Amount | None = None


class Emulated(Part):
    """A GPU that is none: threads of the host compute in its place, and copy to and from it.

    `gpu_threads` compute for it, `cpu_threads` for the CPU's own tasks; `copy`, bytes/s at which
    one thread copies. Its memory is the host's, so all of its bytes count on the channel `cpu`.
    """

    gpu_threads: Count
    cpu_threads: Count
    copy_rate: Rate


def first_of(error: ValidationError) -> str:
    """The first complaint as one clause: the key, its value and what would be right."""
    first = error.errors()[0]
    on_key = first["loc"][-1:] == ("[key]",)  # a key of a table, not its value
    place = ".".join(map(str, first["loc"][:-1] if on_key else first["loc"]))
    wish = "it must " + first["msg"].partition(" should ")[2]  # "Input should be a valid number"
    match first["type"]:
        case "missing":
            return f"{place} is missing"
        case "value_error":
            return f"{place}: {first['ctx']['error']}".removeprefix(": ")
        case "model_type" | "dict_type" | "mapping_type":
            return f"{place} is {short(first['input'])}; it must be a table of keys and values"
        case _:
            return f"{place} is {'not a key here' if on_key else short(first['input'])}; {wish}"
