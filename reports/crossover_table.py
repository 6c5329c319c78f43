"""Where the winner changes, in sentences and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports import units

Crossover = Mapping[str, Any]
"""What `moelab crossover --json` writes."""

TITLES = {
    "batch": "batch",
    "gpu-memory": "GPU memory",
    "pcie": "PCIe",
    "prompt": "prompt length",
}
NONE_RUNS, EQUAL = "neither runs", "equal"


def title_of(found: Crossover) -> str:
    """What is varied, in words."""
    return str(TITLES.get(found["over"], found["over"]))


def quantity(found: Crossover, value: float) -> str:
    """A value of what is varied, with its unit where it has one.

    >>> quantity({"unit": "bytes/s"}, 12.35e9), quantity({"unit": "tokens"}, 1024)
    ('12.35 GB/s', '1,024')
    """
    if found["unit"].startswith("bytes"):
        scaled = units.significant(value / 1e9, digits=4)
        return f"{scaled} GB{found['unit'].removeprefix('bytes')}"
    return f"{value:,.0f}"


def who(verdict: Mapping[str, Any]) -> str:
    """Who wins, and whether it is because the other cannot run.

    >>> who({"winner": "sida", "verdict": "alone"}), who({"winner": None, "verdict": "equal"})
    ('sida (alone)', 'equal')
    """
    if verdict["winner"] is None:
        return EQUAL if verdict["verdict"] == "equal" else NONE_RUNS
    return f"{verdict['winner']} (alone)" if verdict["verdict"] == "alone" else verdict["winner"]


def headline(found: Crossover) -> str:
    """One sentence: how often the winner changes, and in which direction."""
    crossings, title = found["crossings"], title_of(found)
    if not crossings:
        return f"No crossing: {_all_along(found)} over the whole range of {title}."
    words = [
        f"from {_name(found, c['before'], c['last'])} to {_name(found, c['after'], c['first'])} "
        f"between {quantity(found, c['last'])} and {quantity(found, c['first'])}"
        for c in crossings
    ]
    times = "once" if len(words) == 1 else f"{len(words)} times"
    return f"The winner changes {times} over {title}: {'; '.join(words)}."


def range_lines(found: Crossover) -> list[str]:
    """A sentence per range of one verdict, and what the machine itself has."""
    lines = [_range_line(found, part) for part in found["ranges"]]
    if found["own_value"] is not None:
        lines.append(f"{found['hardware']} has {quantity(found, found['own_value'])}.")
    return lines


def crossover_table(found: Crossover) -> Table:
    """Throughputs of both schedules at each point, their ratio, and who wins; changes stand out."""
    first, second = found["schedules"]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    titles = (f"{first} tok/s", f"{second} tok/s", "ratio")
    table.add_column(title_of(found), justify="right", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("winner", no_wrap=True)
    before = None
    for point in shown(found):
        verdict = who(point)
        style = "bold" if before not in (None, verdict) else None
        table.add_row(*map(Text, _cells(found, point)), Text(verdict), style=style)
        before = verdict
    return table


def shown(found: Crossover) -> Sequence[Mapping[str, Any]]:
    """The points of the grid, and both ends of each range; not each halving between them."""
    ends = {part[end] for part in found["ranges"] for end in ("from", "to")}
    return [p for p in found["points"] if p["on_grid"] or p["value"] in ends]


def throughputs(point: Mapping[str, Any]) -> list[float | None]:
    """Tokens/s of both schedules; None for one that cannot run."""
    return [r["throughput_tok_s"] if r["feasible"] else None for r in point["results"]]


def _cells(found: Crossover, point: Mapping[str, Any]) -> list[str]:
    first, second = throughputs(point)
    cells = [units.DASH if speed is None else units.significant(speed) for speed in (first, second)]
    ratio = units.DASH if first is None or second is None else f"{first / second:.3f}"
    return [quantity(found, point["value"]), *cells, ratio]


def _all_along(found: Crossover) -> str:
    winner = found["ranges"][0]["winner"]
    if winner is not None:
        return f"{winner} wins"
    return "the two are equal" if found["ranges"][0]["verdict"] == "equal" else "neither runs"


def _name(found: Crossover, winner: str | None, value: float) -> str:
    """The winner; where there is none, why not."""
    if winner is not None:
        return winner
    return who(next(p for p in found["points"] if p["value"] == value))


def _range_line(found: Crossover, part: Mapping[str, Any]) -> str:
    where = quantity(found, part["from"])
    if part["to"] != part["from"]:
        where += f" to {quantity(found, part['to'])}"
    because = "".join(f"; {name} does not run: {why}" for name, why in part["reasons"].items())
    return f"{where}: {_verb(part)}{because}."


def _verb(part: Mapping[str, Any]) -> str:
    match part["verdict"]:
        case "faster":
            return f"{part['winner']} is faster"
        case "alone":
            return f"{part['winner']} wins by default"
        case "equal":
            return "both are equally fast"
        case _:
            return NONE_RUNS
