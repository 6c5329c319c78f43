"""What is said of a gap."""

import pytest

from reports.optimal_table import binds, changes_lines, headline, optimal_table, what

FOUND = {
    "schedule": "mine",
    "form": "makespan",
    "layers": 2,
    "micro_batches": 1,
    "step": 7,
    "tasks": 1200,
    "policy": {"mu": 36},
    "schedule_s": 1.2,
    "best_s": 1.0,
    "bound_s": 0.9,
    "bounds_s": {"gpu": 0.5, "data": 0.8},
    "gap": 0.2,
    "bound_gap": 1 / 9,
    "status": "bounded",
    "changes": [],
}
PROVED = FOUND | {"bound_s": 1.0, "bound_gap": 0.0, "status": "optimal"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (FOUND, "mine takes 20.00 % longer than the best order found; 11.11 % is what is left"),
        (PROVED, "Optimal: mine takes 20.00 % longer than the best order, which is proved"),
        (PROVED | {"gap": 0.0}, "Optimal: no order of the same tasks is shorter than that of mine"),
        (FOUND | {"gap": 0.0}, "No better order was found; mine is at most 11.11 % from the best."),
    ],
)
def test_the_gap_and_whether_it_is_proved(found, said):
    assert headline(found).startswith(said)


def test_what_was_ordered_and_what_binds():
    assert what(FOUND) == "1,200 tasks: a step of 2 layers, 1 micro-batch of 36, decode step 7."
    raised = "the longest chain of data, 800.00 ms, raised to 900.00 ms by the solver."
    assert binds(FOUND) == f"Bound: {raised}"
    assert binds(FOUND | {"bounds_s": {"gpu": 0.9}}) == "Bound: the work of stream gpu, 900.00 ms."


def test_three_rows():
    table = optimal_table(FOUND)
    assert [list(column.cells)[1:] for column in table.columns[1:]] == [
        ["1.0000 s", "900.00 ms"],
        ["11.11 %", "–"],
    ]


def test_a_line_for_each_stream_that_differs():
    change = {"stream": "h2d", "place": 1, "schedule": "a 1", "best": "b 2"}
    lines = changes_lines(FOUND | {"changes": [change, change | {"place": 2}]})
    assert lines == ["The better order on h2d: b 2 for a 1 at place 2; b 2 for a 1 at place 3."]
