"""Errors and parts, added up over phases and batches."""

import json

import pytest

from sim.compare_result import RunComparison, error
from tests.sim.compared import Prices, by_hand


@pytest.fixture
def values() -> dict:
    """Two batches, each as by hand: 25 s measured, 22 replayed, 16 simulated."""
    return RunComparison([by_hand(Prices(2.0, 2.0)), by_hand(Prices(2.0, 2.0))]).to_dict()


def test_times(values: dict) -> None:
    assert values["measured"] == {"prefill_s": 24.0, "decode_s": 26.0, "makespan_s": 50.0}
    assert values["replayed"] == {"prefill_s": 22.0, "decode_s": 22.0, "makespan_s": 44.0}
    assert values["simulated"] == {"prefill_s": 16.0, "decode_s": 16.0, "makespan_s": 32.0}
    assert values["error"]["makespan_s"] == pytest.approx(32 / 50 - 1)
    assert values["replay_error"]["decode_s"] == pytest.approx(22 / 26 - 1)
    assert (values["batches"], values["tasks"]) == (2, 24)


def test_the_gap(values: dict) -> None:
    """Of each prefill 0.5 s around the tasks and 0.5 s between them; a step took 1.5 s more."""
    rest = {"host": 0.0, "interaction": 0.0, "contention": 0.0}
    assert values["gap_s"] == {
        "prefill": {"total": 8.0, "around": 1.0, "between": 1.0, "operations": 6.0, **rest},
        "decode": {"total": 10.0, "around": 3.0, "between": 1.0, "operations": 6.0, **rest},
        "makespan": {"total": 18.0, "around": 4.0, "between": 2.0, "operations": 12.0, **rest},
    }


def test_operations_by_worth(values: dict) -> None:
    rows = values["operations"]
    assert [(r["phase"], r["op"]) for r in rows] == [
        ("prefill", "compute"),
        ("prefill", "load"),
        ("decode", "compute"),
        ("decode", "load"),
    ]
    assert rows[0] == {
        "phase": "prefill",
        "op": "compute",
        "stream": "gpu",
        "tasks": 6,
        "measured_s": 18.0,
        "simulated_s": 12.0,
        "contention_s": 0.0,
        "late_s": 1.0,
        "worth_s": 6.0,
        "error": pytest.approx(-1 / 3),
        "share": pytest.approx(6 / 18),
    }


def test_streams_that_worked(values: dict) -> None:
    assert values["busy_s"]["measured"] == {"h2d": 24.0, "gpu": 36.0}
    assert values["busy_s"]["simulated"] == {"h2d": 24.0, "gpu": 24.0}
    assert values["busy_error"] == {"h2d": 0.0, "gpu": pytest.approx(-1 / 3)}


def test_every_phase_that_parts(values: dict) -> None:
    assert [(d["batch"], d["step"]) for d in values["divergences"]] == [
        (batch, step) for batch in range(2) for step in range(2)
    ]


def test_plain_values(values: dict) -> None:
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_no_error_where_nothing_was_measured() -> None:
    assert error(1.0, 0.0) is None
    assert error(1.0, 2.0) == -0.5
