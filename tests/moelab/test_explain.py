"""`moelab explain`: what it prints, writes, and refuses."""

import json

import networkx as nx
import pytest

from schedules.schedule import schedules
from sim.explanation import TABLES
from tests.moelab.test_simulate import Page

TITLES = ("What the time is due to", "Critical path", "Idle time", "Lower bounds")


def test_json_to_standard_output_and_nothing_else(cli, small):
    end = cli("explain", "cgopipe", *small, "--json", "-")
    assert (end.code, end.err, end.written) == (0, "", set())
    found = end.json
    result = cli("simulate", "cgopipe", *small, "--json", "-").json
    for key in ("schedule", "model", "policy", "throughput_tok_s", "makespan_s", "provenance"):
        assert found[key] == result[key]
    assert set(TABLES) < set(found)
    assert found["bottleneck"][0] == found["sensitivities"][0]["resource"]


def test_for_people_sentences_and_tables(cli, small):
    end = cli("explain", "cgopipe", *small)
    assert (end.code, end.err, end.written) == (0, "", set())
    assert end.out.startswith("cgopipe generates ")
    assert (
        "The bottleneck is the CPU thread that copies weights into pinned memory (links.pin)"
        in (end.out)
    )
    lines = [line.strip() for line in end.out.splitlines()]
    assert [line for line in lines if line in TITLES] == list(TITLES)


@pytest.mark.parametrize("name", sorted(schedules()))
def test_every_schedule_can_be_explained(cli, name):
    words = "-m switch-base-8 -H a100-80g-epyc64 -w mtbench --gen-len 2 -N 4 -u 4"
    end = cli("explain", name, *words.split())
    assert (end.code, end.err) == (0, "")
    assert f"{name} generates" in end.out


def test_options_of_simulate_are_taken(cli, small):
    words = [
        "--modify",
        "experts=int4",
        "--routing",
        "zipf:1.2",
        "--seed",
        3,
        "--policy",
        "r_w=0.1",
    ]
    found = cli("explain", "cgopipe", *small, *words, "--json", "-").json
    result = cli("simulate", "cgopipe", *small, *words, "--json", "-").json
    assert found["makespan_s"] == result["makespan_s"]
    assert found["provenance"] == result["provenance"]


def test_timeline_graph_and_json(cli, small, tmp_path):
    files = ["--timeline", "t.html", "--graph", "g.graphml", "--json", "e.json"]
    end = cli("explain", "flexgen", *small, *files)
    assert (end.code, end.err, end.written) == (0, "", {"t.html", "g.graphml", "e.json"})
    assert end.out.splitlines()[-2:] == [
        f"Written: {tmp_path / f}" for f in ("t.html", "g.graphml")
    ]
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert Page(page).loads == []
    assert "Outlined: the critical path" in page
    graph = nx.read_graphml(tmp_path / "g.graphml")
    assert {task["step"] for _, task in graph.nodes(data=True)} == {1}
    assert any(task["critical"] for _, task in graph.nodes(data=True))
    assert json.loads((tmp_path / "e.json").read_text())["schedule"] == "flexgen"


SHARED = """
based_on = "gcp-t4-24c"
name = "one-dram"
description = "All streams share the host's DRAM"

[channels.cpu]
value = 8e9
source = "made up for this test"
"""


def test_a_machine_whose_streams_share_a_channel(cli, small, tmp_path):
    (tmp_path / "shared.toml").write_text(SHARED)
    files = [
        "-H",
        "shared.toml",
        "--timeline",
        "t.html",
        "--graph",
        "g.graphml",
        "--json",
        "e.json",
    ]
    end = cli("explain", "cgopipe", *small, *files)
    assert (end.code, end.err, end.written) == (0, "", {"t.html", "g.graphml", "e.json"})
    assert "% is lost to sharing the host's DRAM (channel cpu): " in end.out
    assert "What the time is due to (by differences)" in end.out
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["method"] == "differences"
    assert {row["channel"] for row in found["sharing"]} == {"cpu"}
    alone = cli("explain", "cgopipe", *small, "--json", "-").json
    assert (alone["method"], alone["sharing"]) == ("critical path", [])
    assert found["makespan_s"] > alone["makespan_s"]


def test_a_graph_of_chosen_steps(cli, small, tmp_path):
    end = cli("explain", "cgopipe", *small, "--graph", "g.dot", "--steps", "0,2")
    assert (end.code, end.written) == (0, {"g.dot"})
    text = (tmp_path / "g.dot").read_text()
    assert '"0.0"' in text
    assert '"2.0"' in text
    assert '"1.0"' not in text


def test_without_decode_steps_the_graph_is_that_of_prefill(cli, small, tmp_path):
    end = cli("explain", "cgopipe", *small, "--gen-len", 1, "--graph", "g.dot")
    assert (end.code, end.written) == (0, {"g.dot"})
    assert '"0.0"' in (tmp_path / "g.dot").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 1", "--steps chooses what a timeline or a graph shows; give --timeline or"),
        ("--graph g.dot --steps 7", "--steps: '7' is outside 0-2 (0 is prefill)"),
        ("--timeline t.html --steps x", "--steps: 'x' is not a step like 3"),
        ("--timeline t.parquet", "cannot write 't.parquet': its name must end in .html"),
        ("--graph g.svg", "cannot write 'g.svg': its name must end in .graphml, .dot"),
        ("--graph no/g.dot", "cannot write 'no/g.dot': the folder 'no' does not exist"),
        ("--json no/e.json", "cannot write 'no/e.json': the folder 'no' does not exist"),
        ("-m mixtral", "no model is named 'mixtral', did you mean 'mixtral-8x7b'"),
        ("--modify experts=int5", "experts"),
        ("-N 1", "mu = 2"),
    ],
)
def test_mistakes(cli, small, words, said):
    assert said in cli("explain", "cgopipe", *small, *words.split()).mistake


def test_what_does_not_fit_and_what_there_is_not(cli, small):
    assert "unknown schedule 'cgopip', did you mean" in cli("explain", "cgopip", *small).mistake
    assert "gpu-only" in cli("explain", "gpu-onli", *small).mistake
    too_large = [*small, "-N", 8, "-u", 8]
    assert "is too small" in cli("explain", "gpu-only", *too_large).mistake
