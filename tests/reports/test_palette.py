"""The same op has the same colour on a whole page."""

from collections.abc import Callable

from reports.palette import MUTED, PALETTE, op_colours
from schedules.timeline import Timeline


def ops(make: Callable[..., Timeline], *lengths: float, stream: str = "gpu") -> Timeline:
    """One task per op a, b, c, ... of these lengths, one after another."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    rows = zip("abcdefghijklmnopqrstuvwxyz", starts, lengths, strict=False)
    return make([(op, stream, 0, 0, 1, start, start + length) for op, start, length in rows])


def test_palette_has_eighteen_different_colours() -> None:
    assert len(set(PALETTE)) == 18
    assert PALETTE[:9] == MUTED


def test_the_longest_op_gets_the_first_colour(make: Callable[..., Timeline]) -> None:
    assert op_colours([ops(make, 1.0, 3.0, 2.0)]) == {
        "b": PALETTE[0],
        "c": PALETTE[1],
        "a": PALETTE[2],
    }


def test_time_adds_up_over_timelines(make: Callable[..., Timeline]) -> None:
    both = op_colours([ops(make, 3.0, 2.0), ops(make, 0.5, 2.0)])
    assert both == {"b": PALETTE[0], "a": PALETTE[1]}


def test_ops_stand_lane_by_lane(make: Callable[..., Timeline]) -> None:
    rows = [("z", "gpu", 0, 0, 1, 0.0, 9.0), ("y", "h2d", 0, 0, 1, 0.0, 1.0)]
    assert list(op_colours([make(rows)])) == ["y", "z"]  # h2d is drawn above gpu


def test_order_of_rows_does_not_matter(make: Callable[..., Timeline]) -> None:
    rows = [(op, "gpu", 0, 0, 1, i, i + 1.0) for i, op in enumerate("abcd")]
    assert op_colours([make(rows)]) == op_colours([make(rows[::-1])])


def test_palette_starts_again_after_the_last_colour(make: Callable[..., Timeline]) -> None:
    colours = op_colours([ops(make, *range(20, 0, -1))])
    assert len(set(colours.values())) == 18
    assert colours["s"] == colours["a"]
