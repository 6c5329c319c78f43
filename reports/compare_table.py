"""The tables of a comparison page, in HTML."""

import html
from collections.abc import Iterable, Sequence

from reports import units
from reports.story import Result, busiest, feasible, over_bound

HEADERS = (
    ("Schedule", "text"),
    ("Throughput<br>tokens/s", ""),
    ("Prefill<br>s", ""),
    ("Decode<br>s", ""),
    ("TTFT<br>s", ""),
    ("TPOT<br>s", ""),
    ("Makespan /<br>lower bound", ""),
    ("Busiest<br>stream", ""),
    ("Peak GPU memory<br>of capacity", ""),
    ("Batch N /<br>micro-batch \N{GREEK SMALL LETTER MU}", ""),
)

TIMES_S = ("prefill_s", "decode_s", "ttft_s", "tpot_s")


def results_html(results: Sequence[Result]) -> str:
    """One row per schedule, the fastest first; what does not fit stands last, with the reason."""
    ranked = feasible(results)
    rows = [_row(_numbers(result), best=i == 0) for i, result in enumerate(ranked)]
    rows += [_misfit(result) for result in results if not result["feasible"]]
    return f"<table><thead>{_head(HEADERS)}</thead><tbody>{''.join(rows)}</tbody></table>"


def provenance_html(results: Sequence[Result]) -> str:
    """Version, seed and presets that all results share, then what each one has of its own."""
    origins = [_origin(result) for result in results]
    known = [origin for origin in origins if origin]
    shared = (
        {k: v for k, v in known[0].items() if all(o.get(k) == v for o in known)} if known else {}
    )
    headers = [(name, "text") for name in ("Schedule", "Policy", "Own settings")]
    rows = []
    for result, origin in zip(results, origins, strict=True):
        own = {key: value for key, value in origin.items() if key not in shared}
        policy = units.settings(result.get("policy") or {})
        cells = (result["schedule"], policy or units.DASH, units.settings(own) or units.DASH)
        rows.append(_row(zip(cells, ("text", "text long", "text long"), strict=True)))
    common = html.escape(units.settings(shared))
    table = f"<table><thead>{_head(headers)}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<p class="note">{common}</p>{table}'


def _origin(result: Result) -> dict[str, object]:
    """Provenance as flat values; empty for a result that carries none."""
    given = result.get("provenance") or {}
    presets = given.get("presets") or {}
    return units.flatten({**given, "presets": None, **presets})


def gpu_memory(result: Result) -> str:
    """Peak and capacity of the fullest pool of GPU memory, as `13.1 of 15.8 GB`."""
    peak, room = result["peak_memory_bytes"], result["capacity_bytes"]
    pools = [pool for pool in peak if pool.startswith("gpu") and room.get(pool)]
    if not pools:
        return units.DASH
    pool = max(pools, key=lambda name: peak[name] / room[name])
    return f"{peak[pool] / 1e9:.1f} of {room[pool] / 1e9:.1f} GB"


def _numbers(result: Result) -> list[tuple[str, str]]:
    stream, share = busiest(result)
    return [
        (result["schedule"], "text"),
        (units.significant(result["throughput_tok_s"]), "lead-number"),
        *((_seconds(result[name]), "") for name in TIMES_S),
        (units.ratio(over_bound(result)), ""),
        (f"{stream} {units.percent(share)}", ""),
        (gpu_memory(result), ""),
        (units.batch_size(result["policy"]), ""),
    ]


def _seconds(value: float | None) -> str:
    return units.DASH if value is None else units.significant(value)


def _misfit(result: Result) -> str:
    why = html.escape(str(result.get("reason", "")))
    name = html.escape(result["schedule"])
    size = units.batch_size(result.get("policy") or {})
    return (
        f'<tr><td class="text">{name}</td><td class="text long" colspan="{len(HEADERS) - 2}">'
        f"Does not fit: {why}</td><td>{size}</td></tr>"
    )


def _head(headers: Iterable[tuple[str, str]]) -> str:
    return "<tr>" + "".join(f'<th class="{kind}">{text}</th>' for text, kind in headers) + "</tr>"


def _row(cells: Iterable[tuple[object, str]], best: bool = False) -> str:
    inner = "".join(f'<td class="{kind}">{html.escape(str(text))}</td>' for text, kind in cells)
    return f"<tr{' class=best' if best else ''}>{inner}</tr>"
