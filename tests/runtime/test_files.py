"""The files of a run: whole or not at all, tokens first, batches one after another."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from runtime.files import RunFiles, write_tokens
from runtime.generate import busy_s, make_timeline
from runtime.journal import JOURNAL, Finished, Journal
from runtime.outcome import BatchRecord
from runtime.tokenizer import NoTokenizer
from schedules.timeline import COLUMNS, Timeline

STREAMS = ("host", "h2d", "gpu")
QUESTION = {"n_prompts": 3}
PROMPTS = [(9, 8, 7), (6,), (5, 4, 3, 2)]
SEQUENCES = [Finished(0, (5, 2), "stop"), Finished(1, (6, 7), "length"), Finished(2, (8,), "stop")]
NONE = NoTokenizer("none")
RESULT = {"throughput_tok_s": 2.5}


class Words:
    def encode(self, text: str) -> list[int]:
        return [len(text)]

    def decode(self, token_ids) -> str:
        return " ".join(f"ü{i}" for i in token_ids)


def part(number: int, first: int, size: int, makespan_s: float):
    """Record, timeline and routing of a batch of two tasks."""
    rows = [
        (0, "copy", "h2d", 0, 0, 0, 0.0, 0.25, 0.0, 0.0, 9.0),
        (1, "head", "gpu", -1, 0, 1, 0.25, makespan_s, 4.0, 8.0, 0.0),
    ]
    timeline = make_timeline(rows, STREAMS, f"batch {number}")
    record = BatchRecord(
        number=number,
        first=first,
        size=size,
        positions=2,
        setup_s=1.0,
        prefill_s=0.25,
        step_s=(makespan_s - 0.25,),
        busy_s=busy_s(timeline, {}),
        tasks=len(timeline),
        peak_bytes={"gpu": 10},
        predicted_bytes={"gpu": 10},
        capacity_bytes={"gpu": 16},
    )
    routing = pd.DataFrame({"step": [0] * size, "request": range(size), "expert_0": [3] * size})
    return record, timeline, routing


PARTS = [part(0, 0, 2, 1.0), part(1, 2, 1, 0.5)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def finish(out: Path, parts=PARTS, tokenizer=NONE) -> None:
    with Journal(out, QUESTION) as journal:
        run = RunFiles(journal, "cgopipe, tiny")
        for one in parts:
            run.keep(*one)
        journal.add(SEQUENCES)
        run.write(SEQUENCES, PROMPTS, tokenizer, RESULT)


def test_a_finished_run_leaves_its_results_alone(out: Path) -> None:
    finish(out)
    assert names(out) == ["result.json", "routing.parquet", "timeline.parquet", "tokens.jsonl"]
    assert json.loads((out / "result.json").read_text()) == RESULT


def test_tokens_are_sorted_and_decoded(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.jsonl", SEQUENCES[::-1], PROMPTS, Words())
    text = (tmp_path / "tokens.jsonl").read_text(encoding="utf-8")
    assert "ü5 ü2" in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {
        "index": 0,
        "prompt_token_ids": [9, 8, 7],
        "token_ids": [5, 2],
        "text": "ü5 ü2",
    }
    assert [line["index"] for line in lines] == [0, 1, 2]
    write_tokens(tmp_path / "tokens.jsonl", SEQUENCES, PROMPTS, NONE)
    assert '"text": null' in (tmp_path / "tokens.jsonl").read_text()


# -- timelines -------------------------------------------------------------------------------------


def test_batches_follow_one_another_in_the_timeline(out: Path) -> None:
    finish(out)
    timeline = Timeline.from_parquet(out / "timeline.parquet")
    frame = timeline.frame
    assert list(frame.columns) == [*COLUMNS, "batch"]
    assert timeline.streams == STREAMS
    assert timeline.name == "cgopipe, tiny"
    assert frame["task"].tolist() == [0, 1, 2, 3]
    assert frame["batch"].tolist() == [0, 0, 1, 1]
    assert frame["step"].tolist() == [0, 1, 0, 1]
    assert frame["start_s"].tolist() == [0.0, 0.25, 1.0, 1.25]
    assert frame["end_s"].tolist() == [0.25, 1.0, 1.25, 1.5]
    numbers = {column: kind for column, kind in COLUMNS.items() if kind != "object"}
    assert {column: str(frame[column].dtype) for column in numbers} == numbers


def test_a_batch_begins_after_the_last_task_of_the_one_before(out: Path) -> None:
    """Between steps the host has work that is in no phase."""
    record, timeline, routing = PARTS[0]
    late = Timeline(timeline.frame.assign(end_s=timeline.frame["end_s"] + 2), STREAMS)
    finish(out, [(record, late, routing), PARTS[1]])
    frame = Timeline.from_parquet(out / "timeline.parquet").frame
    assert frame["start_s"].tolist() == [0.0, 0.25, 3.0, 3.25]


def test_the_routing_counts_the_prompts_of_the_run(out: Path) -> None:
    finish(out)
    frame = pd.read_parquet(out / "routing.parquet")
    assert frame["request"].tolist() == [0, 1, 2]
    assert frame["batch"].tolist() == [0, 0, 1]
    assert list(frame.columns) == ["step", "request", "expert_0", "batch"]


def test_without_routing_there_is_no_file_of_it(out: Path) -> None:
    finish(out, [(record, timeline, None) for record, timeline, _ in PARTS])
    assert names(out) == ["result.json", "timeline.parquet", "tokens.jsonl"]


def test_without_measurements_there_are_tokens_and_a_result(out: Path) -> None:
    finish(out, [])
    assert names(out) == ["result.json", "tokens.jsonl"]


def test_the_timeline_is_written_a_batch_at_a_time(out: Path) -> None:
    finish(out)
    assert pq.ParquetFile(out / "timeline.parquet").num_row_groups == len(PARTS)


# -- parts -----------------------------------------------------------------------------------------


def test_a_resumed_run_has_the_measurements_of_the_one_before(out: Path) -> None:
    with Journal(out, QUESTION) as journal:
        RunFiles(journal, "run").keep(*PARTS[0])
        journal.add(SEQUENCES[:2])
    assert names(out) == [
        "parts",
        "parts/00000.json",
        "parts/00000.routing.parquet",
        "parts/00000.timeline.parquet",
        JOURNAL,
    ]
    with Journal(out, QUESTION, resume=True) as journal:
        run = RunFiles(journal, "run")
        run.keep(*PARTS[1])
        assert run.records() == (PARTS[0][0], PARTS[1][0])
        journal.add(SEQUENCES[2:])
        run.write(SEQUENCES, PROMPTS, NONE, RESULT)
    assert len(Timeline.from_parquet(out / "timeline.parquet")) == 4


def test_a_new_run_does_not_count_old_parts(out: Path) -> None:
    with Journal(out, QUESTION) as journal:
        RunFiles(journal, "run").keep(*PARTS[0])
        journal.remove()
    with Journal(out, QUESTION) as journal:
        assert RunFiles(journal, "run").records() == ()


def test_a_part_without_its_record_does_not_count(out: Path) -> None:
    """As when the process is killed while it writes the part."""
    with Journal(out, QUESTION) as journal:
        run = RunFiles(journal, "run")
        run.keep(*PARTS[0])
        run.keep(*PARTS[1])
        (out / "parts" / "00000.json").unlink()
        assert run.records() == (PARTS[1][0],)
        run.write(SEQUENCES, PROMPTS, NONE, RESULT)
    frame = Timeline.from_parquet(out / "timeline.parquet").frame
    assert frame["start_s"].tolist() == [0.0, 0.25]
