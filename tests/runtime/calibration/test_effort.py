"""How often a thing is repeated."""

import pytest

from runtime.calibration.effort import EFFORTS, MOST, find_effort, repeated
from schedules.errors import BadInput

NORMAL = EFFORTS["normal"]


@pytest.mark.parametrize(
    ("once_s", "count"),
    [
        (0.0, MOST),
        (NORMAL.least_s / 1000, MOST),
        (NORMAL.least_s / 50, 50),
        (NORMAL.least_s / 2, NORMAL.repeats),
        (2 * NORMAL.least_s, 3),
        (1000.0, 3),
    ],
)
def test_short_things_are_repeated_more_often(once_s, count):
    assert NORMAL.count(once_s) == count


def test_the_warm_up_is_not_counted():
    asked = []

    def times(n):
        asked.append(n)
        return [len(asked) * NORMAL.least_s] * n

    assert repeated(NORMAL, times) == [3 * NORMAL.least_s] * 3
    assert asked == [1, 1, 3]


def test_an_unknown_effort_is_refused():
    with pytest.raises(BadInput, match=r"no effort 'normall', did you mean 'normal'\?"):
        find_effort("normall")
