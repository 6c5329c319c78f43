"""Generation: batches, ends, errors, and what is measured."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.batches import Batch
from runtime.generate import make_timeline
from schedules.errors import BadInput, MoelabError
from tests.runtime.fake_session import (
    PROMPTS,
    Fake,
    Sessions,
    expected,
    run,
    stop_at,
    token,
    tokens,
)


class Boom(Exception):
    """An error that nobody foresaw."""


# -- what comes out --------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    prompts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), max_size=9),
    size=st.integers(1, 10),
    gen_len=st.integers(1, 8),
    eos=st.integers(0, 12),
)
def test_batches_change_nothing(tmp_path_factory, prompts, size, gen_len, eos) -> None:
    sessions = Sessions()
    folder = tmp_path_factory.mktemp("run")
    found = run(folder, sessions, size, gen_len, prompts, eos_token_ids=(eos,))
    assert tokens(found) == [expected(p, gen_len, eos) for p in prompts]
    assert [s.index for s in found.sequences] == list(range(len(prompts)))
    assert [s.finish == "stop" for s in found.sequences] == [
        eos in expected(p, gen_len, eos) for p in prompts
    ]
    assert len(sessions.opened) == -(-len(prompts) // size)
    assert all(session.closed == 1 for session in sessions.opened)
    longest = [
        max(len(expected(p, gen_len, eos)) for p in s.batch.prompts) for s in sessions.opened
    ]
    assert [s.position + 1 for s in sessions.opened] == longest  # no step too many


def test_one_token_is_prefill_alone(tmp_path: Path) -> None:
    sessions = Sessions()
    found = run(tmp_path, sessions, gen_len=1)
    assert tokens(found) == [(token(p, 0),) for p in PROMPTS]
    assert [s.position for s in sessions.opened] == [0, 0, 0]
    assert [r.step_s for r in found.records] == [(), (), ()]


def test_equal_prompts_have_equal_tokens(tmp_path: Path) -> None:
    found = tokens(run(tmp_path, Sessions()))
    assert found[0] == found[2]


@pytest.mark.parametrize("gen_len", [0, -1, 1.5])
def test_the_generation_length_is_checked(tmp_path: Path, gen_len) -> None:
    with pytest.raises(BadInput, match="gen_len is"):
        run(tmp_path, Sessions(), gen_len=gen_len)


def test_progress_counts_every_token_once(tmp_path: Path) -> None:
    class Meter:
        def __init__(self) -> None:
            self.computed = self.skipped = 0
            self.phases: list[str] = []

        def phase(self, text: str) -> None:
            self.phases.append(text)

        def advance(self, n: int) -> None:
            self.computed += n

        def skip(self, n: int) -> None:
            self.skipped += n

    meter = Meter()
    found = run(tmp_path, Sessions(), meter=meter)
    assert meter.computed == sum(r.size * r.positions for r in found.records)
    assert meter.computed + meter.skipped == len(PROMPTS) * 6
    assert meter.phases[:3] == ["batch 1/3: loading", "batch 1/3: prefill", "batch 1/3: decode"]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MoelabError("the worker of stream 'gpu' failed"), Boom("x")])
def test_an_error_of_the_session_comes_out_after_closing_it(tmp_path: Path, error) -> None:
    sessions = Sessions(stop_at(1, 2, error))
    with pytest.raises(type(error)) as found:
        run(tmp_path, sessions)
    assert found.value is error
    assert [s.closed for s in sessions.opened] == [1, 1]
    assert tokens(run(tmp_path, Sessions(), resume=True)) == [expected(p, 6) for p in PROMPTS]


def test_an_error_of_closing_does_not_hide_the_first_one(tmp_path: Path) -> None:
    class Stuck(Fake):
        def close(self) -> None:
            raise RuntimeError("cannot be closed")

    def open_session(batch: Batch) -> Fake:
        return Stuck(batch, stop_at(0, 1, MoelabError("first")))

    with pytest.raises(MoelabError, match=r"^first$"):
        run(tmp_path, open_session)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="cannot be closed"):
        run(tmp_path / "alone", Stuck)  # type: ignore[arg-type]


def test_a_session_that_does_not_open(tmp_path: Path) -> None:
    def open_session(batch: Batch) -> Fake:
        raise BadInput("no room")

    with pytest.raises(BadInput, match=r"^no room$"):
        run(tmp_path, open_session)  # type: ignore[arg-type]


# -- measurements ----------------------------------------------------------------------------------


def test_records_and_timelines_of_each_batch(tmp_path: Path) -> None:
    kept = []
    found = run(tmp_path, Sessions(), keep=lambda *parts: kept.append(parts))
    assert [record for record, *_ in kept] == list(found.records)
    for record, timeline, routing in kept:
        steps = record.positions
        assert routing is None
        assert record.tasks == len(timeline) == steps + 1
        assert len(record.step_s) == steps - 1
        assert record.busy_s == {"host": 0.25 + 0.5, "gpu": 0.75 * steps}
        assert record.prefill_s > 0
        assert record.setup_s >= 0
        assert record.peak_bytes == {"gpu": 100}
    assert [(r.first, r.size) for r in found.records] == [(0, 3), (3, 3), (6, 1)]
    json.dumps([r.to_dict() for r in found.records], allow_nan=False)


def test_the_routing_is_kept_when_it_is_asked_for(tmp_path: Path) -> None:
    kept = []
    run(tmp_path, Sessions(), keep=lambda *parts: kept.append(parts), routing=True)
    assert [list(routing["request"]) for *_, routing in kept] == [[0, 1, 2], [0, 1, 2], [0]]


def test_a_timeline_is_sorted_and_counted() -> None:
    rows = [
        (7, "b", "gpu", 0, 0, 1, 13.0, 14.0, 1.0, 0.0, 0.0),
        (5, "a", "gpu", 0, 0, 0, 10.0, 12.0, 1.0, 0.0, 0.0),
        (6, "c", "host", -1, -1, 0, 10.0, 10.5, 0.0, 0.0, 0.0),
        (8, "d", "h2d", 0, 0, 1, 12.5, 12.75, 0.0, 0.0, 9.0),
    ]
    frame = make_timeline(rows, ("host", "h2d", "gpu"), "t").frame
    assert frame["op"].tolist() == ["c", "a", "d", "b"]
    assert frame["task"].tolist() == [0, 1, 2, 3]
    assert frame["start_s"].tolist() == [10.0, 10.0, 12.5, 13.0]
    assert frame["end_s"].tolist() == [10.5, 12.0, 12.75, 14.0]
    assert frame["link_bytes"].tolist() == [0.0, 0.0, 9.0, 0.0]


def test_a_timeline_without_tasks() -> None:
    assert len(make_timeline([], ("gpu",), "t")) == 0
