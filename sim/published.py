"""Published figures: one row per number, with what one must know to simulate it."""

import csv
import io
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from schedules.errors import BadInput
from schedules.length_files import read_text

METRICS = (
    "throughput_tok_s",
    "moe_block_ms",
    "peak_gpu_gb",
    "op_s:kv_transfer",
    "op_s:cpu_attention",
    "op_s:moe_ffn",
)


def _blank(value: Any) -> Any:
    return None if value in ("", None) else value


Blank = BeforeValidator(_blank)
Count = Annotated[int | None, Field(ge=1), Blank]
Share = Annotated[float | None, Field(ge=0, le=1), Blank]
Flag = Annotated[bool | None, Blank]


class PublishedRow(BaseModel):
    """One published number.

    Parameters
    ----------
    id, source: its unique name; paper and table or figure.
    metric, value: what was measured; tokens/s, ms, 10^9 bytes, or seconds of one operation.
    schedule, model, dtype, hardware, n_gpus: names as moelab uses them.
    workload, prompt_len, prompt_len_max, padded, gen_len: average and longest prompt in tokens.
    batch_size, micro_batch, n_micro_batches: N, mu, N / mu; None where not published.
    weights_on_gpu: share of the weights on the GPU. cpu_attention: where the attention core ran.
    cache_policy, cache_ratio: expert cache. note: what else one must know.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    metric: Annotated[str, Field(min_length=1)]
    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    schedule: str = ""
    model: Annotated[str, Field(min_length=1)]
    dtype: str = "float16"
    hardware: Annotated[str, Field(min_length=1)]
    n_gpus: Annotated[int, Field(ge=1)] = 1
    workload: str = ""
    prompt_len: Count = None
    prompt_len_max: Count = None
    padded: Flag = None
    gen_len: Count = None
    batch_size: Count = None
    micro_batch: Count = None
    n_micro_batches: Count = None
    weights_on_gpu: Share = None
    cpu_attention: Flag = None
    cache_policy: str = ""
    cache_ratio: Share = None
    note: str = ""

    @property
    def cell(self) -> tuple[Any, ...]:
        """Rows with the same cell are compared in pairs."""
        return self.metric, self.model, self.hardware, self.workload, self.gen_len


def read_published(path: str | Path | None = None) -> list[PublishedRow]:
    """The rows of a CSV file, or of the figures that come with moelab.

    Raises `BadInput` naming the file, the line and what is wrong with it.
    """
    where = str(path) if path is not None else "published.csv"
    rows = _cells(_text(path), where)
    if len(rows) < 2:
        raise BadInput(f"'{where}' has no rows; it needs a header line and one line per figure")
    header = rows[0]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise BadInput(f"'{where}' has the columns {', '.join(twice)} more than once")
    needed = {name for name, f in PublishedRow.model_fields.items() if f.is_required()}
    if missing := sorted(needed - set(header)):
        raise BadInput(f"'{where}' lacks the columns {', '.join(missing)}")
    found: dict[str, PublishedRow] = {}
    for line, cells in enumerate(rows[1:], start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise BadInput(
                f"'{where}', line {line}: {len(cells)} cells, but the header has {len(header)}"
            )
        row = _row(dict(zip(header, cells, strict=True)), f"'{where}', line {line}")
        if row.id in found:
            raise BadInput(f"'{where}', line {line}: id '{row.id}' stands there twice")
        found[row.id] = row
    return list(found.values())


def _text(path: str | Path | None) -> str:
    if path is None:
        return (files("sim.presets") / "published.csv").read_text(encoding="utf-8")
    return read_text(Path(path))


def _cells(text: str, where: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise BadInput(f"'{where}' is not CSV: {error}") from None


def _row(values: dict[str, str], where: str) -> PublishedRow:
    try:
        return PublishedRow.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0]
        raise BadInput(f"{where}: {key} = {first['input']!r}: {first['msg'].lower()}") from None
