"""`moelab run`: from the words of the command line to a run, and from its outcome to a table."""

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from moelab.amounts import parse_bytes, parse_rate
from reports.tables import results_table
from schedules.errors import BadInput
from schedules.policy import make_policy, parse_assignments

if TYPE_CHECKING:
    from runtime.device import DeviceOptions
    from runtime.run import Outcome

SHOWN = 8  # prompts of which the generated tokens are printed
HOST_SHARE = 0.9  # of the machine's memory, where --host-memory is not given
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # v2, v1
LIBRARIES = ("torch", "transformers", "safetensors")


def check_installed() -> None:
    """Raise `BadInput` where the runtime's libraries are missing."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"moelab run needs {', '.join(missing)}: install the extra, as in "
            "pip install 'moelab[runtime]'"
        )


def load_libraries() -> None:
    """Import what the runtime stands on; takes seconds. Raises `BadInput` where that fails."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:  # such as a shared library that is not there
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(f"moelab run needs {name}, which cannot be loaded: {text}") from None


def policy_values(
    batch: int | None, micro_batch: int | None, items: Sequence[str]
) -> tuple[int | None, int | None, dict[str, Any]]:
    """N, mu (None where nobody said) and the other values of the policy, each given once.

    >>> policy_values(None, 2, ["N=8", "weights_on_gpu=0.5"])
    (8, 2, {'r_w': '0.5'})
    """
    from sim.given import MOST_SEQUENCES, given_policy

    given = given_policy(batch, micro_batch, parse_assignments(items))
    whole = make_policy({"N": MOST_SEQUENCES, "mu": 1} | given)
    n, mu = (getattr(whole, key) if key in given else None for key in ("N", "mu"))
    return n, mu, {key: value for key, value in given.items() if key not in ("N", "mu")}


def host_memory_bytes() -> int:
    """Most of this machine's memory, or of its part that a container may use."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # not a container, or "max": no limit
            sizes.append(int(Path(path).read_text(encoding="ascii")))
    return int(HOST_SHARE * min(sizes))


def parse_threads(text: str | None) -> tuple[int, int]:
    """`D,C` as two numbers; (0, 0), which means half of the cores each, for None."""
    if text is None:
        return 0, 0
    words, cores = text.split(","), os.cpu_count() or 1
    if len(words) != 2 or not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", word) for word in words):
        raise BadInput(f"--threads {text}: give two whole numbers, such as 1,1")
    device, cpu = map(int, words)
    if not (1 <= device <= cores and 1 <= cpu <= cores):
        raise BadInput(
            f"--threads {text}: each must be from 1 to {cores}, the cores of the machine"
        )
    return device, cpu


def device_options(
    device: str,
    gpu_memory: str,
    host_memory: str | None,
    link_bandwidth: str | None,
    threads: str | None,
) -> "DeviceOptions":
    """What a run may use, from the words of the command line."""
    from runtime.device import DeviceOptions

    rate = None if link_bandwidth is None else parse_rate(link_bandwidth, "--link-bandwidth")
    gpu_threads, cpu_threads = parse_threads(threads)
    return DeviceOptions(
        device="cuda" if device == "cuda" else "cpu",
        gpu_memory_bytes=parse_bytes(gpu_memory, "--gpu-memory"),
        host_memory_bytes=(
            host_memory_bytes()
            if host_memory is None
            else parse_bytes(host_memory, "--host-memory")
        ),
        link_bytes_per_s=rate,
        gpu_threads=gpu_threads,
        cpu_threads=cpu_threads,
    )


def outcome_parts(outcome: "Outcome", folder: Path) -> list[RenderableType | str]:
    """The result's row, memory, the first sequences, and where everything lies."""
    result = outcome.result
    parts: list[RenderableType | str] = [
        results_table([dict(result)]),
        memory_line(result),
        sequences_table(outcome),
        f"Written: {folder.resolve()}",
    ]
    if outcome.differing:
        parts.append(
            f"Resumed: other tokens came out this time for {outcome.differing} of the sequences "
            "that were finished before; those of before are kept"
        )
    if outcome.verification is not None:
        parts.append(f"Verified: {outcome.verification.sentence}")
    return parts


def memory_line(result: Mapping[str, Any]) -> str:
    """Peak use of the GPU's memory beside what the schedule predicted."""
    measured = result["measured"]
    lines = []
    for pool, used in result["peak_memory_bytes"].items():
        if pool.startswith("gpu"):
            predicted = measured["predicted_peak_memory_bytes"][pool]
            allowed = result["capacity_bytes"][pool]
            lines.append(
                f"Memory of {pool}: {used / 2**20:,.1f} MiB used, {predicted / 2**20:,.1f} MiB "
                f"predicted, {allowed / 2**20:,.1f} MiB allowed"
            )
    return "\n".join(lines)


def sequences_table(outcome: "Outcome") -> Table:
    """The first generated sequences: their texts, or their tokens where there is no tokenizer."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("prompt", justify="right")
    table.add_column("generated")
    for sequence, text in list(zip(outcome.sequences, outcome.texts, strict=True))[:SHOWN]:
        words = " ".join(map(str, sequence.token_ids)) if text is None else repr(text)
        table.add_row(str(sequence.index), words)
    return table
