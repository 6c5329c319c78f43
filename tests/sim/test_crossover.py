"""Where the winner changes: exact on made-up verdicts, plausible on real schedules."""

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from sim.api import Comparison, Question, compare, compare_in
from sim.crossover import PRECISION, crossover, refine
from sim.crossover_result import Verdict, verdict_of

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")
SWITCH = ("switch-base-8", "a100-80g-epyc64", "fixed-64")


@dataclass(frozen=True)
class Made:
    """A point whose verdict is known."""

    value: float
    verdict: str


def made(changes):
    """Verdicts that change at these values: a letter for each range."""
    return lambda value: Made(value, "abcdefgh"[sum(value >= at for at in changes)])


# -- refinement ------------------------------------------------------------------------------------


def test_a_change_between_whole_numbers_by_hand():
    """5 in 1 to 16: halved at 4, 8, 6 and 5."""
    asked = []

    def at(value):
        asked.append(value)
        return made([5])(value)

    points = refine([1, 16], at, whole=True)
    assert asked == [16, 1, 4, 8, 6, 5]
    assert [(p.value, p.verdict) for p in points] == [
        (1, "a"),
        (4, "a"),
        (5, "b"),
        (6, "b"),
        (8, "b"),
        (16, "b"),
    ]


def test_without_a_change_only_the_grid():
    assert [p.value for p in refine([1, 10, 100], made([]), whole=False)] == [1, 10, 100]


def test_a_third_verdict_between_two_is_found():
    points = refine([1.0, 100.0], made([9, 12]), whole=False)
    assert {p.verdict for p in points} == {"a", "b", "c"}


def test_two_changes_within_one_interval_that_cancel_are_missed():
    def back(value):
        return Made(value, "b" if 40 <= value < 50 else "a")

    assert len(refine([1, 100], back, whole=False)) == 2
    assert {p.verdict for p in refine([1, 45, 100], back, whole=False)} == {"a", "b"}


@given(st.lists(st.floats(1.5, 9000), max_size=4), st.booleans())
def test_changes_are_enclosed(changes, whole):
    """Neighbours with different verdicts are near, and every change of the grid is among them."""
    at = made(changes)
    grid = [1, 10, 100, 1000, 10_000]
    points = refine(grid, at, whole)
    assert [p.value for p in points] == sorted({p.value for p in points})
    assert set(grid) <= {p.value for p in points}
    for low, high in pairwise(points):
        if low.verdict != high.verdict:
            near = high.value <= low.value * (1 + PRECISION)
            assert near or (whole and high.value - low.value == 1)
            assert any(low.value < change <= high.value for change in changes)
    if whole:
        assert all(p.value == int(p.value) for p in points)


# -- verdicts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Stands for a result."""

    schedule: str
    throughput_tok_s: float


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ([("a", 2), ("b", 1)], Verdict("a", "faster")),
        ([("a", 2), ("b", 2.1)], Verdict("b", "faster")),
        ([("a", 2), ("b", 2)], Verdict(None, "equal")),
        ([("a", 2), ("b", 2 * (1 + 1e-12))], Verdict(None, "equal")),
        ([("b", 1)], Verdict("b", "alone")),
        ([], Verdict(None, "none")),
    ],
)
def test_verdicts(monkeypatch, speeds, expected):
    runs = tuple(sorted((Speed(*s) for s in speeds), key=lambda s: -s.throughput_tok_s))
    monkeypatch.setattr(Comparison, "feasible", runs)
    assert verdict_of(Comparison(())) == expected


# -- schedules -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches():
    """On-demand copies only the experts in use, prefetch-all hides the copies of all eight."""
    return crossover("on-demand", "prefetch-all", "batch", Question(*S1, 3), 1, 32, 3)


def test_one_crossing_over_the_batch(batches):
    assert [r.verdict for r in batches.ranges] == [
        Verdict("on-demand", "faster"),
        Verdict("prefetch-all", "faster"),
    ]
    (crossing,) = batches.crossings()
    assert (crossing["before"], crossing["after"]) == ("on-demand", "prefetch-all")
    assert crossing["first"] == crossing["last"] + 1


def test_both_sides_of_the_crossing_are_what_compare_says(batches):
    (crossing,) = batches.crossings()
    for value, winner in ((crossing["last"], "on-demand"), (crossing["first"], "prefetch-all")):
        found = compare(["on-demand", "prefetch-all"], *S1, gen_len=3, batch=value)
        assert found.winner == winner
        (point,) = [p for p in batches.points if p.value == value]
        assert point.comparison.to_dict() == found.to_dict()


def test_plain_values(batches):
    found = json.loads(json.dumps(batches.to_dict(), allow_nan=False))
    assert found["schedules"] == ["on-demand", "prefetch-all"]
    assert (found["model"], found["hardware"], found["workload"]) == S1
    assert (found["over"], found["unit"], found["own_value"]) == ("batch", "sequences", None)
    assert [p["value"] for p in found["points"] if p["on_grid"]] == [1, 6, 32]
    assert found["ranges"][0]["from"] == 1
    assert found["ranges"][-1]["to"] == 32
    assert all(r["reasons"] == {} for r in found["ranges"])
    result = found["points"][0]["results"][0]
    assert (result["policy"]["N"], result["provenance"]["presets"]["gen_len"]) == (1, 3)


