"""The measured result, worked out by hand."""

import json
from dataclasses import replace

import pytest

from runtime.journal import Finished
from runtime.outcome import Asked, BatchRecord, measured_result
from schedules.errors import BadInput
from schedules.result_keys import KEYS, MEASURED

ASKED = Asked("cgopipe", "tiny", "a CPU, 2 cores", "p.jsonl", {"N": 4, "mu": 2})
FIRST = BatchRecord(
    number=0,
    first=0,
    size=4,
    positions=3,
    setup_s=10.0,
    prefill_s=1.0,
    step_s=(0.5, 0.5),
    busy_s={"gpu": 1.5, "h2d": 1.0, "cpu": 0.0},
    tasks=30,
    peak_bytes={"gpu": 100, "cpu": 7},
    predicted_bytes={"gpu": 90, "cpu": 7},
    capacity_bytes={"gpu": 128, "cpu": 64},
)
SECOND = BatchRecord(
    number=1,
    first=4,
    size=2,
    positions=2,
    setup_s=9.0,
    prefill_s=0.4,
    step_s=(0.6,),
    busy_s={"gpu": 0.25, "h2d": 1.0, "cpu": 0.0},
    tasks=20,
    peak_bytes={"gpu": 60, "cpu": 9},
    predicted_bytes={"gpu": 60, "cpu": 9},
    capacity_bytes={"gpu": 128, "cpu": 64},
)
FINISHED = [Finished(i, (1, 2, 3), "length") for i in range(4)] + [
    Finished(4, (1, 9), "stop"),
    Finished(5, (9,), "stop"),
]


def result(*records: BatchRecord) -> dict:
    return measured_result(ASKED, records, FINISHED, {"version": "1"})


def test_one_batch_is_n_times_gen_len_over_the_makespan() -> None:
    found = result(FIRST)
    assert found["throughput_tok_s"] == 4 * 3 / 2.0
    assert (found["prefill_s"], found["decode_s"], found["makespan_s"]) == (1.0, 1.0, 2.0)
    assert (found["ttft_s"], found["tpot_s"]) == (1.0, 0.5)
    assert found["utilization"] == {"gpu": 0.75, "h2d": 0.5, "cpu": 0.0}
    assert found["idle_s"] == {"gpu": 0.5, "h2d": 1.0, "cpu": 2.0}
    assert (found["lower_bound_s"], found["bound_ratio"]) == (1.5, 2.0 / 1.5)
    assert found["peak_memory_bytes"] == {"gpu": 100, "cpu": 7}
    assert found[MEASURED]["predicted_peak_memory_bytes"] == {"gpu": 90, "cpu": 7}


def test_several_batches_add_up() -> None:
    found = result(FIRST, SECOND)
    assert found["makespan_s"] == pytest.approx(3.0)
    assert found["throughput_tok_s"] == pytest.approx((12 + 4) / 3.0)
    assert found["ttft_s"] == pytest.approx((4 * 1.0 + 2 * 0.4) / 6)
    assert found["tpot_s"] == pytest.approx(1.6 / 3)
    assert found["busy_s"] == {"gpu": 1.75, "h2d": 2.0, "cpu": 0.0}
    assert found["lower_bound_s"] == 2.0
    assert found["tasks"] == 50
    assert found["peak_memory_bytes"] == {"gpu": 100, "cpu": 9}
    measured = found[MEASURED]
    assert measured["generated_tokens"] == 4 * 3 + 2 + 1
    assert measured["computed_tokens"] == 16
    assert measured["generated_tok_s"] == pytest.approx(15 / 3.0)
    assert measured["stopped_sequences"] == 2
    assert measured["setup_s"] == 19.0
    assert [b["first"] for b in measured["batches"]] == [0, 4]


def test_issuing_is_counted_per_task() -> None:
    records = [replace(FIRST, issuing_s=0.6), replace(SECOND, issuing_s=0.4)]
    assert result(*records)[MEASURED]["issue_s_per_task"] == pytest.approx(1.0 / 50)
    assert result()[MEASURED]["issue_s_per_task"] is None


def test_batches_that_were_not_measured_count_nowhere() -> None:
    found = result(SECOND)
    assert found["throughput_tok_s"] == 4 / 1.0
    measured = found[MEASURED]
    assert (measured["sequences"], measured["measured_sequences"]) == (6, 2)
    assert measured["generated_tok_s"] == 3 / 1.0


def test_nothing_measured_is_null_not_zero() -> None:
    found = result()
    for key in ("throughput_tok_s", "makespan_s", "tpot_s", "lower_bound_s", "bound_ratio"):
        assert found[key] is None
    assert found["utilization"] == {}
    assert found[MEASURED]["generated_tokens"] == 15


def test_one_token_has_no_time_per_token() -> None:
    one = BatchRecord(**SECOND.to_dict() | {"positions": 1, "step_s": ()})
    assert result(one)["tpot_s"] is None
    assert result(one)["throughput_tok_s"] == 2 / 0.4


@pytest.mark.parametrize("records", [(), (FIRST,), (FIRST, SECOND)])
def test_the_keys_are_those_of_a_simulated_result_and_one_more(records) -> None:
    found = result(*records)
    assert tuple(found) == (*KEYS, MEASURED)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["schedule"] == "cgopipe"
    assert found["policy"] == {"N": 4, "mu": 2}
    assert found["feasible"] is True
    assert found["provenance"] == {"version": "1"}


def test_a_simulated_result_has_the_same_keys() -> None:
    from sim.result import KEYS as SIMULATED

    assert KEYS == SIMULATED


def test_records_survive_json() -> None:
    assert BatchRecord.from_dict(json.loads(json.dumps(FIRST.to_dict()))) == FIRST
    with pytest.raises(BadInput, match="not a record of a batch"):
        BatchRecord.from_dict({"number": 0})
