"""Numbers as people read them, at the edges where rounding changes the number of digits."""

import pytest

from reports import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.6, "1,000"),
        (-38.24, "-38.2"),
        (1e6, "1,000,000"),
        (float("inf"), "inf"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert units.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9996, "1.00 s"), (0.9990, "999 ms"), (3e-9, "3.00 ns"), (3871.9, "3,872 s")],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999.0, "999 B"), (999.9e6, "1.00 GB"), (1.5e12, "1.50 TB")]
)
def test_amount(value: float, text: str) -> None:
    assert units.amount(value, "B") == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.9996, "100 %"), (0.98, "98 %")],
)
def test_percent(share: float, text: str) -> None:
    assert units.percent(share) == text


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.00×"), (1.996, "2.0×"), (9.96, "10×")])
def test_ratio(value: float, text: str) -> None:
    assert units.ratio(value) == text


def test_flatten_leaves_out_what_is_open_at_any_depth() -> None:
    assert units.flatten({"a": None, "b": {"c": {"d": 1}, "e": None}}) == {"b.c.d": 1}


def test_settings_keeps_zero_and_false() -> None:
    assert units.settings({"r_c": 0.0, "pinned": False}) == "r_c=0 pinned=False"
