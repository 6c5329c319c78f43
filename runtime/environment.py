"""Where a run took place: device, driver, versions, clocks. What cannot be asked is null."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "pandas", "pyarrow", "numba")
GPU_QUERY = {
    "driver": "driver_version",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
    "sm_clock_mhz": "clocks.sm",
    "sm_clock_max_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "memory_clock_max_mhz": "clocks.max.mem",
    "pcie_generation": "pcie.link.gen.current",
    "pcie_generation_max": "pcie.link.gen.max",
    "pcie_width": "pcie.link.width.current",
    "ecc": "ecc.mode.current",
}
SMI_TIMEOUT_S = 20.0  # without persistence mode the driver is loaded first

Run = Callable[[Sequence[str]], str | None]


def package_version(name: str = "moelab") -> str | None:
    """The installed version of a package; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def provenance(
    seed: int,
    presets: Mapping[str, Any],
    device: str,
    question: Mapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Where a measured result comes from.

    Parameters
    ----------
    presets: what was asked, with the keys of a simulated result as far as they apply.
    device: `cpu` or `cuda`.
    question: what decided the tokens (`question.question`).
    arguments: the command line; None: that of this process.
    """
    words = sys.argv if arguments is None else arguments
    return {
        "version": package_version() or "uninstalled",
        "seed": seed,
        "presets": dict(presets),
        "question": None if question is None else dict(question),
        "command": shlex.join([Path(words[0]).name, *words[1:]]) if words else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(device),
    }


def environment(device: str) -> dict[str, Any]:
    """The machine and the software, as plain values."""
    import torch

    found: dict[str, Any] = {
        "device": hardware_name(device),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: package_version(name) for name in PACKAGES},
        "cpu": cpu(),
        "torch_threads": torch.get_num_threads(),
        "torch_interop_threads": torch.get_num_interop_threads(),
        "thread_variables": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
            if name in os.environ
        },
    }
    if device == "cuda":
        found["gpu"] = gpu()
    return found


def hardware_name(device: str) -> str:
    """The GPU's name, or the CPU's for a host device.

    The CPU's is followed by the number of cores that this process may use.
    """
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    found = cpu()
    return f"{found['model']}, {found['usable_cores']} cores"


def cpu() -> dict[str, Any]:
    """Model, cores that this process may use, memory, and what governs the clock."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    governor = _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "model": _cpu_field("model name") or platform.processor() or platform.machine(),
        "usable_cores": usable,
        "logical_cores": os.cpu_count(),
        "clock_mhz": _number(_cpu_field("cpu MHz")),
        "governor": governor.strip() if governor else None,
        "memory_bytes": _memory_bytes(),
    }


def gpu() -> dict[str, Any]:
    """The current CUDA device: what torch says, and what `nvidia-smi` says now."""
    import torch

    properties = torch.cuda.get_device_properties()
    major, minor = torch.cuda.get_device_capability()
    found = {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{major}.{minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    uuid = getattr(properties, "uuid", None)
    return found | smi(None if uuid is None else f"GPU-{uuid}")


def smi(uuid: str | None, run: Run | None = None) -> dict[str, Any]:
    """Driver, clocks, power limit and PCIe link of a GPU, from `nvidia-smi`; null without it.

    `run` executes a command and returns its output, None when it failed.
    """
    command = [
        "nvidia-smi",
        f"--query-gpu={','.join(GPU_QUERY.values())}",
        "--format=csv,noheader,nounits",
        *([] if uuid is None else [f"--id={uuid}"]),
    ]
    lines = ((run or _run)(command) or "").splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    if len(cells) != len(GPU_QUERY):
        return dict.fromkeys(GPU_QUERY)
    values = dict(zip(GPU_QUERY, cells, strict=True))
    return {k: v if k in ("driver", "ecc") else _number(v) for k, v in values.items()}


def _run(command: Sequence[str]) -> str | None:
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=SMI_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _cpu_field(name: str) -> str | None:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _number(text: str | None) -> float | int | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return int(value) if value.is_integer() else value
