"""Both clocks as timelines."""

import pytest

from sim.compare_timeline import aligned
from tests.sim.compared import Prices, by_hand


@pytest.mark.parametrize("compute", [2.0, 5.0])
def test_phases_begin_at_the_same_moments(compute: float) -> None:
    """A phase takes 11.5 s measured, 8 or 17 simulated: the next begins when both are done."""
    first, second = aligned(by_hand(Prices(2.0, compute, issue_s=0.25)))
    later = max(11.5, 2.0 + 3 * compute)
    for timeline in (first, second):
        frame = timeline.frame
        begins = frame.groupby("step")["start_s"].min()
        assert begins.tolist() == [0.0, later]
        assert frame["task"].tolist() == list(range(12))
    assert first.frame["op"].tolist() == second.frame["op"].tolist()
    assert (first.name, second.name) == ("measured", "simulated")
    assert second.frame["end_s"].max() == later + 2.0 + 3 * compute


def test_measured_rows_are_as_measured() -> None:
    first, _ = aligned(by_hand(Prices(2.0, 2.0)))
    rows = first.frame[first.frame["step"] == 1]
    assert rows.loc[rows["stream"] == "gpu", "start_s"].tolist() == [13.75, 16.75, 20.0]
    assert rows["link_bytes"].sum() == 12.0
