"""`moelab crossover`: what it prints, writes, and refuses."""

import json

import pytest

from tests.moelab.test_simulate import Page

SCENARIO = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 2"
TWO = ["on-demand", "prefetch-all"]
BATCH = [*TWO, "--over", "batch", *SCENARIO.split(), "--to", "16", "--points", "3"]
MEMORY = (
    "gpu-only on-demand --over gpu-memory -m switch-base-8 -H a100-80g-epyc64 -w fixed-64 "
    "--gen-len 2 -N 1 -u 1 --from 1GB --to 16GB --points 3"
)


def test_json_to_standard_output_and_nothing_else(cli):
    end = cli("crossover", *BATCH, "--json", "-")
    assert (end.code, end.err, end.written) == (0, "", set())
    assert end.json["schedules"] == TWO
    (crossing,) = end.json["crossings"]
    assert (crossing["before"], crossing["after"]) == ("on-demand", "prefetch-all")
    assert crossing["first"] == crossing["last"] + 1
    assert {p["value"] for p in end.json["points"]} >= {1, 4, 16}


def test_each_point_is_what_compare_says(cli):
    point = cli("crossover", *BATCH, "--json", "-").json["points"][1]
    words = [*TWO, *SCENARIO.split(), "-N", point["value"], "--json", "-"]
    found = cli("compare", *words).json
    assert (point["results"], point["winner"]) == (found["results"], found["winner"])


def test_for_people_a_table_a_sentence_and_the_ranges(cli):
    end = cli("crossover", *BATCH)
    assert (end.code, end.err) == (0, "")
    table, words = end.out.split("\n\n")
    assert table.splitlines()[0].split() == [
        *("batch", "on-demand", "tok/s", "prefetch-all", "tok/s", "ratio", "winner")
    ]
    assert "The winner changes once over batch: from on-demand to prefetch-all between" in words
    assert "\n1 to " in words
    assert " to 16: prefetch-all is faster." in words


def test_a_winner_by_default(cli):
    end = cli("crossover", *MEMORY.split())
    assert end.code == 0
    assert "on-demand (alone)" in end.out
    said = "on-demand wins by default; gpu-only does not run: pool 'gpu' is too small"
    assert said in " ".join(end.out.split())
    assert "a100-80g-epyc64 has 84.60 GB." in end.out


def test_report_and_json(cli, tmp_path):
    end = cli("crossover", *BATCH, "--report", "page.html", "--json", "r.json")
    assert (end.code, end.err, end.written) == (0, "", {"page.html", "r.json"})
    assert end.out.splitlines()[-1] == f"Written: {tmp_path / 'page.html'}"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert Page(text).loads == []
    assert "on-demand or prefetch-all: mixtral-8x7b on gcp-t4-24c, mtbench" in text
    assert "The winner changes once over batch" in text
    assert len(json.loads((tmp_path / "r.json").read_text())["crossings"]) == 1


@pytest.mark.parametrize(
    ("over", "words", "said"),
    [
        ("batch", "--from 8GB", "--from 8GB: give a whole number of sequences"),
        ("batch", "--from 1.5", "--from 1.5: give a whole number of sequences"),
        ("batch", "--from 9 --to 3", "the range of batch goes from 9 to 3 sequences; it must end"),
        ("batch", "--from 0", "the range of batch begins at 0; it must be above 0"),
        ("batch", "-N 8", "the batch is what is varied; it cannot be given as N = 8 too"),
        ("batch", "-m mixtral", "no model is named 'mixtral', did you mean 'mixtral-8x7b'"),
        ("batch", "--report page.pdf", "cannot write 'page.pdf': its name must end in .html"),
        ("prompt", "--to long", "--to long: give a whole number of tokens"),
        ("pcie", "--from 4", "--from 4: give bytes per second, such as 2.5GB/s"),
        ("pcie", "--to 4GB", "--to 4GB: give bytes per second, such as 2.5GB/s"),
        ("gpu-memory", "--to 16", "--to 16: give bytes with a unit, such as 16GiB or 500MB"),
        ("gpu-memory", "--points 1", "a grid of 1 points; it must have 2 to 1,000"),
    ],
)
def test_mistakes(cli, over, words, said):
    end = cli("crossover", *TWO, "--over", over, *SCENARIO.split(), *words.split())
    assert said in end.mistake


def test_unknown_schedules_and_one_given_twice(cli):
    words = ["--over", "batch", *SCENARIO.split()]
    assert "unknown schedule 'on-deman'" in cli("crossover", "on-deman", TWO[1], *words).mistake
    assert "both are 'sida-x'" in cli("crossover", "sida-x", "sida-x", *words).mistake


def test_nothing_else_can_be_varied(cli):
    end = cli("crossover", *TWO, "--over", "layers", *SCENARIO.split())
    assert (end.code, end.out, end.written) == (2, "", set())
    assert "layers" in end.err
    assert "gpu-memory" in end.err
