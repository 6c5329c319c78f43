"""What a simulation yields: the same numbers however one asks, all of them traceable to tasks."""

import json
import math
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import numpy as np
import pandas as pd
import pytest

from schedules.errors import BadInput
from schedules.result_keys import KEYS
from schedules.timeline import COLUMNS
from sim import simulate
from sim.phase_frame import phase_frame
from sim.result import package_version

CASES = {
    "decoder": ("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 4, 8, 2),
    "one token": ("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 1, 8, 2),
    "one batch": ("zero-inference", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 3, 6, 6),
    "nothing overlaps": ("accelerate", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 3, 6, 6),
    "encoder-decoder": ("gpu-only", "switch-base-8", "rtx4090-pc", "fixed-16", 5, 4, 2),
    "one token of an encoder-decoder": (
        "cgopipe",
        "switch-base-8",
        "rtx4090-pc",
        "fixed-9",
        1,
        4,
        2,
    ),
    "tensor-parallel": ("cgopipe", "mixtral-8x7b", "gcp-t4x2-32c", "mtbench", 3, 8, 2),
    "pipeline": ("flexgen", "mixtral-8x7b", "gcp-t4x2-32c", "mtbench", 3, 8, 4),
    "dense": ("flexgen-cpu", "opt-6.7b", "gcp-t4-24c", "fixed-100", 3, 8, 4),
}
HOST_S = 1e-3  # seconds that the host may need around a step


@pytest.fixture(scope="module")
def results():
    return {name: simulate(*case) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def result(request, results):
    return results[request.param]


@pytest.fixture
def decoder(results):
    return results["decoder"]


# -- definitions -----------------------------------------------------------------------------------


def test_keys(result):
    assert tuple(result.to_dict()) == KEYS
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["schedule"] == result.schedule


def test_throughput(result):
    n, gen_len = result.policy.N, result.scenario.workload.gen_len
    assert result.makespan_s == result.prefill_s + result.decode_s
    assert result.throughput_tok_s == n * gen_len / (result.prefill_s + result.decode_s)


def test_working_and_idle_make_the_makespan(result):
    for stream in result.streams:
        idle = result.idle_s[stream]
        assert 0 <= result.utilization[stream] <= 1
        assert idle >= -1e-12 * result.makespan_s
        assert result.utilization[stream] + idle / result.makespan_s == pytest.approx(1)
        assert result.busy_s[stream] + idle == pytest.approx(result.makespan_s)
    keys = ("utilization", "idle_s", "busy_s")
    assert all(tuple(result.to_dict()[key]) == result.streams for key in keys)


def test_the_bound_is_the_busiest_stream(result):
    assert result.lower_bound_s == max(result.busy_s.values())
    assert 0 < result.lower_bound_s <= result.makespan_s * (1 + 1e-12)
    assert result.bound_ratio == result.makespan_s / result.lower_bound_s


def test_steps(result):
    """A decoder's prefill yields the first token; an encoder's yields none."""
    gen_len = result.scenario.workload.gen_len
    seq2seq = result.scenario.model.is_encoder_decoder
    assert len(result.step_s) == (gen_len if seq2seq else gen_len - 1)
    assert result.decode_s == pytest.approx(sum(result.step_s))


def test_time_to_the_first_token_and_per_token(result):
    steps, gen_len = list(result.step_s), result.scenario.workload.gen_len
    first = [steps.pop(0)] if result.scenario.model.is_encoder_decoder else []
    assert result.ttft_s == pytest.approx(result.prefill_s + sum(first))
    if gen_len == 1:
        assert result.tpot_s is None
        assert result.ttft_s == pytest.approx(result.makespan_s)
    else:
        assert len(steps) == gen_len - 1
        assert result.tpot_s == pytest.approx(sum(steps) / (gen_len - 1))
        assert result.ttft_s + result.tpot_s * (gen_len - 1) == pytest.approx(result.makespan_s)


def test_memory_stays_within_its_pools(result):
    assert set(result.peak_memory_bytes) == set(result.capacity_bytes)
    for pool, peak in result.peak_memory_bytes.items():
        assert 0 <= peak <= result.capacity_bytes[pool]
    assert max(v for k, v in result.peak_memory_bytes.items() if k.startswith("gpu")) > 0


# -- against the timeline --------------------------------------------------------------------------


@pytest.fixture
def frame(result):
    return result.timeline(range(result.generation.steps + 1)).frame


def test_tasks(result, frame):
    assert result.tasks == len(frame)
    assert frame["task"].tolist() == list(range(len(frame)))
    assert frame["step"].unique().tolist() == list(range(result.generation.steps + 1))


def test_the_lanes_hold_the_work(result, frame):
    """Only the hosts also work between tasks: they issue."""
    worked = (frame["end_s"] - frame["start_s"]).groupby(frame["stream"]).sum()
    for stream, busy in result.busy_s.items():
        if stream.startswith("host"):
            assert worked.get(stream, 0.0) < busy < result.makespan_s
        else:
            assert worked.get(stream, 0.0) == pytest.approx(busy, rel=1e-6, abs=1e-9)


def test_one_task_at_a_time_per_stream(frame):
    for _, lane in frame.groupby("stream"):
        assert (lane["start_s"].to_numpy()[1:] >= lane["end_s"].to_numpy()[:-1]).all()


def test_steps_follow_one_another(result, frame):
    spans = frame.groupby("step").agg({"start_s": "min", "end_s": "max"})
    lengths = [result.prefill_s, *result.step_s]
    starts = np.cumsum([0.0, *lengths[:-1]])
    for step, (span, start, length) in enumerate(
        zip(spans.itertuples(), starts, lengths, strict=True)
    ):
        assert result.start_s(step) == pytest.approx(start)
        assert 0 <= span.start_s - result.start_s(step) < HOST_S
        assert -1e-9 < result.start_s(step) + length - span.end_s < HOST_S


def test_rows_are_in_order_of_time_and_then_of_streams(result, frame):
    order = frame["stream"].map({name: i for i, name in enumerate(result.streams)})
    expected = frame.assign(lane=order).sort_values(["start_s", "lane"], kind="stable")
    assert expected.index.tolist() == frame.index.tolist()


# -- parts of the timeline -------------------------------------------------------------------------


def test_by_default_prefill_and_two_decode_steps(decoder, results):
    assert decoder.timeline().frame["step"].unique().tolist() == [0, 1, 2]
    assert results["one token"].timeline().frame["step"].unique().tolist() == [0]


def test_a_timeline_names_what_ran(decoder):
    timeline = decoder.timeline([0])
    assert timeline.name == "cgopipe, mixtral-8x7b on gcp-t4-24c"
    assert timeline.streams == decoder.streams
    assert list(timeline.frame) == list(COLUMNS)


def test_steps_in_any_order_and_once(decoder):
    expected = decoder.timeline([0, 2]).frame
    for steps in ([2, 0], [0, 0, 2, 2], {0, 2}, (s for s in (2, 0)), np.array([0, 2])):
        pd.testing.assert_frame_equal(decoder.timeline(steps).frame, expected)


def test_no_steps(decoder):
    timeline = decoder.timeline([])
    assert len(timeline) == 0
    assert list(timeline.frame) == list(COLUMNS)


@pytest.mark.parametrize("step", [-1, 4, 99, 0.5])
def test_steps_that_there_are_not(decoder, step):
    message = rf"there is no step {step}; steps are 0 \(prefill\) to 3"
    with pytest.raises(BadInput, match=message):
        decoder.timeline([0, step])


def test_frame_of_a_phase(decoder):
    phase = decoder.generation.step(2)
    frame, later = phase_frame(phase), phase_frame(phase, offset_s=10.0)
    assert len(frame) == len(phase.graph)
    assert sorted(frame["task"]) == list(range(len(frame)))
    np.testing.assert_allclose(later["start_s"], frame["start_s"] + 10)
    np.testing.assert_allclose(later["end_s"] - later["start_s"], phase.duration_s[frame["task"]])
    totals = {"flops": "total_flops", "bytes": "total_bytes", "link_bytes": "total_link_bytes"}
    for column, attribute in totals.items():
        works = [phase.graph.works[i] for i in phase.graph.work]
        expected = math.fsum(getattr(work, attribute) for work in works)
        assert frame[column].sum() == pytest.approx(expected)
    numbers = {column: kind for column, kind in COLUMNS.items() if kind != "object"}
    assert dict(frame[list(numbers)].dtypes.astype(str)) == numbers


# -- as other things -------------------------------------------------------------------------------


def test_one_row_of_pandas(decoder):
    row = decoder.to_pandas()
    assert len(row) == 1
    assert row.loc[0, "throughput_tok_s"] == decoder.throughput_tok_s
    assert row.loc[0, "utilization.gpu"] == decoder.utilization["gpu"]
    assert row.loc[0, "policy.mu"] == 2
    assert row.loc[0, "provenance.presets.hardware"] == "gcp-t4-24c"


def test_in_a_notebook(decoder):
    page = decoder._repr_html_()
    assert page.startswith("<table")
    assert "throughput_tok_s" in page
    assert "cgopipe" in page


def test_repr(decoder):
    assert repr(decoder).startswith("<cgopipe: ")
    assert f"{decoder.throughput_tok_s:.4g} tokens/s" in repr(decoder)


def test_provenance(results):
    found = results["encoder-decoder"].to_dict()["provenance"]
    assert found == {
        "version": installed("moelab"),
        "seed": 0,
        "presets": {
            "model": "switch-base-8",
            "hardware": "rtx4090-pc",
            "workload": "fixed-16",
            "gen_len": 5,
            "padded": True,
            "dtype": "float32",
            "n_gpus": 1,
            "routing": results["encoder-decoder"].scenario.routing.model_dump(),
            "modifiers": {},
            "host_memory_pinned": False,
        },
    }
    assert results["pipeline"].provenance["presets"]["n_gpus"] == 2


def test_version_of_a_source_tree(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    assert package_version() == installed("moelab")
    monkeypatch.setattr("sim.result.version", nothing)
    assert package_version() == "uninstalled"
