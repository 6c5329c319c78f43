"""`moelab validate` on files of our own; the shipped figures are in tests/sim/test_validate.py."""

import csv
import io
import json

import pytest

from moelab.validation import missing, validation_parts
from sim import simulate
from sim.ablation import NAMES

RUN = {
    "id": "a",
    "source": "paper, table 1",
    "metric": "throughput_tok_s",
    "value": 1.0,
    "schedule": "cgopipe",
    "model": "mixtral-8x7b",
    "dtype": "float16",
    "hardware": "gcp-t4-24c",
    "n_gpus": 1,
    "workload": "w",
    "prompt_len": 100,
    "prompt_len_max": 100,
    "padded": True,
    "gen_len": 3,
    "batch_size": 8,
    "micro_batch": 2,
}


def table(*rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RUN))
    writer.writeheader()
    writer.writerows(RUN | row for row in rows)
    return text.getvalue()


@pytest.fixture
def published(tmp_path):
    def write(*rows):
        path = tmp_path / "own.csv"
        path.write_text(table(*rows), encoding="utf-8")
        return path

    return write


def test_json_to_standard_output_and_nothing_else(cli, published):
    path = published({}, {"id": "b", "schedule": "cgopip", "value": 2.0})
    end = cli("validate", "--published", path, "--json", "-")
    assert (end.code, end.err, end.written) == (0, "", set())
    assert list(end.json) == ["rows", "summary"]
    good, bad = end.json["rows"]
    expected = simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "fixed-100", 3, 8, 2)
    assert good == {
        "id": "a",
        "source": "paper, table 1",
        "metric": "throughput_tok_s",
        "published": 1.0,
        "simulated": expected.throughput_tok_s,
        "error": expected.throughput_tok_s - 1,
        "reason": None,
    }
    assert (bad["published"], bad["simulated"], bad["error"]) == (2.0, None, None)
    assert bad["reason"] == "unknown schedule 'cgopip', did you mean 'cgopipe'?"
    summary = end.json["summary"]
    assert {"n", "median_abs_error", "p90_abs_error", "pairwise_order", "by_source"} <= set(summary)
    assert summary["n"] == 2
    assert summary["pairwise_order"] == 0
    assert list(summary["by_source"]) == ["paper, table 1"]


def test_table_summary_and_what_is_missing(cli, published):
    path = published(
        {},
        {"id": "b", "schedule": "pre-gate"},
        {"id": "c", "schedule": "pre-gate"},
        {"id": "d", "metric": "joules"},
    )
    end = cli("validate", "--published", path)
    assert (end.code, end.err, end.written) == (0, "", set())
    lines = end.out.splitlines()
    assert lines[0].split() == ["id", "published", "simulated", "error", "source"]
    assert lines[1].split()[:2] == ["a", "1.00"]
    text = " ".join(end.out.split())
    assert "all: n 4, n simulated 1, median abs error 100 %" in text
    assert "paper, table 1: n 4" in text
    assert "Not simulated, and counted as 100 % wrong: 3" in lines
    assert any(line.startswith("2 x unknown schedule 'pre-gate'") for line in lines)
    assert any(line.startswith("1 x metric 'joules' is not known") for line in lines)
    assert lines[-2].endswith("(b, c)")


def test_json_to_a_file(cli, published, tmp_path):
    path = published({})
    end = cli("validate", "--published", path, "--json", "v.json")
    assert (end.code, end.err, end.written) == (0, "", {"v.json"})
    found = json.loads((tmp_path / "v.json").read_text())
    assert found == cli("validate", "--published", path, "--json", "-").json


def test_figures_of_one_source_and_without_pairs(cli, published):
    """One row has no pairs: there is no share to print."""
    end = cli("validate", "--published", published({}))
    assert end.code == 0
    assert "pairwise" not in end.out
    assert "Not simulated" not in end.out


def test_nothing_simulated(cli, published):
    end = cli("validate", "--published", published({"model": "mixtral"}))
    assert end.code == 0
    assert "1 x no model is named 'mixtral', did you mean" in end.out


def test_markup_in_names_is_text(cli, published):
    end = cli("validate", "--published", published({"id": "[red]a", "schedule": "[bold]b"}))
    assert "1 x unknown schedule '[bold]b'" in end.out
    assert "([red]a)" in end.out


def test_kinds_of_figures_have_a_line_each(cli, published):
    rows = [{}, {"id": "b", "metric": "op_s:moe_ffn"}]
    text = " ".join(cli("validate", "--published", published(*rows)).out.split())
    assert "latencies and operation times: n 1, n simulated 1" in text
    assert "throughput: n 1, n simulated 1" in text


def test_ablations(cli, published):
    path = published({}, {"id": "b", "metric": "op_s:moe_ffn"})
    asked = ("validate", "--published", path, "--ablate", "host", "--ablate", "pinning+tiles")
    end = cli(*asked)
    assert (end.code, end.err, end.written) == (0, "", set())
    first = [line.split()[0] for line in end.out.splitlines()[:4]]
    assert first == ["ablation", "none", "host", "pinning+tiles"]
    studied = cli(*asked, "--json", "-").json["ablations"]
    assert [one["name"] for one in studied] == first[1:]
    assert list(studied[0]["by_kind"]) == ["latency", "throughput"]


def test_all_ablations_are_those_with_a_name(cli, published):
    found = cli("validate", "--published", published({}), "--ablate", "all", "--json", "-").json
    assert [one["name"] for one in found["ablations"]] == ["none", *NAMES]


def test_an_unknown_ablation(cli, published):
    end = cli("validate", "--published", published({}), "--ablate", "pining")
    assert (end.code, end.out) == (2, "")
    assert end.err == "moelab: no ablation is named 'pining', did you mean 'pinning'?\n"


def test_many_reasons_name_the_first_and_the_last():
    rows = [{"id": f"r{i}", "reason": "why"} for i in range(5)]
    assert missing(rows) == ["Not simulated, and counted as 100 % wrong: 5", "5 x why (r0, ... r4)"]
    assert missing([]) == []


def test_parts_without_misses_are_a_table():
    row = {"id": "a", "source": "s", "published": 2.0, "simulated": 1.0, "error": -0.5}
    group = {"n": 1, "median_abs_error": 0.5, "pairwise_order": None, "by_metric": {}}
    summary = group | {"by_kind": {"throughput": group}, "by_source": {"s": group}}
    parts = validation_parts({"rows": [row], "summary": summary})
    assert len(parts) == 1
