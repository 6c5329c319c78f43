"""The timeline: its columns, windows, and the round trip through Parquet."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.timeline import COLUMNS, Timeline

STREAMS = ("host", "h2d", "gpu")  # host runs nothing


def frame(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    """Rows of op, stream, start and end."""
    columns = {name: np.arange(len(rows)) for name in ("task", "layer", "micro_batch", "step")}
    amounts = {name: np.arange(len(rows)) / 3 for name in ("flops", "bytes", "link_bytes")}
    named = pd.DataFrame(rows, columns=["op", "stream", "start_s", "end_s"])
    return named.assign(**columns, **amounts)[list(COLUMNS)]


def example(name="timeline") -> Timeline:
    """
    h2d  load:    0 ... 2
    gpu  compute:       2 ... 5   and an instant at 5
    """
    rows = ("load", "h2d", 0.0, 2.0), ("compute", "gpu", 2.0, 5.0), ("mark", "gpu", 5.0, 5.0)
    return Timeline(frame(*rows), STREAMS, name)


# -- round trip ------------------------------------------------------------------------------------


def test_parquet_keeps_rows_types_streams_and_name(tmp_path):
    timeline = example(name="CGOPipe, Mixtral auf T4 – µ = 36")
    timeline.to_parquet(tmp_path / "t.parquet")
    back = Timeline.from_parquet(tmp_path / "t.parquet")
    assert back.streams == STREAMS
    assert back.name == timeline.name
    pd.testing.assert_frame_equal(back.frame, timeline.frame)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_times_come_back_bit_for_bit(tmp_path_factory, times):
    rows = [("a", "gpu", t, t + 1 / 3) for t in times]
    path = tmp_path_factory.mktemp("timeline") / "t.parquet"
    Timeline(frame(*rows), STREAMS).to_parquet(path)
    back = Timeline.from_parquet(path).frame
    assert back["start_s"].tolist() == times
    assert back["end_s"].tolist() == [t + 1 / 3 for t in times]


def test_an_empty_timeline_keeps_its_columns(tmp_path):
    empty = example().window(100, 200)
    empty.to_parquet(tmp_path / "t.parquet")
    back = Timeline.from_parquet(tmp_path / "t.parquet")
    assert len(back) == 0
    assert list(back.frame.columns) == list(COLUMNS)
    assert (back.frame["task"].dtype, back.frame["start_s"].dtype) == (np.int64, np.float64)


def test_columns_of_one_s_own_are_not_written(tmp_path):
    timeline = Timeline(example().frame.assign(colour="red"), STREAMS)
    timeline.to_parquet(tmp_path / "t.parquet")
    assert list(Timeline.from_parquet(tmp_path / "t.parquet").frame.columns) == list(COLUMNS)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "t.parquet"
    example("first").to_parquet(path)
    example("second").to_parquet(str(path))
    assert Timeline.from_parquet(str(path)).name == "second"


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "ops"),
    [
        (0, 10, ["load", "compute", "mark"]),
        (0, 2, ["load"]),  # compute starts when the window is over
        (2, 3, ["compute"]),  # load has ended when it begins
        (1.5, 2.5, ["load", "compute"]),
        (3, 4, ["compute"]),  # wider than the window
        (6, 7, []),
    ],
)
def test_a_window_holds_the_tasks_that_run_within_it(start, end, ops):
    window = example("whole").window(start, end)
    assert window.frame["op"].tolist() == ops
    assert window.frame.index.tolist() == list(range(len(ops)))
    assert (window.streams, window.name) == (STREAMS, "whole")


# -- what is refused -------------------------------------------------------------------------------


def test_missing_columns_are_named():
    with pytest.raises(BadInput, match="timeline 'x' lacks the columns op, flops"):
        Timeline(example().frame.drop(columns=["op", "flops"]), STREAMS, "x")


def test_streams_that_are_not_listed_are_named():
    with pytest.raises(BadInput, match="timeline 'x' has unknown streams: gpu, h2d"):
        Timeline(example().frame, ("host",), "x")


def test_a_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"timeline file '.*nothing.parquet' does not exist"):
        Timeline.from_parquet(tmp_path / "nothing.parquet")


@pytest.mark.parametrize("content", [b"", b"task,op\n0,load\n", b"PAR1" * 10])
def test_a_file_that_is_no_parquet(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"t.parquet' is not a moelab timeline in Parquet"):
        Timeline.from_parquet(tmp_path / "t.parquet")


def written(path, frame, metadata):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {b"moelab": b"{"},
        {b"moelab": b"{}"},
        {b"moelab": b"[]"},
        {b"moelab": json.dumps({"streams": 3, "name": "x"}).encode()},
        {b"moelab": json.dumps({"streams": STREAMS}).encode()},
    ],
)
def test_a_parquet_file_of_another_program(tmp_path, metadata):
    written(tmp_path / "t.parquet", example().frame, metadata)
    with pytest.raises(BadInput, match=r"t.parquet' is not a moelab timeline in Parquet"):
        Timeline.from_parquet(tmp_path / "t.parquet")


OURS = {b"moelab": json.dumps({"streams": STREAMS, "name": "x"}).encode()}


def test_a_parquet_file_without_a_column(tmp_path):
    written(tmp_path / "t.parquet", example().frame.drop(columns=["end_s"]), OURS)
    with pytest.raises(BadInput, match="end_s"):
        Timeline.from_parquet(tmp_path / "t.parquet")


def test_a_parquet_file_with_words_for_times(tmp_path):
    words = example().frame.assign(end_s=["one", "two", "three"])
    written(tmp_path / "t.parquet", words, OURS)
    with pytest.raises(BadInput, match=r"t\.parquet"):
        Timeline.from_parquet(tmp_path / "t.parquet")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(BadInput, match=r"the folder '.*missing' does not exist"):
        example().to_parquet(tmp_path / "missing" / "t.parquet")


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "t.parquet").mkdir()
    with pytest.raises(BadInput, match=r"t\.parquet"):
        example().to_parquet(tmp_path / "t.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]  # nothing half-written
    with pytest.raises(BadInput, match=r"t\.parquet"):
        Timeline.from_parquet(tmp_path / "t.parquet")
