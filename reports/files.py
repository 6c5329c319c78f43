"""Writing a file so that either all of it is there or nothing is."""

import os
from contextlib import suppress
from pathlib import Path

from schedules.errors import BadInput


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) under a temporary name in the same folder, then rename.

    Raises `BadInput` when the folder does not exist or the file cannot be written there.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if not target.parent.is_dir():
            raise BadInput(f"cannot write '{path}': the folder '{target.parent}' does not exist")
        if target.is_dir():
            raise BadInput(f"cannot write '{path}': it is a folder, a file name is needed")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise BadInput(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # a name that is too long was never there
            partial.unlink(missing_ok=True)
