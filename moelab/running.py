"""`moelab run`: from the words of the command line to a run, and from its outcome to a table."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from reports.tables import results_table
from schedules.errors import BadInput

if TYPE_CHECKING:
    from runtime.run import Outcome

SHOWN = 8  # prompts of which the generated tokens are printed
HOST_SHARE = 0.9  # of the machine's memory, where --host-memory is not given


def check_installed() -> None:
    """Raise `BadInput` where the runtime's libraries are missing."""
    missing = [n for n in ("torch", "transformers", "safetensors") if not _is_there(n)]
    if missing:
        raise BadInput(
            f"moelab run needs {', '.join(missing)}: install the extra, as in "
            "pip install 'moelab[runtime]'"
        )


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def host_memory_bytes() -> int:
    """Most of this machine's memory."""
    return int(HOST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def parse_threads(text: str | None) -> tuple[int, int]:
    """`D,C` as two numbers; (0, 0), which means half of the cores each, for None."""
    if text is None:
        return 0, 0
    words = text.split(",")
    if len(words) != 2 or not all(word.strip().isdigit() and int(word) for word in words):
        raise BadInput(f"--threads {text}: give two numbers above 0, such as 1,1")
    return int(words[0]), int(words[1])


def outcome_parts(outcome: "Outcome", folder: Path) -> list[RenderableType | str]:
    """The result's row, memory, the first sequences, and where everything lies."""
    result = outcome.result
    parts: list[RenderableType | str] = [
        results_table([dict(result)]),
        memory_line(result),
        sequences_table(outcome),
        f"Written: {folder.resolve()}",
    ]
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
