"""Errors of simulated figures and their order, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.accuracy import KINDS, Checked, pairwise_order, summary
from sim.published import METRICS
from tests.sim.figures import row


def test_a_row_as_plain_values():
    known = Checked(row(value=4.0), 5.0)
    assert known.to_dict() == {
        "id": "run",
        "source": "paper, table 1",
        "metric": "throughput_tok_s",
        "published": 4.0,
        "simulated": 5.0,
        "error": 0.25,
        "reason": None,
    }
    unknown = Checked(row(value=4.0), None, "why").to_dict()
    assert (unknown["simulated"], unknown["error"], unknown["reason"]) == (None, None, "why")


def checked(published, simulated, **changes) -> Checked:
    why = None if simulated is not None else "why"
    return Checked(row(value=published, **changes), simulated, why)


def test_summary():
    """Absolute errors 0.1, 0.2, 0.5 and, for what is missing, 1."""
    rows = [checked(10, 11), checked(10, 8), checked(10, 15), checked(20, None, source="other")]
    found = summary(rows)
    assert found["n"] == 4
    assert found["n_simulated"] == 3
    assert found["median_abs_error"] == pytest.approx(0.35)
    assert found["p90_abs_error"] == pytest.approx(0.5 + 0.7 * 0.5)  # 2.7 of the way from 0 to 3
    assert list(found["by_source"]) == ["paper, table 1", "other"]
    first, other = found["by_source"].values()
    assert (first["n"], first["median_abs_error"]) == (3, pytest.approx(0.2))
    assert (other["n"], other["n_simulated"], other["median_abs_error"]) == (1, 0, 1.0)


def test_summary_by_metric():
    rows = [checked(10, 12), checked(10, 11, metric="peak_gpu_gb"), checked(10, 13)]
    (source,) = summary(rows)["by_source"].values()
    assert list(source["by_metric"]) == ["peak_gpu_gb", "throughput_tok_s"]
    peak, throughput = source["by_metric"].values()
    assert (peak["n"], peak["median_abs_error"]) == (1, pytest.approx(0.1))
    assert (throughput["n"], throughput["median_abs_error"]) == (2, pytest.approx(0.25))


def test_summary_by_kind():
    """Blocks and operations are latencies; what is no metric is of no known kind."""
    metrics = ("moe_block_ms", "op_s:moe_ffn", "peak_gpu_gb", "throughput_tok_s", "joules")
    rows = [checked(10, 11 + i, metric=metric) for i, metric in enumerate(metrics)]
    found = summary(rows)["by_kind"]
    assert list(found) == ["latency", "memory", "throughput", "unknown"]
    assert [one["n"] for one in found.values()] == [2, 1, 1, 1]
    assert found["latency"]["median_abs_error"] == pytest.approx(0.15)
    assert found["memory"]["median_abs_error"] == pytest.approx(0.3)


def test_every_metric_has_a_kind():
    assert set(KINDS) == set(METRICS)


def test_a_miss_counts_as_much_as_an_error_of_100_percent():
    missed, wrong = summary([checked(10, None)]), summary([checked(10, 20)])
    for key in ("n", "median_abs_error", "p90_abs_error"):
        assert missed[key] == wrong[key]


@pytest.mark.parametrize(
    ("figures", "share"),
    [
        ([(1, 1), (2, 2), (3, 3)], 1.0),
        ([(1, 3), (2, 2), (3, 1)], 0.0),
        ([(1, 1), (2, 3), (3, 2)], 2 / 3),
        ([(1, 1), (2, 1)], 0.0),  # a tie of the simulator is no order
        ([(2, 1), (2, 3)], None),  # a published tie is no pair
        ([(2, 1), (2, 3), (3, 4)], 1.0),
        ([(1, 1), (2, None)], 0.0),  # a pair with a miss is wrong
        ([(1, 1), (2, 2), (3, None)], 1 / 3),
        ([(1, None), (2, None)], 0.0),
        ([(1, 1)], None),
        ([], None),
    ],
)
def test_pairwise_order(figures, share):
    found = pairwise_order([checked(published, sim) for published, sim in figures])
    assert found == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    "other",
    [
        {"metric": "peak_gpu_gb"},
        {"model": "dbrx"},
        {"hardware": "gcp-l4-24c"},
        {"workload": "other"},
        {"gen_len": 4},
    ],
)
def test_pairs_are_within_a_cell(other):
    assert pairwise_order([checked(1, 2), checked(2, 1, **other)]) is None
    assert pairwise_order([checked(1, 2), checked(2, 1, schedule="flexgen", batch_size=9)]) == 0


positive = st.floats(0.1, 100)


@given(st.lists(st.tuples(positive, positive | st.none()), max_size=8), st.randoms())
def test_the_order_of_rows_makes_no_difference(figures, random):
    rows = [checked(published, sim) for published, sim in figures]
    shuffled = random.sample(rows, len(rows))
    for key, value in summary(rows).items():
        if not key.startswith("by_"):
            assert summary(shuffled)[key] == (None if value is None else pytest.approx(value))


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=8), st.floats(0.5, 2))
def test_a_common_factor_keeps_the_order(figures, factor):
    rows = [checked(published, sim) for published, sim in figures]
    scaled = [checked(published, sim * factor) for published, sim in figures]
    assert pairwise_order(rows) == pairwise_order(scaled)
