"""Task graphs as files for graph tools: GraphML (yEd, Gephi, Cytoscape, networkx) and DOT."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from reports.files import write_text
from schedules.graph import TaskGraph

FORMATS = (".graphml", ".dot")
EXPLAINED = ("start_s", "end_s", "slack_s", "cause", "critical")
"""Columns of an explanation's tasks that nodes carry."""

STYLES = {"data": "solid", "stream": "dashed"}


def window_graph(phases: Iterable[tuple[int, TaskGraph, pd.DataFrame]]) -> nx.DiGraph:
    """The tasks of some phases as one graph.

    Parameters
    ----------
    phases: number of the phase, its graph, and a row per task, in order of issue, with the columns
        of `EXPLAINED`.

    Nodes are named `PHASE.TASK`; they carry op, stream, layer, micro_batch, step and what explains
    them, edges their `kind`: `data` (a dependency) or `stream` (the task before it).
    """
    whole = nx.DiGraph()
    for number, graph, rows in phases:
        one = graph.to_networkx()
        for name in EXPLAINED:
            nx.set_node_attributes(one, dict(enumerate(rows[name].tolist())), name)
        whole.update(nx.relabel_nodes(one, {task: f"{number}.{task}" for task in one}))
    return whole


def write_graph(graph: nx.DiGraph, path: Path) -> None:
    """Write it in the format of the file's name. Raises `BadInput` if it cannot be written."""
    lines = _dot(graph) if path.suffix == ".dot" else nx.generate_graphml(graph)
    write_text(path, "\n".join(lines) + "\n")


def _dot(graph: nx.DiGraph) -> Iterator[str]:
    """The graph in the DOT language: a box per task, dashed edges along streams."""
    yield "digraph tasks {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, fontname="sans-serif"];'
    for name, task in graph.nodes(data=True):
        label = quoted(f"{task['op']}\n{task['stream']} {_place(task)}")
        colour = ", color=red, penwidth=2" if task["critical"] else ""
        yield f"  {quoted(name)} [label={label}{colour}];"
    for before, after, kind in graph.edges(data="kind"):
        yield f"  {quoted(before)} -> {quoted(after)} [style={STYLES[kind]}];"
    yield "}"


def quoted(text: str) -> str:
    r"""A string of the DOT language.

    >>> print(quoted('a "b"\\c\nd'))
    "a \"b\"\\c\nd"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _place(task: dict[str, Any]) -> str:
    parts = [("L", task["layer"]), ("mb", task["micro_batch"])]
    return " ".join(f"{word}{number}" for word, number in parts if number >= 0)
