"""Facts of the machine that was measured, for the provenance of a calibration."""

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.calibration.room import available_bytes, cores
from runtime.device import DeviceOptions
from runtime.environment import environment, package_version

CPU = Path("/sys/devices/system/cpu")


def facts(options: DeviceOptions, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Plain values: hardware, driver, clocks, versions, threads, date and command.

    `arguments` are those of the command line; None: of this process. What the machine does not tell
    is None.
    """
    words = sys.argv if arguments is None else arguments
    return {
        "version": package_version() or "uninstalled",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(words[0]).name, *words[1:]]) if words else None,
        "device": options.device,
        "options": {
            "gpu_memory_bytes": options.gpu_memory_bytes,
            "host_memory_bytes": options.host_memory_bytes,
            "link_bytes_per_s": options.link_bytes_per_s,
            "gpu_threads": options.threads[0],
            "cpu_threads": options.threads[1],
        },
        "host": {
            "cores": cores(),
            "threads_per_core": _threads_per_core(),
            "cache_bytes": _caches(),
            "available_bytes": available_bytes(),
            "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        },
        "environment": environment(options.device),
    }


def _threads_per_core() -> int | None:
    """Logical cores of the first physical one; a virtual machine may hide it."""
    listed = _text(CPU / "cpu0/topology/thread_siblings_list")
    return None if listed is None else len(listed.replace("-", ",").split(","))


def _caches() -> dict[str, int]:
    """Bytes of the first core's caches by level: data, or data and instructions."""
    found = {}
    for folder in sorted((CPU / "cpu0/cache").glob("index*")):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        if level and size and kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) * 1024
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
