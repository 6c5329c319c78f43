"""What counts of held-out runs: errors, and order beyond the noise."""

import pytest

from moelab.held_out import MODELS, SIZES, cases, summary


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
