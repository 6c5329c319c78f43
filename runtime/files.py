"""The files of a run's folder.

    tokens.jsonl       a line per prompt, in their order: index, prompt_token_ids, token_ids
                       (generated, with the end-of-sequence token), text (null without a tokenizer)
    timeline.parquet   when each task ran, all batches
    result.json        the measured result
    routing.parquet    which experts the tokens took, where the session kept it
    verification.json  with --verify

While it runs: `tokens.partial.jsonl` (the journal), `run.lock`, and `parts/` with the measurements
of each finished batch, so that a resumed run has those of the batches before. Every file appears
whole or not at all.

In `timeline.parquet` and `routing.parquet` batches follow one another, each as a generation of its
own: `step` 0 is prefill in every batch, the column `batch` tells them apart, times continue where
the batch before ended, tasks are counted through. Opening a session takes no time there.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runtime.journal import TOKENS, Finished, Journal
from runtime.outcome import BatchRecord
from runtime.tokenizer import Tokenizer
from schedules.errors import BadInput, MoelabError
from schedules.timeline import Timeline

PARTS = "parts"
RESULT, TIMELINE, ROUTING, VERIFICATION = (
    "result.json",
    "timeline.parquet",
    "routing.parquet",
    "verification.json",
)


class RunFiles:
    """The folder of a run, next to its journal.

    Parameters
    ----------
    journal: open; unless it was resumed, parts that an older run left are deleted.
    name: of the timeline, for titles.
    """

    def __init__(self, journal: Journal, name: str) -> None:
        self.folder = journal.folder
        self._journal = journal
        self._name = name
        self._parts = self.folder / PARTS
        if not journal.resumed:
            shutil.rmtree(self._parts, ignore_errors=True)

    def keep(self, record: BatchRecord, timeline: Timeline, routing: pd.DataFrame | None) -> None:
        """Save a batch's measurements; for `generate`. Raises `MoelabError` when it cannot."""
        stem = self._stem(record)
        with _writing(self._parts):
            self._parts.mkdir(exist_ok=True)
        _as_moelab_error(timeline, stem.with_suffix(f".{TIMELINE}"))
        if routing is not None:
            rows = routing.assign(request=routing["request"] + record.first)
            with replaced(stem.with_suffix(f".{ROUTING}")) as partial:
                pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), partial)
        write_json(stem.with_suffix(".json"), record.to_dict())  # last: the part is complete

    def records(self) -> tuple[BatchRecord, ...]:
        """Those of all batches whose measurements were saved, also by interrupted runs before."""
        return tuple(
            BatchRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
            for path in sorted(self._parts.glob("*.json"))
        )

    def write(
        self,
        sequences: Sequence[Finished],
        prompts: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        result: Mapping[str, Any],
    ) -> None:
        """Write all results, the tokens first, and remove what only an unfinished run needs."""
        write_tokens(self.folder / TOKENS, sequences, prompts, tokenizer)
        records = self.records()
        self._merge(records, TIMELINE)
        write_json(self.folder / RESULT, result)
        self._merge(records, ROUTING)
        self._journal.remove()
        shutil.rmtree(self._parts, ignore_errors=True)

    def _stem(self, record: BatchRecord) -> Path:
        return self._parts / f"{record.number:05d}"

    def _merge(self, records: Sequence[BatchRecord], name: str) -> None:
        """The parts of all batches as one file, one batch in memory at a time."""
        tables = self._tables(records, name)
        first = next(tables, None)
        if first is None:
            return
        with (
            replaced(self.folder / name) as partial,
            pq.ParquetWriter(partial, first.schema) as writer,
        ):
            writer.write_table(first)
            for table in tables:
                writer.write_table(table.cast(first.schema))

    def _tables(self, records: Sequence[BatchRecord], name: str) -> Iterator[pa.Table]:
        task, offset_s = 0, 0.0
        streams = list(dict.fromkeys(stream for r in records for stream in r.busy_s))
        own = json.dumps({"streams": streams, "name": self._name}).encode()
        for record in records:
            path = self._stem(record).with_suffix(f".{name}")
            if not path.is_file():
                continue
            table, metadata, span_s = pq.read_table(path), None, record.makespan_s
            if name == TIMELINE:
                table = _shifted(table, task, offset_s)
                metadata = {b"moelab": own}
                span_s = max(span_s, (pc.max(table["end_s"]).as_py() or 0.0) - offset_s)
            number = pa.repeat(pa.scalar(record.number, pa.int64()), len(table))
            yield table.replace_schema_metadata(metadata).append_column("batch", number)
            task, offset_s = task + record.tasks, offset_s + span_s


def _shifted(table: pa.Table, task: int, offset_s: float) -> pa.Table:
    for column, offset in (("task", task), ("start_s", offset_s), ("end_s", offset_s)):
        number = table.schema.get_field_index(column)
        table = table.set_column(number, column, pc.add(table[column], offset))
    return table


def _as_moelab_error(timeline: Timeline, path: Path) -> None:
    try:
        timeline.to_parquet(path)
    except BadInput as error:  # the folder is ours: what fails here is the disk, not the question
        raise MoelabError(str(error)) from None


def write_tokens(
    path: Path,
    sequences: Sequence[Finished],
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
) -> None:
    """`tokens.jsonl`, sorted by index. Raises `MoelabError` when it cannot be written."""

    def lines() -> Iterator[str]:
        for s in sorted(sequences, key=lambda s: s.index):
            line = {
                "index": s.index,
                "prompt_token_ids": list(prompts[s.index]),
                "token_ids": list(s.token_ids),
                "text": tokenizer.decode(s.token_ids),
            }
            yield json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"

    write_lines(path, lines())


def write_json(path: Path, value: Any) -> None:
    """Plain values as JSON. Raises `MoelabError` when it cannot be written."""
    write_lines(path, [json.dumps(value, indent=2, allow_nan=False) + "\n"])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Text, whole or not at all. Raises `MoelabError` when it cannot be written."""
    with replaced(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, which becomes `path` unless the block fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _writing(path):
            yield partial
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MoelabError(f"cannot write '{path}': {error.strerror or error}") from None
