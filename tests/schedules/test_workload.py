"""Workloads: requests against lengths, presets, names with numbers, files."""

import math

import pytest
from pydantic import ValidationError

from schedules.errors import BadInput
from schedules.lengths import Fixed, Listed, Spread
from schedules.workload import Workload
from schedules.workload_presets import load_workload, workload_names


def quiz(**changes):
    fields = {
        "name": "quiz",
        "prompt_lengths": Listed(lengths=(30, 50, 10)),
        "gen_len": 8,
        "padded": True,
        "source": "this test",
    }
    return Workload(**(fields | changes))


def test_padding_counts_every_prompt_as_the_longest_of_the_workload():
    assert quiz().requests(4) == (30, 50, 10, 30)
    assert quiz().lengths(4) == (50, 50, 50, 50)
    assert quiz().lengths(1) == (50,)
    assert quiz(padded=False).lengths(4) == (30, 50, 10, 30)
    assert (quiz().average, quiz().longest) == (30.0, 50)


def test_a_workload_is_a_value():
    assert quiz() == quiz()
    assert hash(quiz()) == hash(quiz())
    assert Workload.model_validate_json(quiz().model_dump_json()) == quiz()
    with pytest.raises(ValidationError, match="frozen"):
        quiz().gen_len = 9
    with pytest.raises(ValidationError, match="Extra inputs"):
        quiz(batch_size=4)


@pytest.mark.parametrize("gen_len", [0, -1, 1.5, math.nan, "32", None])
def test_gen_len_is_a_whole_number_of_at_least_one(gen_len):
    with pytest.raises(BadInput, match=r"gen_len is .*at least 1"):
        quiz(gen_len=gen_len)


@pytest.mark.parametrize("n", [0, -4, 2.0])
def test_number_of_requests(n):
    for ask in (quiz().requests, quiz().lengths, quiz(padded=False).lengths):
        with pytest.raises(BadInput, match="the number of requests is"):
            ask(n)


@pytest.mark.parametrize(
    ("name", "average", "longest", "gen_len"),
    [
        ("mtbench", 77, 418, 128),
        ("helm-synthetic-reasoning", 242, 256, 50),
        ("helm-summarization", 1693, 1984, 64),
    ],
)
def test_published_workloads(name, average, longest, gen_len):
    """MoE-Lightning (arXiv 2411.11217), table 3."""
    workload = load_workload(name)
    assert workload.name == name
    assert workload.prompt_lengths == Spread(average=average, longest=longest)
    assert (workload.average, workload.longest) == (average, longest)
    assert workload.gen_len == gen_len
    assert workload.padded
    assert "2411.11217" in workload.source
    assert workload.lengths(36) == (longest,) * 36
    assert sum(load_workload(name, padded=False).lengths(36)) == 36 * average


def test_every_name_loads():
    assert len(workload_names()) >= 3
    assert [load_workload(name).name for name in workload_names()] == list(workload_names())


def test_overrides():
    workload = load_workload("mtbench", gen_len=256, padded=False)
    assert (workload.gen_len, workload.padded) == (256, False)
    with pytest.raises(BadInput, match="workload mtbench: gen_len is 0"):
        load_workload("mtbench", gen_len=0)
    with pytest.raises(BadInput, match=r"workload mtbench: padded: .*boolean"):
        load_workload("mtbench", padded="yes")


def test_names_with_numbers():
    fixed, random = load_workload("fixed-512"), load_workload("random-256-64")
    assert (fixed.prompt_lengths, fixed.gen_len) == (Fixed(tokens=512), 32)
    assert (random.prompt_lengths, random.gen_len) == (Fixed(tokens=256), 64)
    assert fixed.name == "fixed-512"
    assert fixed.lengths(2) == (512, 512)
    assert load_workload("random-256-64", gen_len=1).gen_len == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mtbnch", "no workload is named 'mtbnch', did you mean 'mtbench'"),
        ("zzz", "no workload is named 'zzz'; known: fixed-512, helm-summarization"),
        ("", "no workload is named ''"),
        ("fixed", "write it with tokens as in 'fixed-512'"),
        ("fixed-many", "'fixed-many'; write it with tokens as in 'fixed-512'"),
        ("fixed-512-32", "write it with tokens as in 'fixed-512'"),
        ("random-256", "'random-256'; write it with tokens as in 'random-256-32'"),
        ("random-256--3", "write it with tokens as in 'random-256-32'"),
        ("fixed-0", "the prompt length is 0"),
        ("random-256-0", "gen_len is 0"),
        ("gone.csv", "gone.csv: there is no such file"),
        ("some/where", "a workload file must end in .csv, .jsonl, .toml"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(BadInput) as caught:
        load_workload(name)
    assert message in str(caught.value)


@pytest.mark.parametrize("as_text", [True, False])
def test_file_of_lengths(tmp_path, as_text):
    path = tmp_path / "mine.csv"
    path.write_text("length\n10\n30\n")
    workload = load_workload(str(path) if as_text else path)
    assert workload.prompt_lengths == Listed(lengths=(10, 30))
    assert (workload.name, workload.gen_len, workload.padded) == ("mine", 32, True)
    assert load_workload(path, gen_len=5, padded=False).lengths(3) == (10, 30, 10)


TOML = """
name = "mine"
gen_len = {gen_len}
padded = false
source = "here"
[prompt_lengths]
kind = "fixed"
tokens = 5
"""


def test_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML.format(gen_len=7))
    assert load_workload(path) == Workload(
        name="mine", gen_len=7, padded=False, source="here", prompt_lengths=Fixed(tokens=5)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML.format(gen_len=0), "gen_len is 0"),
        (TOML.format(gen_len="nan"), "gen_len is nan"),
        (TOML.format(gen_len=7) + "longest = 9\n", "longest: Extra inputs are not permitted"),
        ("name = 'x'\n", "Field required"),
        ("name = \n", "is not TOML"),
    ],
)
def test_bad_toml_file(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_workload(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
