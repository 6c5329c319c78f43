"""`moelab optimal`: what it prints, writes, and refuses."""

import json

import pytest

from tests.moelab.test_simulate import Page

STEP = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench -N 144 -u 36 --layers 1 --micro-batches 2"
PERIOD = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench -N 504 -u 36 --periodic"


def test_for_people_a_table_and_sentences(cli):
    end = cli("optimal", "cgopipe", *PERIOD.split())
    assert (end.code, end.err, end.written) == (0, "", set())
    table, words = end.out.split("\n\n")
    assert table.splitlines()[0].split() == ["order", "period", "over", "the", "bound"]
    assert "98 tasks: a period of 1 layer, 14 micro-batches of 36, decode step 64." in words
    assert "Optimal: no order of the same tasks is shorter than that of cgopipe." in words
    assert "Bound: the work of stream pin, 331.69 ms." in words


def test_json_and_both_timelines(cli, tmp_path):
    words = [*STEP.split(), "--time-limit", "1", "--timeline", "page.html", "--json", "r.json"]
    end = cli("optimal", "flexgen", *words)
    assert (end.code, end.err, end.written) == (0, "", {"page.html", "r.json"})
    assert end.out.splitlines()[-1] == f"Written: {tmp_path / 'page.html'}"
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["form"] == "makespan"
    assert found["bound_s"] <= found["best_s"] <= found["schedule_s"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert Page(text).loads == []
    assert "flexgen, its own order" in text
    assert "flexgen, the best order found" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--time-limit 0", "a time limit of 0.0 s; it must be above 0 and finite"),
        ("--micro-batches 9", "9 micro-batches were asked for; the batch has 4, at least 1"),
        ("--layers 0", "0 layers were asked for; it must be 1 or more"),
        ("--timeline page.pdf", "cannot write 'page.pdf': its name must end in .html"),
        ("-m mixtral", "no model is named 'mixtral', did you mean 'mixtral-8x7b'"),
    ],
)
def test_mistakes(cli, words, said):
    assert said in cli("optimal", "cgopipe", *STEP.split(), *words.split()).mistake
