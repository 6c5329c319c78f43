"""Files of prompt lengths: CSV and JSON Lines."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from schedules.errors import BadInput
from schedules.lengths import Listed, positive_int

LENGTH_COLUMNS = ("prompt_len", "length", "tokens")


def read_lengths(path: Path) -> Listed:
    """The prompt lengths in a file.

    `.csv`: the column `prompt_len`, `length` or `tokens`, or the only column, whose header may be
    missing. `.jsonl`: in each line a whole number, or an object with one of these keys or with
    `prompt_token_ids`, whose items are counted. Blank lines are skipped.

    Raises `BadInput` (file, line, value, what would be right) for anything else.
    """
    parsers: dict[str, Callable[[Path, list[str]], Iterator[int]]]
    parsers = {".csv": _csv_lengths, ".jsonl": _jsonl_lengths}
    if path.suffix.lower() not in parsers:
        raise BadInput(f"{path}: a file of prompt lengths must end in .csv or .jsonl")
    lengths = tuple(parsers[path.suffix.lower()](path, read_text(path).splitlines()))
    if not lengths:
        raise BadInput(f"{path} holds no prompt lengths; it must hold at least one")
    return Listed(lengths=lengths)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; raises `BadInput` when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}") from None


def _csv_lengths(path: Path, lines: list[str]) -> Iterator[int]:
    reader = csv.reader(lines)
    column = width = None
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if column is None:
                column, width = _csv_column(where, cells), len(cells)
                if _is_header(cells[column]):
                    continue
            if len(cells) != width:
                raise BadInput(f"{where}: the number of cells is {len(cells)}; it must be {width}")
            yield _length(where, _number(cells[column]))
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _csv_column(where: str, cells: list[str]) -> int:
    names = [cell.lower() for cell in cells]
    for name in LENGTH_COLUMNS:
        if name in names:
            return names.index(name)
    if len(cells) == 1:
        return 0
    raise BadInput(
        f"{where}: no column is named {' or '.join(LENGTH_COLUMNS)} among {', '.join(cells)}"
    )


def _is_header(cell: str) -> bool:
    return cell.isidentifier() and cell.lower() not in ("nan", "inf", "infinity")


def _number(cell: str) -> object:
    return int(cell) if re.fullmatch(r"[+-]?[0-9]{1,18}", cell) else cell


def _jsonl_lengths(path: Path, lines: list[str]) -> Iterator[int]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield _length(where, _json_value(where, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: not JSON ({error})") from None


def _json_value(where: str, entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    for name in LENGTH_COLUMNS:
        if name in entry:
            return entry[name]
    if isinstance(entry.get("prompt_token_ids"), list):
        return len(entry["prompt_token_ids"])
    raise BadInput(
        f"{where}: the object has none of {', '.join(LENGTH_COLUMNS)}, prompt_token_ids (a list)"
    )


def _length(where: str, value: object) -> int:
    return positive_int(value, f"{where}: the prompt length")
