"""`moelab compare`: schedules side by side, those that cannot run included."""

import json

import pytest

from schedules.result_keys import KEYS
from schedules.schedule import schedules
from tests.moelab.test_simulate import Page

THREE = ["cgopipe", "zero-inference", "gpu-only"]
TWO_GPUS = "-m mixtral-8x7b -H gcp-t4x2-32c -w mtbench --gen-len 2 -N 8 -u 2 --gpus 2"


def test_json_to_standard_output_and_nothing_else(cli, small):
    end = cli("compare", *THREE, *small, "--json", "-")
    assert (end.code, end.err, end.written) == (0, "", set())
    assert list(end.json) == ["results", "winner"]
    assert [r["schedule"] for r in end.json["results"]] == THREE
    first, second, misfit = end.json["results"]
    assert tuple(first) == tuple(second) == KEYS
    assert first["feasible"] is second["feasible"] is True
    fastest = max((first, second), key=lambda r: r["throughput_tok_s"])
    assert end.json["winner"] == fastest["schedule"]
    assert misfit.pop("reason").startswith("pool 'gpu' is too small")
    assert misfit == {
        "schedule": "gpu-only",
        "model": "mixtral-8x7b",
        "hardware": "gcp-t4-24c",
        "workload": "mtbench",
        "feasible": False,
    }


def test_each_result_is_what_simulate_says(cli, small):
    found = cli("compare", "cgopipe", "flexgen", *small, "--json", "-").json["results"]
    for result in found:
        alone = cli("simulate", result["schedule"], *small, "--json", "-").json
        assert alone == result


def test_without_names_all_schedules(cli, small):
    found = cli("compare", *small, "--json", "-").json
    assert [r["schedule"] for r in found["results"]] == list(schedules())


def test_the_table_has_the_fastest_first_and_the_reasons_below(cli, small):
    end = cli("compare", *THREE, *small)
    assert (end.code, end.err) == (0, "")
    lines = end.out.splitlines()
    names = [line.split()[0] for line in lines[1:4]]
    assert names == ["zero-inference", "cgopipe", "gpu-only"]
    reason = " ".join(end.out.split())
    sentence = "gpu-only does not fit: pool 'gpu' is too small: 'expert weights' needs 90.19 GB"
    assert sentence in reason


def test_report_and_json(cli, small, tmp_path):
    end = cli("compare", *THREE, *small, "--report", "page.html", "--json", "r.json")
    assert (end.code, end.err, end.written) == (0, "", {"page.html", "r.json"})
    assert end.out.splitlines()[-1] == f"Written: {tmp_path / 'page.html'}"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert Page(text).loads == []
    for name in THREE:
        assert name in text
    assert "mixtral-8x7b on gcp-t4-24c, mtbench, 3 tokens generated" in text
    assert "pool &#x27;gpu&#x27; is too small" in text or "pool 'gpu' is too small" in text
    assert json.loads((tmp_path / "r.json").read_text())["winner"] == "zero-inference"


def test_nothing_fits_and_that_is_an_answer(cli, small, tmp_path):
    end = cli("compare", "gpu-only", *small, "--report", "page.html", "--json", "r.json")
    assert (end.code, end.written) == (0, {"page.html", "r.json"})
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["winner"] is None
    assert [r["feasible"] for r in found["results"]] == [False]
    assert "gpu-only" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_prefill_only(cli, small):
    end = cli("compare", *THREE, *small, "--gen-len", 1, "--report", "page.html")
    assert (end.code, end.err, end.written) == (0, "", {"page.html"})


def test_a_policy_value_goes_where_it_means_something(cli, small):
    options = [*small, "--policy", "r_h=1", "A_g=1", "--json", "-"]
    found = cli("compare", "cgopipe", "flexgen", "zero-inference", *options).json["results"]
    policies = {r["schedule"]: r["policy"] for r in found}
    assert [(p["A_g"], p["r_h"]) for p in policies.values()] == [(1, 0), (0, 1), (0, 0)]
    assert policies["zero-inference"]["mu"] == policies["zero-inference"]["N"] == 8


def test_schedules_for_one_gpu_stand_aside_when_two_are_asked_for(cli):
    found = cli("compare", "accelerate", "cgopipe", *TWO_GPUS.split(), "--json", "-").json
    aside, run = found["results"]
    assert aside["feasible"] is False
    assert "uses one GPU, but 2 were asked for" in aside["reason"]
    assert run["feasible"] is True
    assert found["winner"] == "cgopipe"


@pytest.mark.parametrize("arguments", [["--gpus", "9"], ["--policy", "r_c=0.5"]])
def test_a_question_that_no_schedule_can_follow_is_wrong(cli, small, arguments):
    end = cli("compare", "cgopipe", *small, *arguments)
    assert (end.code, end.out, end.written) == (2, "", set())
    assert end.err.count("\n") == 1
