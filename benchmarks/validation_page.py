"""Write docs/validation.md and its picture: published figures beside what the simulator says.

Run `python benchmarks/validation_page.py`; it takes about ten minutes, most of them for the
ablations. `--studied FILE` takes those from what `moelab validate --ablate all --json FILE` left.
The prose is in validation_page.md beside this file.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.ablation import NAMES, find_ablation
from sim.ablation_study import study
from sim.accuracy import Checked, summary
from sim.published import read_published
from sim.validate import check_row

ROOT = Path(__file__).parents[1]
TEMPLATE = Path(__file__).with_suffix(".md")
PAGE, IMAGE = ROOT / "docs" / "validation.md", ROOT / "docs" / "images" / "validation.png"

KINDS = {
    "throughput": ("throughput", 0.15),
    "latency": ("latencies and operation times", 0.08),
    "memory": ("peak memory", 0.05),
}
"""Kinds of figures: their names on the page, and the median absolute error that is aimed at."""


def main() -> None:
    """Write the page and the picture."""
    from validation_picture import picture, write_png

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studied", type=Path)
    given = parser.parse_args()
    published = read_published()
    checked = [check_row(row) for row in published]
    if given.studied is None:
        studied = study(published, [find_ablation(name) for name in NAMES], progress=print)
    else:
        studied = json.loads(given.studied.read_text(encoding="utf-8"))["ablations"]
    PAGE.write_text(page(checked, studied), encoding="utf-8")
    write_png(picture(checked), IMAGE)


def page(checked: Sequence[Checked], studied: Sequence[Mapping[str, Any]]) -> str:
    """The template with its tables."""
    figures = summary(checked)
    found = {
        "whole": whole(figures),
        "kinds": kinds(figures["by_kind"]),
        "sources": sources(figures["by_source"]),
        "ablations": ablations(studied),
        "rows": rows([c.to_dict() for c in checked]),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, table in found.items():
        text = text.replace("{{" + name + "}}", table.rstrip("\n"))
    return text


def whole(figures: Mapping[str, Any]) -> str:
    """The summary of all rows, a sentence."""
    return (
        f"Of {figures['n']} figures {figures['n_simulated']} are simulated: median error "
        f"{_share(figures['median_abs_error'])}, 90th percentile "
        f"{_share(figures['p90_abs_error'])};\n{_share(figures['pairwise_order'])} of the pairs "
        "within a cell are in the right order."
    )


def kinds(by_kind: Mapping[str, Any]) -> str:
    """One line per kind of figure, with what is aimed at."""
    head = (
        "| kind | rows | median error | aim | 90th percentile | order |\n|---|--:|--:|--:|--:|--:|"
    )
    lines = [
        f"| {name} | {m['n']} | {_share(m['median_abs_error'])} | {_share(aim)} | "
        f"{_share(m['p90_abs_error'])} | {_share(m['pairwise_order'])} |"
        for kind, (name, aim) in KINDS.items()
        for m in [by_kind[kind]]
    ]
    return "\n".join([head, *lines])


def sources(by_source: Mapping[str, Any]) -> str:
    """One line per source and metric."""
    head = "| source | metric | rows | median error | 90th percentile |\n|---|---|--:|--:|--:|"
    lines = [
        f"| {source} | {metric} | {m['n']} | {_share(m['median_abs_error'])} | "
        f"{_share(m['p90_abs_error'])} |"
        for source, group in by_source.items()
        for metric, m in group["by_metric"].items()
    ]
    return "\n".join([head, *lines])


def ablations(studied: Sequence[Mapping[str, Any]]) -> str:
    """One line per ablation; the simulator as it is comes first."""
    head = (
        "| `--ablate` | what is different | throughput | latencies, operations | memory | order | "
        "rows that change | their error with | and without |\n"
        "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    lines = []
    for one in studied:
        medians = [one["by_kind"].get(kind, {}).get("median_abs_error") for kind in KINDS]
        cells = [_share(value) for value in (*medians, one["pairwise_order"])]
        cells += [str(one["n_changed"])]
        cells += [_share(one[key]) for key in ("whole_error", "ablated_error")]
        lines.append(f"| `{one['name']}` | {one['title']} | {' | '.join(cells)} |")
    return "\n".join([head, *lines])


def rows(checked: Sequence[Mapping[str, Any]]) -> str:
    """One line per published figure."""
    lines = ["| id | published | simulated | error |", "|---|--:|--:|--:|"]
    for row in checked:
        simulated = "" if row["simulated"] is None else f"{row['simulated']:.4g}"
        error = row["reason"] if row["error"] is None else f"{row['error']:+.1%}"
        lines.append(f"| {row['id']} | {row['published']:.4g} | {simulated} | {error} |")
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
