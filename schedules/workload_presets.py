"""Workloads by name or file: published ones, `fixed-P`, `random-P-G`, files of prompt lengths."""

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schedules.errors import BadInput, suggest
from schedules.length_files import read_lengths, read_text
from schedules.lengths import Fixed
from schedules.workload import Workload

DEFAULT_GEN_LEN = 32  # the shortest generation length of MoE-Lightning, arXiv 2411.11217, table 3
_FILE_ENDINGS = (".csv", ".jsonl", ".toml")
_PATTERNS = {"fixed": "fixed-512", "random": "random-256-32"}


def workload_names() -> tuple[str, ...]:
    """Names of the published workloads, in alphabetical order.

    >>> workload_names()
    ('helm-summarization', 'helm-synthetic-reasoning', 'mtbench')
    """
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir()))


def load_workload(
    name_or_path: str | Path, gen_len: int | None = None, padded: bool | None = None
) -> Workload:
    """The workload of this name or in this file.

    A name is one of `workload_names()`, `fixed-P` (every prompt P tokens, 32 generated) or
    `random-P-G` (every prompt P random tokens, G generated). A file is a `.csv` or `.jsonl` of
    prompt lengths (see `length_files.read_lengths`; 32 generated), or a `.toml` with the fields of
    `Workload`. `gen_len` (tokens) and `padded` replace the workload's own; where it has none,
    prompts are padded to the longest.

    Raises `BadInput` for an unknown name, a missing or malformed file, or an impossible value.

    >>> load_workload("random-256-32", gen_len=64).gen_len
    64
    """
    found = _find(name_or_path)
    changes = {"gen_len": gen_len, "padded": padded}
    given = {key: value for key, value in changes.items() if value is not None}
    return _workload(dict(found) | given, found.name)


def _find(name_or_path: str | Path) -> Workload:
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in workload_names():
        return _from_toml((_folder() / f"{name}.toml").read_text(encoding="utf-8"), name)
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix in _FILE_ENDINGS:
        return _from_file(path)
    if name.split("-")[0] in _PATTERNS:
        return _from_pattern(name)
    raise BadInput(
        f"no workload is named '{name}'{suggest(name, [*workload_names(), *_PATTERNS.values()])}"
    )


def _folder() -> Any:
    return resources.files("schedules") / "presets" / "workloads"


def _from_pattern(name: str) -> Workload:
    match = re.fullmatch(r"fixed-([0-9]{1,10})|random-([0-9]{1,10})-([0-9]{1,10})", name)
    if match is None:
        example = _PATTERNS[name.split("-")[0]]
        raise BadInput(f"no workload is named '{name}'; write it with tokens as in '{example}'")
    prompt = int(match[1] or match[2])
    return Workload(
        name=name,
        prompt_lengths=Fixed(tokens=prompt),
        gen_len=int(match[3] or DEFAULT_GEN_LEN),
        padded=True,
        source=f"by definition: every prompt has {prompt} tokens",
    )


def _from_file(path: Path) -> Workload:
    if path.suffix.lower() == ".toml":
        return _from_toml(read_text(path), str(path))
    if path.suffix.lower() not in _FILE_ENDINGS:
        raise BadInput(f"{path}: a workload file must end in {', '.join(_FILE_ENDINGS)}")
    return Workload(
        name=path.stem,
        prompt_lengths=read_lengths(path),
        gen_len=DEFAULT_GEN_LEN,
        padded=True,
        source=f"prompt lengths in {path.name}",
    )


def _from_toml(text: str, where: str) -> Workload:
    try:
        return _workload(tomllib.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not TOML: {error}") from None


def _workload(fields: dict[str, Any], where: str) -> Workload:
    try:
        return Workload.model_validate(fields)
    except BadInput as error:
        raise BadInput(f"workload {where}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"workload {where}: {place}: {first['msg']}") from None
