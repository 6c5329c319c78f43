"""The table of recorded routing, `routing.parquet`: its columns, checked, and its file.

A row is a token in a layer: `step` (0: the prompts), `layer`, `request`, `position`, and the
experts it took, `expert_0`, `expert_1`, ...; `batch` and `micro_batch` where there are several.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schedules.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd  # slow to import; most simulations have no recorded routing

IntArray = NDArray[np.int64]
NEEDED = ("step", "layer", "request", "position")
OPTIONAL = ("batch", "micro_batch")
N_EXPERTS = b"n_experts"
"""Key of the file's metadata that says how many experts a layer of the recorded model has."""


def expert_columns(frame: "pd.DataFrame") -> list[str]:
    """`expert_0`, `expert_1`, ... as far as there are any."""
    names = [f"expert_{i}" for i in range(len(frame.columns))]
    return [name for name in names if name in frame.columns]


def read_columns(frame: "pd.DataFrame", where: str) -> dict[str, IntArray]:
    """The columns as arrays; `batch` and `micro_batch` are 0 where there are none.

    Raises `BadInput` for a missing column, a value that is no whole number >= 0, or a token that
    takes an expert twice.
    """
    experts = expert_columns(frame)
    missing = [name for name in (*NEEDED, "expert_0") if name not in frame.columns]
    if missing:
        raise BadInput(
            f"'{where}' lacks the column '{missing[0]}'; recorded routing has "
            f"{', '.join(NEEDED)}, expert_0, ..."
        )
    if experts != [f"expert_{i}" for i in range(len(experts))]:
        raise BadInput(f"'{where}' has the columns {', '.join(experts)}; one between is missing")
    if len(frame) == 0:
        raise BadInput(f"'{where}' has no rows: nothing was recorded")
    columns = {name: _whole(frame, name, where) for name in (*NEEDED, *experts)}
    for name in OPTIONAL:
        there = name in frame.columns
        columns[name] = _whole(frame, name, where) if there else np.zeros_like(columns["step"])
    chosen = np.sort(np.stack([columns[name] for name in experts], axis=1), axis=1)
    if (np.diff(chosen, axis=1) == 0).any():
        raise BadInput(f"'{where}' has a token that takes an expert twice")
    return columns


def _whole(frame: "pd.DataFrame", name: str, where: str) -> IntArray:
    import pandas as pd

    values = frame[name]
    if not pd.api.types.is_integer_dtype(values.dtype) or bool(values.isna().any()):
        raise BadInput(f"'{where}': column '{name}' must hold whole numbers")
    found = values.to_numpy(dtype=np.int64)
    if len(found) and found.min() < 0:
        raise BadInput(f"'{where}': column '{name}' has {found.min()}; it must be >= 0")
    return found


def write_routing(frame: "pd.DataFrame", path: Path, n_experts: int) -> None:
    """Write a table of recorded routing; the file also says how many experts a layer has.

    Raises `BadInput` for a malformed table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = read_columns(frame, str(path))
    kept = [name for name in frame.columns if name in columns]
    table = pa.table({name: pa.array(columns[name].astype(np.int32)) for name in kept})
    pq.write_table(table.replace_schema_metadata({N_EXPERTS: str(n_experts)}), path)
