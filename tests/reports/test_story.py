"""The sentences follow from the numbers."""

from collections.abc import Callable
from typing import Any

import pytest

from reports.story import bound_tok_s, feasible, headline, over_bound, reason

Make = Callable[..., dict[str, Any]]


def test_feasible_ones_are_ranked(results: list[dict[str, Any]]) -> None:
    assert [r["schedule"] for r in feasible(results)] == ["fast", "slow"]


def test_headline_names_the_ratio_to_each_other(result: Make) -> None:
    three = [result("a", 10.0), result("b", 45.0), result("c", 30.0)]
    assert headline(three) == "b is fastest: 45.0 tokens/s, 1.50× c and 4.5× a."


def test_headline_of_a_tie(result: Make) -> None:
    two = [result("a", 50.0), result("b", 49.9)]
    assert headline(two) == "a is fastest: 50.0 tokens/s, level with b."


@pytest.mark.parametrize("others", [0, 1])
def test_headline_of_one(result: Make, misfit: Make, others: int) -> None:
    only = ", the only schedule that fits" if others else ""
    found = headline([result("a", 50.0), *[misfit("b")] * others])
    assert found == f"a generates 50.0 tokens/s{only}."


@pytest.mark.parametrize(
    ("count", "text"), [(1, "It does not fit."), (2, "None of the 2 schedules fits.")]
)
def test_headline_of_none(misfit: Make, count: int, text: str) -> None:
    assert headline([misfit("a")] * count) == text
    assert "the table says" in reason([misfit("a")] * count)


def test_reason_when_the_others_wait(result: Make) -> None:
    best = result("best", 50.0, h2d=95.0, gpu=10.0)
    others = [result("x", 20.0, h2d=10.0, gpu=60.0), result("y", 10.0, h2d=40.0, gpu=1.0)]
    assert reason([best, *others]) == (
        "It keeps its busiest stream, h2d, busy 95 % of the time, "
        "against 60 % (gpu) for x and 40 % (h2d) for y."
    )


def test_reason_when_another_is_as_busy_but_does_more(result: Make) -> None:
    # 0.9 / 10 busy seconds per token against 0.9 / 50: five times as many
    best, other = result("best", 50.0, h2d=90.0), result("x", 10.0, h2d=90.0)
    assert reason([best, other]) == (
        "It keeps its busiest stream, h2d, busy 90 % of the time; "
        "x is as busy (h2d 90 %) but needs 5.0× as much h2d time per token."
    )


def test_reason_when_the_winner_does_without_the_stream(result: Make) -> None:
    best, other = result("best", 50.0, gpu=90.0), result("x", 10.0, h2d=90.0)
    assert "x is as busy (h2d 90 %) on a stream that best does without" in reason([best, other])


def test_reason_when_a_token_costs_the_same(result: Make) -> None:
    best, other = result("best", 50.0, h2d=95.0), result("x", 48.0, h2d=91.2)
    assert "x is as busy (h2d 91 %) and needs as much h2d time per token" in reason([best, other])


def test_reason_of_one_names_the_bound(result: Make) -> None:
    assert reason([result("a", 50.0)]).endswith(
        "busy 80 % of the time and takes 1.25× its lower bound."
    )


def test_bound_stands_above_the_throughput(result: Make) -> None:
    one = result("a", 50.0)  # 100 s, at least 80 s
    assert bound_tok_s(one) == pytest.approx(62.5)
    assert over_bound(one) == pytest.approx(1.25)
