"""What becomes of errors when a part is taken away, by hand and on a few rows."""

import pytest

from sim.ablation import WHOLE, find_ablation
from sim.ablation_study import compared, study
from sim.accuracy import Checked
from sim.published import PublishedRow

ROW = PublishedRow(
    id="a",
    source="paper, table 1",
    metric="op_s:kv_transfer",
    value=1e-3,
    model="mixtral-8x7b",
    hardware="gcp-l4-24c",
    prompt_len=128,
    micro_batch=32,
)


def checked(*figures):
    return [Checked(ROW.model_copy(update={"value": 10.0}), value) for value in figures]


def test_only_rows_that_move_are_compared():
    """The first row moves by 0.9 %, the second from 10 to 40 % wrong, the third from 20 to 30 %."""
    found = compared(WHOLE, checked(11, 11, 8), checked(11.099, 14, 7))
    assert found["n_changed"] == 2
    assert found["whole_error"] == pytest.approx(0.15)
    assert found["ablated_error"] == pytest.approx(0.35)
    assert found["by_kind"]["latency"]["median_abs_error"] == pytest.approx(0.3)


def test_a_row_that_fails_without_the_part_has_changed():
    found = compared(WHOLE, checked(11, None), checked(None, None))
    assert (found["n_changed"], found["ablated_error"]) == (1, 1.0)


def test_nothing_changes():
    found = compared(WHOLE, checked(11), checked(11))
    assert (found["n_changed"], found["whole_error"], found["ablated_error"]) == (0, None, None)


def test_a_study_starts_with_the_simulator_as_it_is():
    """36.6 microseconds of fixed costs on a copy of 1.36 ms."""
    heard: list[str] = []
    names = ("host", "tiles")
    found = study([ROW], [find_ablation(name) for name in names], progress=heard.append)
    assert [one["name"] for one in found] == heard == ["none", *names]
    whole, host, tiles = found
    assert (whole["n_changed"], host["n_changed"], tiles["n_changed"]) == (0, 1, 0)
    moved = 32 * 128 * 4096 / 12.35e9
    assert host["ablated_error"] == pytest.approx(moved / 1e-3 - 1, rel=1e-4)
    assert host["whole_error"] == whole["by_kind"]["latency"]["median_abs_error"]
