"""The table of recorded routing: what is wrong with it, and its file."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from schedules.errors import BadInput
from schedules.routing_table import read_columns, write_routing


def table(**changes):
    columns = {
        "step": [0, 0, 1],
        "layer": [2, 2, 2],
        "request": [0, 0, 0],
        "position": [0, 1, 2],
        "expert_0": [3, 1, 0],
        "expert_1": [0, 2, 3],
    }
    kept = {name: values for name, values in (columns | changes).items() if values is not None}
    return pd.DataFrame(kept)


def test_columns_of_a_run():
    columns = read_columns(table(), "it")
    assert columns["expert_1"].tolist() == [0, 2, 3]
    assert columns["batch"].tolist() == [0, 0, 0]
    assert read_columns(table(batch=[4, 4, 5]), "it")["batch"].tolist() == [4, 4, 5]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer": None}, "'it' lacks the column 'layer'; recorded routing has step, layer,"),
        ({"expert_0": None, "expert_1": None}, "'it' lacks the column 'expert_0'"),
        ({"expert_3": [1, 1, 1]}, "expert_0, expert_1, expert_3; one between is missing"),
        ({"expert_0": [0.5, 1, 2]}, "column 'expert_0' must hold whole numbers"),
        ({"request": ["a", "b", "c"]}, "column 'request' must hold whole numbers"),
        ({"position": [0, None, 1]}, "column 'position' must hold whole numbers"),
        ({"expert_1": [0, -1, 3]}, "column 'expert_1' has -1; it must be >= 0"),
        ({"batch": [0, 0, -3]}, "column 'batch' has -3"),
        ({"expert_1": [0, 1, 3]}, "a token that takes an expert twice"),
    ],
)
def test_malformed_tables(changes, complaint):
    with pytest.raises(BadInput, match=complaint):
        read_columns(table(**changes), "it")


def test_an_empty_table():
    with pytest.raises(BadInput, match="'it' has no rows: nothing was recorded"):
        read_columns(table().astype(int)[:0], "it")


def test_missing_values_of_whole_numbers():
    frame = table().astype({"step": "Int64"})
    frame.loc[1, "step"] = pd.NA
    with pytest.raises(BadInput, match="column 'step' must hold whole numbers"):
        read_columns(frame, "it")


def test_a_file_says_how_many_experts_there_are(tmp_path):
    write_routing(table(), tmp_path / "r.parquet", 8)
    found = pq.read_table(tmp_path / "r.parquet")
    assert found.schema.metadata[b"n_experts"] == b"8"
    assert found.to_pandas().dtypes.unique().tolist() == [np.int32]
    pd.testing.assert_frame_equal(found.to_pandas().astype(np.int64), table())


def test_a_malformed_table_is_not_written(tmp_path):
    with pytest.raises(BadInput, match="lacks the column 'step'"):
        write_routing(table(step=None), tmp_path / "r.parquet", 8)
    assert list(tmp_path.iterdir()) == []
