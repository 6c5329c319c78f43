"""What becomes of the rows that the stages of `gpu.py` write: bounds, goals, timelines."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from systems import Timed

from schedules.timeline import Timeline

BOUND_GOAL, ACCELERATE_GOAL = 0.9, 5.0


def decode_bound(done: Timed) -> dict[str, Any]:
    """The busiest stream of the decode steps, its seconds and their share of the steps'."""
    frame = done.timelines[0].frame
    frame = frame[frame["step"] > 0]
    busy = (frame["end_s"] - frame["start_s"]).groupby(frame["stream"]).sum().to_dict()
    busy["host"] = busy.get("host", 0.0) + len(frame) * (done.issue_s or 0.0)
    stream = max(busy, key=lambda name: busy[name])
    return {
        "decode_busy_s": busy,
        "decode_bound": stream,
        "decode_bound_share": busy[stream] / done.decode_s if done.decode_s else None,
    }


def append_timeline(path: Path, timeline: Timeline, columns: Mapping[str, Any]) -> None:
    """Add the rows of a run, with the same values in these further columns."""
    frames = [pd.read_parquet(path)] if path.exists() else []
    pd.concat([*frames, timeline.frame.assign(**columns)], ignore_index=True).to_parquet(path)


def goals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By budget: CGOPipe's share of its bound, and how many times as fast as accelerate it is.

    Both in the decode steps, which a long generation consists of; `met` is None where one of the
    systems is missing.
    """
    found = []
    for budget in dict.fromkeys(r["budget_bytes"] for r in rows if "budget_bytes" in r):
        own = [r for r in rows if r.get("budget_bytes") == budget and "tokens_per_s" in r]
        other = next((r for r in own if r["system"].startswith("accelerate (")), None)
        for row in (r for r in own if r["system"] == "cgopipe"):
            share = row["decode_bound_share"]
            rate = row["decode_tokens_per_s"]
            faster = rate / other["decode_tokens_per_s"] if other and rate else None
            found.append(
                {
                    "budget_bytes": budget,
                    "memory": row["memory"],
                    "bound_share": share,
                    "bound_met": None if share is None else share >= BOUND_GOAL,
                    "times_accelerate": faster,
                    "accelerate_met": None if faster is None else faster >= ACCELERATE_GOAL,
                }
            )
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The journal of a stage; a last line that is torn is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
