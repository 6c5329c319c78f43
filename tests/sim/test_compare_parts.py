"""What a difference is due to, exchanged part by part."""

import pytest

from sim.compare_parts import operations, worth
from tests.sim.compared import Prices, abreast, by_hand


def test_the_operation_that_is_slower_is_worth_all() -> None:
    """Measured computations of 3 s instead of 2: 11 s instead of 8."""
    found = worth(by_hand(Prices(load=2.0, compute=2.0)).phases[0])
    assert found.operations == {("load", "h2d"): 0.0, ("compute", "gpu"): 3.0}
    assert (found.host, found.interaction, found.contention) == (0.0, 0.0, 0.0)


def test_a_faster_operation_counts_negative() -> None:
    """Computations of 3 s instead of 4: 2 + 3 x 3 instead of 2 + 3 x 4."""
    found = worth(by_hand(Prices(load=2.0, compute=4.0)).phases[0])
    assert found.operations == {("load", "h2d"): 0.0, ("compute", "gpu"): -3.0}


def test_the_host() -> None:
    """The simulated thread needs 0.5 s for the first task and 0.25 s at the barrier."""
    found = worth(by_hand(Prices(2.0, 3.0, issue_s=0.5, sync_s=0.25)).phases[0])
    assert found.host == -0.75
    assert set(found.operations.values()) == {0.0}
    assert found.interaction == 0.0


def test_parts_that_hide_behind_one_another() -> None:
    """3 s each instead of 1, side by side: each alone shortens nothing of the run, and lengthens
    the simulation by all 2 s; the means add up to one second too many."""
    found = worth(abreast(Prices(1.0, 1.0, 1.0)))
    assert set(found.operations.values()) == {1.0}
    assert len(found.operations) == 3
    assert found.interaction == -1.0


def test_contention_is_a_part_of_the_simulated_seconds() -> None:
    """Load and count move 4 bytes each, alone in 2 s; 2 bytes/s for both let them take 4."""
    phase = abreast(Prices(2.0, 1.0, 2.0, sharing=2.0))
    found = worth(phase)
    assert phase.simulated.makespan_s == pytest.approx(4.0)
    assert phase.alone_s.tolist() == [2.0, 1.0, 2.0]
    assert phase.priced.task_s == pytest.approx([4.0, 1.0, 4.0])
    assert found.contention == pytest.approx(2.0)
    total = sum(found.operations.values()) + found.host + found.interaction
    assert total == pytest.approx(3.0 - 4.0)


def test_operations_are_told_apart_by_stream() -> None:
    phase = by_hand(Prices(1.0, 1.0)).phases[0]
    found = {name: tasks.tolist() for name, tasks in operations(phase).items()}
    assert found == {("load", "h2d"): [0, 2, 4], ("compute", "gpu"): [1, 3, 5]}
