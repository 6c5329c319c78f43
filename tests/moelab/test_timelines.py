"""Which phases are written, and in which format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moelab.timelines import parse_steps, write_timeline_file
from schedules.errors import BadInput
from schedules.timeline import Timeline
from sim import simulate

LAST = 10


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("0", [0]),
        ("10", [10]),
        ("3-5", [3, 4, 5]),
        ("0,1,5-8", [0, 1, 5, 6, 7, 8]),
        ("5,1", [1, 5]),
        ("1-3,2-4,3", [1, 2, 3, 4]),
        (" 1 , 2-3 ", [1, 2, 3]),
        ("4-4", [4]),
        ("007", [7]),
        ("all", list(range(11))),
    ],
)
def test_steps(text, steps):
    assert parse_steps(text, LAST, ".html") == steps


@given(st.sets(st.integers(0, 40), min_size=1), st.randoms())
def test_any_set_of_steps_comes_back(steps, random):
    words = [f"{s}" if random.random() < 0.5 else f"{s}-{s}" for s in steps]
    random.shuffle(words)
    assert parse_steps(",".join(words), 40, ".html") == sorted(steps)


@pytest.mark.parametrize(
    ("suffix", "last", "steps"),
    [
        (".parquet", 10, list(range(11))),
        (".html", 10, [0, 1, 2]),
        (".json", 10, [0, 1, 2]),
        (".html", 1, [0, 1]),
        (".html", 0, [0]),
        (".parquet", 0, [0]),
    ],
)
def test_by_default_a_page_is_short_and_a_table_whole(suffix, last, steps):
    assert parse_steps(None, last, suffix) == steps


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "1,", "x", "prefill", "-1", "1-", "-", "1--2", "1.5", "nan", "1;2", "ALL"],
)
def test_nonsense(text):
    with pytest.raises(BadInput, match="is not a step like 3, a range like 1-3, or all"):
        parse_steps(text, LAST, ".html")


@pytest.mark.parametrize("text", ["11", "5-11", "3-2", "1,11", "9999999999999999999999"])
def test_steps_that_there_are_not(text):
    with pytest.raises(BadInput, match=r"is outside 0-10 \(0 is prefill\)"):
        parse_steps(text, LAST, ".html")


def tiny() -> Timeline:
    return simulate("accelerate", "switch-base-8", "rtx4090-pc", "fixed-4", 2, 1, 1).timeline()


@pytest.mark.parametrize("suffix", ["parquet", "html", "json"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, suffix):
    def full(path, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(BadInput, match=r"cannot write '.*t\..*': No space left on device"):
        write_timeline_file(tiny(), tmp_path / f"t.{suffix}")
    assert list(tmp_path.iterdir()) == []
