"""What tasks waited for, on any clock, and where two clocks part."""

import numpy as np
import pytest
from hypothesis import given

from sim.causes import causes, times_of
from sim.compare_chain import chain, divergence, late_on_chain, waited_for
from sim.compiled import simulate_graph
from sim.events import events_of
from tests.sim.compared import Prices, abreast, by_hand
from tests.strategies import Program, issue, programs


def test_by_hand() -> None:
    """Loads at 0, 2 and 5.25 s, computations 0.25 s after their loads or each other's ends."""
    phase = by_hand(Prices(2.0, 3.0)).phases[0]
    by = waited_for(phase.graph, phase.measured_end_s)
    assert by.tolist() == [-1, 0, 0, 1, 1, 3]
    late = late_on_chain(phase.graph, phase.measured_start_s, phase.measured_end_s)
    assert list(chain(by, phase.measured_end_s)) == [5, 3, 1, 0]
    assert late.tolist() == [0.0, 0.25, 0.0, 0.0, 0.0, 0.25]


@given(programs())
def test_lateness_and_seconds_of_the_chain_add_up(program: Program) -> None:
    """To the last end, on any clock; nothing of a simulation is early."""
    issued = issue(program)
    if not len(issued.graph):
        return
    run = simulate_graph(issued.graph, issued.duration_s, issued.issue_s, issued.sync_s)
    late = late_on_chain(issued.graph, run.start_s, run.end_s)
    path = list(chain(waited_for(issued.graph, run.end_s), run.end_s))
    seconds = (run.end_s - run.start_s)[path].sum() + late[path].sum()
    assert seconds == pytest.approx(run.end_s.max(), abs=1e-9)
    assert late.min() >= -1e-9


@given(programs(max_hosts=1))
def test_without_issuing_it_names_what_the_explanation_names(program: Program) -> None:
    """As late as the explanation's cause: it has ended at the start of the task."""
    issued = issue(program)
    nothing = np.zeros(len(issued.graph))
    rows = causes(times_of(events_of(issued.graph), issued.duration_s, nothing))
    by = waited_for(issued.graph, rows["end_s"].to_numpy())
    for task, (start_s, cause) in enumerate(zip(rows["start_s"], rows["by"], strict=True)):
        waited_s = rows["end_s"][by[task]] if by[task] >= 0 else 0.0
        assert waited_s == start_s
        assert cause < 0 or rows["end_s"][cause] == start_s


def test_the_first_task_that_parts() -> None:
    """Simulated, the first computation starts at 2 s, measured at 2.25; a hundredth is 0.115."""
    found = divergence(by_hand(Prices(2.0, 2.0)).phases[1])
    place = {"op": "compute", "stream": "gpu", "layer": 0, "micro_batch": -1}
    load = {"op": "load", "stream": "h2d", "layer": 0, "micro_batch": -1}
    waited = {"cause": "dependency", **load, "took_s": 2.0}
    assert found == {
        "step": 1,
        **place,
        "tolerance_s": pytest.approx(0.115),
        "measured": {"start_s": 2.25, "late_s": 0.25, **waited},
        "simulated": {"start_s": 2.0, "late_s": 0.0, **waited},
    }


def test_within_the_tolerance_no_clock_parts() -> None:
    assert divergence(by_hand(Prices(2.0, 3.0)).phases[0], tolerance=0.05) is None


def test_starts_count_from_the_first_on_either_clock() -> None:
    """Issuing shifts the whole simulated phase, and nothing within it."""
    assert divergence(by_hand(Prices(2.0, 3.0, issue_s=0.1)).phases[0], tolerance=0.05) is None


def test_a_task_that_waits_for_nothing() -> None:
    """The second task is issued late: simulated, at 2 s, measured at once."""
    found = divergence(abreast(Prices(1.0, 1.0, 1.0, issue_s=1.0)))
    assert found is not None
    assert (found["op"], found["measured"]["cause"]) == ("compute", "nothing")
    assert found["measured"] == {"start_s": 0.0, "cause": "nothing", "late_s": 0.0}
    assert found["simulated"]["start_s"] == 1.0


def test_a_task_for_which_the_thread_had_stopped() -> None:
    """`on-demand` stops for every gate; see also its runs in tests/moelab."""
    issued = issue(Program(1, 2, WAITING, (1.0,), 0.0, 0.0))
    run = simulate_graph(issued.graph, issued.duration_s)
    assert waited_for(issued.graph, run.end_s).tolist() == [-1, 0]


WAITING = (("task", (0, 0, 0, 0, 0)), ("wait", (0, 0)), ("task", (1, 1, 1, 1, 1)))
