"""Questions for `moelab run` that take a tenth of a second, and what it leaves."""

import json
from pathlib import Path
from typing import Any

from tests.runtime.checkpoints import random_prompts

PROMPTS = random_prompts([3, 9, 1, 7, 5])
GEN_LEN = 4
HERE = "--device cpu --threads 1,1 --gpu-memory 8MiB --host-memory 1GiB"
RESULTS = {"tokens.jsonl", "result.json", "timeline.parquet", "routing.parquet"}
UNFINISHED = "tokens.partial.jsonl"


def write_prompts(path: Path) -> Path:
    """The prompts as token ids, one per line."""
    lines = [json.dumps({"prompt_token_ids": ids}) + "\n" for ids in PROMPTS]
    path.write_text("".join(lines))
    return path


def lines(folder: Path | str) -> list[dict[str, Any]]:
    """`tokens.jsonl`."""
    text = (Path(folder) / "tokens.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def tokens(folder: Path | str) -> list[list[int]]:
    """Generated tokens of each prompt."""
    return [line["token_ids"] for line in lines(folder)]


def result(folder: Path | str) -> dict[str, Any]:
    """`result.json`."""
    return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def files(folder: Path | str) -> set[str]:
    """Names of all files of a folder."""
    return {path.name for path in Path(folder).iterdir()}
