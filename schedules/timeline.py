"""The timeline: one row per task, from either clock."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from schedules.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd  # slow to import; who simulates without a timeline needs none

COLUMNS = {
    "task": "int64",
    "op": "object",
    "stream": "object",
    "layer": "int64",
    "micro_batch": "int64",
    "step": "int64",
    "start_s": "float64",
    "end_s": "float64",
    "flops": "float64",
    "bytes": "float64",
    "link_bytes": "float64",
}
"""Columns and their types. `step` 0 is prefill, 1.. are decode steps; `layer` and `micro_batch`
are -1 where they do not apply; `bytes` are read and written in memories, `link_bytes` are moved
over links."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each task ran.

    Parameters
    ----------
    frame: the rows, with the columns of `COLUMNS`; times in seconds.
    streams: all streams, in the order in which lanes are drawn.
    name: what ran, for titles.
    """

    frame: "pd.DataFrame"
    streams: tuple[str, ...]
    name: str = "timeline"

    def __post_init__(self) -> None:
        missing = [c for c in COLUMNS if c not in self.frame.columns]
        if missing:
            raise BadInput(f"timeline '{self.name}' lacks the columns {', '.join(missing)}")
        unknown = sorted(set(self.frame["stream"].unique()) - set(self.streams))
        if unknown:
            raise BadInput(f"timeline '{self.name}' has unknown streams: {', '.join(unknown)}")

    def __len__(self) -> int:
        return len(self.frame)

    def window(self, start_s: float, end_s: float) -> "Timeline":
        """The tasks that run at some time within [start_s, end_s)."""
        rows = (self.frame["end_s"] > start_s) & (self.frame["start_s"] < end_s)
        return Timeline(self.frame[rows].reset_index(drop=True), self.streams, self.name)

    def to_parquet(self, path: str | Path) -> None:
        """Write the rows; the stream order and the name travel in the file's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.frame[list(COLUMNS)], preserve_index=False)
        own = {b"moelab": json.dumps({"streams": self.streams, "name": self.name}).encode()}
        table = table.replace_schema_metadata(own | (table.schema.metadata or {}))
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            if not target.parent.is_dir():
                raise BadInput(
                    f"cannot write '{path}': the folder '{target.parent}' does not exist"
                )
            if target.is_dir():
                raise BadInput(f"cannot write '{path}': it is a folder, a file name is needed")
            pq.write_table(table, partial)
            partial.replace(target)
        except OSError as error:
            raise BadInput(f"cannot write '{path}': {error.strerror or error}") from None
        finally:
            with suppress(OSError):  # a name that is too long was never there
                partial.unlink(missing_ok=True)

    @classmethod
    def from_parquet(cls, path: str | Path) -> "Timeline":
        """Read what `to_parquet` wrote. Raises `BadInput` for anything else."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            meta = json.loads((table.schema.metadata or {})[b"moelab"])
            streams, name = tuple(meta["streams"]), str(meta["name"])
            missing = [c for c in COLUMNS if c not in table.column_names]
            if missing:
                raise ValueError(f"no columns {', '.join(missing)}")
            frame = table.to_pandas().astype({c: t for c, t in COLUMNS.items() if t != "object"})
        except FileNotFoundError:
            raise BadInput(f"timeline file '{path}' does not exist") from None
        except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
            raise BadInput(f"'{path}' is not a moelab timeline in Parquet: {error}") from None
        return cls(frame, streams, name)
