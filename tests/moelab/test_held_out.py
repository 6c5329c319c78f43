"""What counts of held-out runs: repetitions that agree, errors, and order beyond the noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moelab.held_out import AGREE, MODELS, SIZES, cases, enough, middle, summary


def test_twice_where_two_agree():
    assert not enough([])
    assert not enough([2.0])
    assert enough([2.0, 2.0 * AGREE])
    assert not enough([2.0, 2.2])


def test_again_until_two_agree_but_not_for_ever():
    assert enough([2.0, 3.0, 2.01])
    assert not enough([2.0, 3.0, 4.0])
    assert enough([2.0, 3.0, 4.0, 5.0])


SECONDS = st.floats(1.0, 10.0)


@given(first=SECONDS, late=SECONDS)
def test_one_disturbed_run_does_not_count(first, late):
    """Of three runs of which two agree, the middle one is of these two or between them."""
    second = first * AGREE
    found = middle([{"makespan_s": s} for s in (first, second + late, second)])
    assert first <= found["makespan_s"] <= second


def test_prefill_and_decode_are_those_of_the_same_run():
    runs = [
        {"makespan_s": a + b, "prefill_s": a, "decode_s": b} for a, b in ((1, 4), (3, 1), (1, 2))
    ]
    assert middle(runs) == {"makespan_s": 4, "prefill_s": 3, "decode_s": 1}
    assert middle(runs[1:]) == {"makespan_s": 3.5, "prefill_s": 2, "decode_s": 1.5}


def row(measured_s, simulated_s, *repeats_s, workload="varied"):
    return {
        "workload": workload,
        "measured_s": measured_s,
        "simulated_s": simulated_s,
        "repeats_s": list(repeats_s) or [measured_s, measured_s],
        "error": simulated_s / measured_s - 1,
    }


def test_errors_and_order():
    rows = [row(10.0, 11.0), row(20.0, 18.0), row(40.0, 40.0), row(5.0, 9.0, workload="long")]
    found = summary(rows)
    assert found["median_abs_error"] == pytest.approx(0.1)
    assert found["worst_abs_error"] == pytest.approx(0.8)
    assert (found["pairs"], found["pairs_in_order"], found["same_ranking"]) == (3, 3, True)
    assert (found["noise_floor"], found["worst_noise"]) == (0.0, 0.0)
    turned = summary([row(10.0, 11.0), row(20.0, 10.0)])
    assert (turned["pairs"], turned["pairs_in_order"], turned["same_ranking"]) == (1, 0, False)


def test_noise_is_what_the_first_two_runs_differ_by_and_hides_close_pairs():
    """The repetition that is there because the two did not agree would make it look larger."""
    rows = [row(10.0, 10.0, 10.0, 12.0, 20.0), row(11.0, 9.0), row(13.0, 13.0)]
    found = summary(rows)
    assert found["worst_noise"] == pytest.approx(0.2)
    assert found["noise_floor"] == 0.0
    assert (found["pairs"], found["pairs_in_order"]) == (1, 1)  # only 10 and 13 are apart


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_held_out_runs(kind):
    """As many as are asked for, over three workloads and budgets, which a batch divides into."""
    found = cases(kind)
    assert len(found) >= 12
    assert len({case.asked.name for case in found}) == 3
    assert len({case.budget for case in found}) == 3
    assert len({case.schedule for case in found}) >= 7
    for case in found:
        assert case.asked.prompts % case.micro_batch == 0
        longest = max(case.asked.lengths) + case.asked.gen_len
        assert longest <= MODELS[kind].config("float32")["max_position_embeddings"]
    assert found[0].asked.prompts == SIZES[kind][0]
