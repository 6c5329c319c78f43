"""Where results go: JSON to a file or standard output, tables to the terminal."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from reports.files import write_text
from schedules.errors import BadInput

STANDARD_OUTPUT = Path("-")
LONGEST_NAME = 200  # bytes; file systems allow 255, and a file has a longer name until it is whole


def check_target(path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Raise `BadInput` before any work is done when a file could not be written there."""
    if path is None or (path == STANDARD_OUTPUT and not suffixes):
        return
    if suffixes and path.suffix not in suffixes:
        raise BadInput(f"cannot write '{path}': its name must end in {', '.join(suffixes)}")
    if not os.path.isdir(path.parent):
        raise BadInput(f"cannot write '{path}': the folder '{path.parent}' does not exist")
    if os.path.isdir(path):
        raise BadInput(f"cannot write '{path}': it is a folder, a file name is needed")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise BadInput(f"cannot write '{path}': its name has more than {LONGEST_NAME} bytes")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"cannot write '{path}': the folder '{path.parent}' is not writable")


def check_distinct(first: Path | None, second: Path | None) -> None:
    """Raise `BadInput` when two results would go to the same file."""
    if first is not None and second is not None and first.resolve() == second.resolve():
        raise BadInput(f"'{first}' was asked for twice; two results need two files")


def show(json_path: Path | None, *parts: RenderableType) -> None:
    """Print for a person, unless standard output is for JSON alone."""
    if json_path == STANDARD_OUTPUT:
        return
    console = Console()
    if not console.is_terminal:  # a pipe or a log has no width of its own
        console = Console(width=160)
    for part in parts:
        if isinstance(part, str):  # a sentence: no markup, no line breaks of our own
            console.print(Text(part), soft_wrap=True)
        else:
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
