"""Published figures: one row per number, from a CSV file."""

from collections import Counter

import pytest

from schedules.errors import BadInput
from schedules.model_presets import model_names
from schedules.schedule import schedules
from sim.hardware import hardware_names
from sim.published import METRICS, PublishedRow, read_published

HEADER = "id,source,metric,value,model,hardware"
ROW = "a,paper,op_s:moe_ffn,1.5,mixtral-8x7b,gcp-t4-24c"


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "own.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_published(path)

    return read


# -- files of our own ------------------------------------------------------------------------------


def test_the_fewest_columns(read):
    (row,) = read(f"{HEADER}\n{ROW}\n")
    assert row == PublishedRow(
        id="a",
        source="paper",
        metric="op_s:moe_ffn",
        value=1.5,
        model="mixtral-8x7b",
        hardware="gcp-t4-24c",
    )
    assert (row.dtype, row.n_gpus, row.padded, row.gen_len) == ("float16", 1, None, None)


def test_all_columns(read):
    header = ",".join(PublishedRow.model_fields)
    cells = (
        "a,s,throughput_tok_s,2e1,cgopipe,m,float32,h,2,w,77,418,True,32,504,36,14,0.5,False,lru,"
    )
    (row,) = read(f'{header}\n{cells}0.2,"a note, quoted"\n')
    assert row.value == 20
    assert (row.n_gpus, row.prompt_len, row.prompt_len_max, row.gen_len) == (2, 77, 418, 32)
    assert (row.batch_size, row.micro_batch, row.n_micro_batches) == (504, 36, 14)
    assert (row.padded, row.cpu_attention) == (True, False)
    assert (row.weights_on_gpu, row.cache_policy, row.cache_ratio) == (0.5, "lru", 0.2)
    assert row.note == "a note, quoted"
    assert row.cell == ("throughput_tok_s", "m", "h", "w", 32)


def test_blank_cells_are_not_published(read):
    columns = ("prompt_len", "padded", "gen_len", "batch_size", "weights_on_gpu", "cpu_attention")
    (row,) = read(f"{HEADER},{','.join(columns)}\n{ROW}{',' * len(columns)}\n")
    assert [getattr(row, column) for column in columns] == [None] * len(columns)


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEADER}\n{ROW}\n",  # as spreadsheets write it
        f"{HEADER}\r\n{ROW}\r\n",
        f"{HEADER}\n\n{ROW}\n\n,,,,,\n",
        f"{HEADER}\n{ROW}",
        f"remark,{HEADER}\nseen,{ROW}\n",
    ],
)
def test_what_makes_no_difference(read, text):
    assert read(text) == read(f"{HEADER}\n{ROW}\n")


def test_rows_keep_their_order(read):
    rows = [ROW.replace("a,", f"{name},", 1) for name in "zbya"]
    assert [row.id for row in read("\n".join([HEADER, *rows]))] == list("zbya")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'.*own.csv' has no rows; it needs a header line and one line per figure"),
        (HEADER, "has no rows"),
        ("id,source,value\na,b,1", "lacks the columns hardware, metric, model$"),
        (f"{HEADER},value\n{ROW},2", "has the columns value more than once"),
        (f"{HEADER}\n{ROW},2", "line 2: 7 cells, but the header has 6"),
        (f"{HEADER}\n{ROW}\n\n{ROW}", "line 4: id 'a' stands there twice"),
        (f"{HEADER}\n{ROW.replace('1.5', 'x')}", "line 2: value = 'x': input should be a valid"),
        (f"{HEADER}\n{ROW.replace('1.5', 'nan')}", "value = 'nan': input should be a finite"),
        (f"{HEADER}\n{ROW.replace('1.5', '0')}", "value = '0': input should be greater than 0"),
        (f"{HEADER}\n{ROW.replace('paper', '')}", "line 2: source = ''"),
        (f"{HEADER},gen_len\n{ROW},1.5", r"gen_len = '1\.5': input should be a valid integer"),
        (f"{HEADER},n_gpus\n{ROW},-1", "n_gpus = '-1': input should be greater than or equal to 1"),
        (f"{HEADER},cache_ratio\n{ROW},2", "cache_ratio = '2': input should be less than or equal"),
        (f"{HEADER}\n{ROW}{'x' * 200_000}", "is not CSV: field larger than field limit"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read, text, message):
    with pytest.raises(BadInput, match=message) as error:
        read(text)
    assert "own.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"none\.csv: there is no such file"):
        read_published(str(tmp_path / "none.csv"))


# -- the figures that come with moelab -------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return read_published()


def test_shipped_figures(shipped):
    assert len(shipped) >= 128
    assert {row.metric for row in shipped} <= set(METRICS)
    assert max(Counter(row.id for row in shipped).values()) == 1


def test_every_figure_names_its_paper(shipped):
    for row in shipped:
        assert "arXiv" in row.source
        assert row.id.split("/")[0] in row.source.lower().replace(" moe", "").replace(" ", "-")


def test_names_are_known(shipped):
    assert {row.model for row in shipped} <= set(model_names())
    assert {row.hardware for row in shipped} <= set(hardware_names())
    runs = {row.schedule for row in shipped if not row.metric.startswith("op_s:")}
    assert runs <= set(schedules())


def test_published_policies_are_possible(shipped):
    for row in shipped:
        if row.batch_size is None:
            continue
        assert row.micro_batch is None or row.micro_batch <= row.batch_size
        if row.micro_batch and row.n_micro_batches:
            assert row.n_micro_batches == -(-row.batch_size // row.micro_batch)


def test_longest_prompts_are_the_longest(shipped):
    assert all(row.prompt_len <= row.prompt_len_max for row in shipped if row.prompt_len_max)


def test_two_figures_as_printed(shipped):
    by_id = {row.id: row for row in shipped}
    table4 = by_id["moe-lightning/helm-synthetic-reasoning/S1/cgopipe"]
    assert (table4.value, table4.batch_size, table4.micro_batch) == (26.349, 936, 36)
    flexgen = by_id["flexgen/opt-30b/512"]
    assert (flexgen.value, flexgen.weights_on_gpu, flexgen.cpu_attention) == (7.32, 0.2, True)
