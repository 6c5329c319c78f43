"""Measured points on disk."""

import json

import pytest

from runtime.calibration.store import Point, Store
from schedules.errors import BadInput

COPY = Point("copy", {"link": "h2d", "size_bytes": 4096}, {"bytes": 4096}, (1.5e-6, 2e-6))
PIN = Point("pin", {"threads": 2}, {"bytes": 64}, (1e-3,))


@pytest.fixture
def path(tmp_path):
    """A file with two points."""
    found = tmp_path / "raw" / "points.jsonl"
    store = Store(found)
    store.add(COPY)
    store.add(PIN)
    return found


def test_a_file_that_is_not_there_has_no_points(tmp_path):
    assert Store(tmp_path / "none.jsonl").points() == ()
    assert not (tmp_path / "none.jsonl").exists()


def test_points_come_back_in_order(path):
    assert Store(path).points() == (COPY, PIN)
    assert all(point.at > 0 for point in Store(path).points())


def test_a_point_is_one_line_of_json(path):
    line = json.loads(path.read_text().splitlines()[0])
    assert line.keys() == {"bench", "params", "amount", "seconds", "at"}
    assert line["seconds"] == [1.5e-6, 2e-6]


def test_parameters_are_equal_in_any_order_and_by_type(path):
    store = Store(path)
    assert store.has("copy", {"size_bytes": 4096, "link": "h2d"})
    assert not store.has("copy", {"link": "h2d"})
    assert not store.has("copy", {"link": "h2d", "size_bytes": "4096"})
    assert not store.has("pin", COPY.params)


def test_measured_again_the_newer_point_counts(path):
    again = Point("copy", COPY.params, COPY.amount, (3e-6,))
    store = Store(path)
    store.add(again)
    assert store.points() == Store(path).points() == (PIN, again)


@pytest.mark.parametrize("keep", [1, 10, -2])
def test_a_torn_last_line_is_dropped(path, keep):
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:keep])
    store = Store(path)
    assert store.points() == (COPY,)
    store.add(PIN)
    assert Store(path).points() == (COPY, PIN)


def test_a_whole_line_without_its_end_is_torn_too(path):
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    store = Store(path)
    assert store.points() == (COPY,)
    store.add(PIN)
    assert Store(path).points() == (COPY, PIN)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting"),
        ("[1]", "not an object"),
        ('{"bench": "copy", "params": {}, "seconds": [1]}', "has no 'amount'"),
        ('{"bench": 1, "params": {}, "amount": {}, "seconds": [1]}', "must be a text"),
        ('{"bench": "a", "params": {}, "amount": {}, "seconds": []}', "'seconds'"),
        ('{"bench": "a", "params": {}, "amount": {}, "seconds": [-1]}', "'seconds'"),
        ('{"bench": "a", "params": {}, "amount": {}, "seconds": [NaN]}', "'seconds'"),
        ('{"bench": "a", "params": {}, "amount": {"bytes": "2"}, "seconds": [1]}', "'amount'"),
    ],
)
def test_a_bad_line_in_the_middle_is_an_error(path, line, why):
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(BadInput, match=rf"line 2 of .*points\.jsonl.*{why}"):
        Store(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        Store(tmp_path)