def test_the_order_of_the_two_does_not_matter(batches):
    turned = crossover("prefetch-all", "on-demand", "batch", Question(*S1, 3), 1, 32, 3)
    assert turned.crossings() == batches.crossings()


def test_a_winner_by_default():
    """All experts of Switch-Base-8 fit from some memory on."""
    asked = Question(*SWITCH, gen_len=2, batch=1, micro_batch=1)
    found = crossover("gpu-only", "on-demand", "gpu-memory", asked, 1e9, 16e9, 3)
    assert [r.verdict for r in found.ranges] == [
        Verdict("on-demand", "alone"),
        Verdict("gpu-only", "faster"),
    ]
    alone, both = found.ranges
    assert list(alone.reasons()) == ["gpu-only"]
    assert alone.reasons()["gpu-only"].startswith("pool 'gpu' is too small")
    assert both.reasons() == {}
    assert both.first <= alone.last * (1 + PRECISION)
    assert found.to_dict()["own_value"] == pytest.approx(84.6e9)


def test_no_crossing_over_pcie_and_faster_links_slow_nobody():
    found = crossover("cgopipe", "accelerate", "pcie", Question(*S1, 2, 8, 8), 5e9, 20e9, 3)
    assert found.crossings() == []
    assert [p.value for p in found.points] == pytest.approx([5e9, 10e9, 20e9])
    assert {p.verdict for p in found.points} == {Verdict("cgopipe", "faster")}
    for i in (0, 1):
        speeds = [p.comparison.results[i].throughput_tok_s for p in found.points]
        assert speeds == sorted(speeds)


def test_over_the_prompt_all_prompts_have_its_length():
    asked = Question(*S1, 2, 8, 4, padded=True)
    found = crossover("cgopipe", "flexgen", "prompt", asked, 64, 100, 2)
    for point in found.points:
        for result in point.comparison.results:
            assert result.scenario.workload.longest == point.value


def test_a_micro_batch_is_at_most_the_batch():
    found = crossover("cgopipe", "flexgen", "batch", Question(*S1, 2, None, 4), 2, 8, 3)
    policies = [r.policy for p in found.points for r in p.comparison.results]
    assert {(p.N, p.mu) for p in policies} >= {(2, 2), (4, 4), (8, 4)}


def test_equal_schedules(monkeypatch):
    """Two results that do not differ have no winner, so nothing can cross."""
    from sim import crossover as module

    def twice(scenario, names, given):
        found = compare_in(scenario, ["cgopipe"], given).results[0]
        return Comparison((found, found))

    monkeypatch.setattr(module, "compare_in", twice)
    found = crossover("cgopipe", "flexgen", "batch", Question(*S1, 2, None, 2), 2, 8, 3)
    assert [r.verdict for r in found.ranges] == [Verdict(None, "equal")]
    assert found.crossings() == []


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "changes", "message"),
    [
        ("batch", {"start": 0}, r"the range of batch begins at 0; it must be above 0"),
        ("batch", {"start": 1.5}, r"the range of batch begins at 1\.5, not at a whole number"),
        ("batch", {"start": 8, "stop": 8}, r"goes from 8 to 8 sequences; it must end above"),
        ("batch", {"stop": 200_000}, r"a batch has at most 100,000 sequences, not 200000"),
        ("pcie", {"stop": -1.0}, r"the range of pcie ends at -1; it must be above 0"),
        ("pcie", {"stop": float("inf")}, r"the range of pcie ends at inf"),
        ("pcie", {"points": 1}, r"a grid of 1 points; it must have 2 to 1,000"),
        ("prompt", {"stop": 100_000}, r"needs 100002 positions"),
        ("pci", {}, r"no quantity is named 'pci'"),
    ],
)
def test_impossible_ranges(over, changes, message):
    with pytest.raises(BadInput, match=message):
        crossover("cgopipe", "flexgen", over, Question(*S1, gen_len=2), **changes)


def test_a_batch_that_is_varied_and_given():
    with pytest.raises(BadInput, match=r"is what is varied; it cannot be given as N = 8 too"):
        crossover("cgopipe", "flexgen", "batch", Question(*S1, gen_len=2, batch=8))


def test_one_schedule_with_itself():
    with pytest.raises(BadInput, match="two schedules, and both are 'cgopipe'"):
        crossover("cgopipe", "cgopipe", "batch", Question(*S1))


def test_an_unknown_schedule():
    with pytest.raises(BadInput, match="unknown schedule 'cgopip', did you mean 'cgopipe'"):
        crossover("cgopip", "flexgen", "batch", Question(*S1, 2))
