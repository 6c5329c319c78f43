"""Task graphs as GraphML and DOT."""

import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from reports.graph_files import quoted, window_graph, write_graph
from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from sim.causes import causes, times_of
from sim.events import events_of


@pytest.fixture
def phases():
    """Two phases of two tasks; the name of one is as bad as can be."""
    issuer = RecordingIssuer(["host", "h2d", "gpu"], {"gpu": 20})
    slot = issuer.buffer("slot", "gpu", 10)
    found = []
    for number in range(2):
        issuer.task('lo"ad\\<&>', "h2d", writes=[slot], layer=3)
        issuer.task("compute", "gpu", reads=[slot], layer=3, micro_batch=1)
        issuer.barrier()
        graph = issuer.take()
        rows = causes(times_of(events_of(graph), np.array([1.0, 2.0]), np.zeros(2)))
        found.append((number, graph, rows))
    return found


def test_nodes_and_edges(phases):
    graph = window_graph(phases)
    assert sorted(graph) == ["0.0", "0.1", "1.0", "1.1"]
    assert sorted(graph.edges(data="kind")) == [("0.0", "0.1", "data"), ("1.0", "1.1", "data")]
    assert graph.nodes["1.1"] == {
        "op": "compute",
        "stream": "gpu",
        "layer": 3,
        "micro_batch": 1,
        "step": 0,
        "start_s": 1.0,
        "end_s": 3.0,
        "slack_s": 0.0,
        "cause": "dependency",
        "critical": True,
    }


def test_graphml_is_read_back(phases, tmp_path: Path):
    graph = window_graph(phases)
    write_graph(graph, tmp_path / "g.graphml")
    read = nx.read_graphml(tmp_path / "g.graphml")
    assert dict(read.nodes(data=True)) == dict(graph.nodes(data=True))
    assert sorted(read.edges(data="kind")) == sorted(graph.edges(data="kind"))


def test_dot(phases, tmp_path: Path):
    write_graph(window_graph(phases[:1]), tmp_path / "g.dot")
    assert (tmp_path / "g.dot").read_text().splitlines() == [
        "digraph tasks {",
        "  rankdir=LR;",
        '  node [shape=box, fontname="sans-serif"];',
        r'  "0.0" [label="lo\"ad\\<&>\nh2d L3", color=red, penwidth=2];',
        r'  "0.1" [label="compute\ngpu L3 mb1", color=red, penwidth=2];',
        '  "0.0" -> "0.1" [style=solid];',
        "}",
    ]


def test_quoted_names_end_where_they_should():
    for name in ('"', "\\", '\\"', "a\nb", ""):
        inside = quoted(name)[1:-1]
        assert re.fullmatch(r'(?:[^"\\\n]|\\.)*', inside)


def test_a_folder_that_is_not_there(phases, tmp_path: Path):
    with pytest.raises(BadInput, match="does not exist"):
        write_graph(window_graph(phases), tmp_path / "no" / "g.dot")
