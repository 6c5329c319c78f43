"""Where results go: JSON to a file or standard output, tables to the terminal."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from reports.files import write_text
from schedules.errors import BadInput

STANDARD_OUTPUT = Path("-")


def check_target(path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Raise `BadInput` before any work is done when a file could not be written there."""
    if path is None or path == STANDARD_OUTPUT:
        return
    if suffixes and path.suffix not in suffixes:
        raise BadInput(f"cannot write '{path}': its name must end in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write '{path}': the folder '{path.parent}' does not exist")
    if path.is_dir():
        raise BadInput(f"cannot write '{path}': it is a folder, a file name is needed")


def show(json_path: Path | None, *parts: RenderableType) -> None:
    """Print for a person, unless standard output is for JSON alone."""
    if json_path == STANDARD_OUTPUT:
        return
    console = Console()
    if not console.is_terminal:  # a pipe or a log has no width of its own
        console = Console(width=160)
    for part in parts:
        console.print(part)


def write_json(path: Path | None, value: Any) -> None:
    """The result as JSON; `-` is standard output."""
    if path is None:
        return
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        write_text(path, text)
