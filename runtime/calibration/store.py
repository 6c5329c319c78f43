"""Measured points, each on disk as soon as it is there: a calibration that stops can go on.

One JSON object a line: `bench`, `params`, `amount`, `seconds` (of each repetition), and `at`, the
Unix time. A point is known by its bench and params; measured again, the newer one counts.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schedules.errors import BadInput, MoelabError

Value = str | int | float | bool
Params = Mapping[str, Value]
Key = tuple[str, Params]


@dataclass(frozen=True)
class Point:
    """One thing that was measured.

    Parameters
    ----------
    bench: what kind of thing.
    params: which of its kind.
    amount: what each repetition did, by unit: `bytes`, `flops`, `calls`.
    seconds: of each repetition.
    at: Unix time at which it ended; 0 when it is not stored yet.
    """

    bench: str
    params: Params
    amount: Mapping[str, float]
    seconds: tuple[float, ...]
    at: float = field(default=0.0, compare=False)


class Store:
    """The points of one JSONL file, which need not exist yet.

    A last line that is torn (the writer was killed) is dropped. Raises `BadInput` when another line
    is no point, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._points: dict[str, Point] = {}
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise BadInput(f"cannot read '{path}': {error.strerror}") from None
        self._whole_bytes = self._read(data)

    def has(self, bench: str, params: Params) -> bool:
        """Whether a point with exactly these parameters is there."""
        return _key(bench, params) in self._points

    def add(self, point: Point) -> None:
        """Append a point; it is in the file when this returns.

        Raises `MoelabError` when the file cannot be written.
        """
        point = Point(point.bench, point.params, point.amount, point.seconds, time.time())
        line = (json.dumps(_as_json(point), separators=(",", ":")) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._whole_bytes)
                file.write(line)
        except OSError as error:
            raise MoelabError(f"cannot write '{self.path}': {error.strerror}") from None
        self._whole_bytes += len(line)
        self._keep(point)

    def points(self) -> tuple[Point, ...]:
        """All points, in the order in which they were measured."""
        return tuple(self._points.values())

    def _keep(self, point: Point) -> None:
        key = _key(point.bench, point.params)
        self._points.pop(key, None)  # the newer one stands at its own place
        self._points[key] = point

    def _read(self, data: bytes) -> int:
        """Keep the points of a file; returns how many of its bytes are whole lines."""
        lines, whole = data.splitlines(keepends=True), 0
        for number, line in enumerate(lines, 1):
            try:
                point = _point(line)
            except ValueError as error:
                if number == len(lines):
                    break
                raise BadInput(
                    f"line {number} of '{self.path}' is no measured point ({error}); "
                    f"remove the line, or the file to measure anew"
                ) from None
            if not line.endswith(b"\n"):
                break
            self._keep(point)
            whole += len(line)
        return whole


def _key(bench: str, params: Params) -> str:
    return json.dumps([bench, dict(params)], sort_keys=True)


def _as_json(point: Point) -> dict[str, Any]:
    return {
        "bench": point.bench,
        "params": dict(point.params),
        "amount": dict(point.amount),
        "seconds": [round(s, 10) for s in point.seconds],
        "at": round(point.at, 3),
    }


def _point(line: bytes) -> Point:
    """A line's point. Raises `ValueError` with what is wrong."""
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    missing = {"bench", "params", "amount", "seconds"} - found.keys()
    if missing:
        raise ValueError(f"it has no '{min(missing)}'")
    bench, params, amount, seconds = (found[k] for k in ("bench", "params", "amount", "seconds"))
    if not isinstance(bench, str) or not isinstance(params, dict) or not isinstance(amount, dict):
        raise ValueError("'bench' must be a text, 'params' and 'amount' objects")
    if not isinstance(seconds, list) or not seconds or not _all_times([*seconds]):
        raise ValueError("'seconds' must be a list of times")
    if not _all_times([*amount.values(), found.get("at", 0)]):
        raise ValueError("'amount' and 'at' must hold numbers")
    return Point(bench, params, amount, tuple(map(float, seconds)), float(found.get("at", 0)))


def _all_times(values: list[object]) -> bool:
    """Whether all are finite numbers from 0 up."""
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and v >= 0
        for v in values
    )
