"""`moelab simulate`: its result, and its timeline in three formats."""

import json
from html.parser import HTMLParser

import pandas as pd
import pyarrow.parquet as pq
import pytest

from schedules.result_keys import KEYS
from schedules.timeline import COLUMNS, Timeline
from sim import simulate

REQUIRED = {  # what the documentation promises
    "schedule",
    "model",
    "hardware",
    "workload",
    "policy",
    "throughput_tok_s",
    "prefill_s",
    "decode_s",
    "makespan_s",
    "ttft_s",
    "tpot_s",
    "utilization",
    "idle_s",
    "peak_memory_bytes",
    "tasks",
    "lower_bound_s",
    "bound_ratio",
    "provenance",
    "feasible",
}
EXTRA = {
    "moved_bytes_per_token",
    "exposed_transfer_s",
    "moe_block_ms",
    "facts",
    "busy_s",
    "capacity_bytes",
}
STREAMS = ["host", "disk", "pin", "h2d", "gpu", "d2h", "cpu"]


class Page(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.loads = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        wanted = {"src", "srcset", "data"} | ({"href"} if tag == "link" else set())
        self.loads += [
            v for key, v in attrs if key in wanted and v and not v.startswith(("data:", "#"))
        ]


# -- the result ------------------------------------------------------------------------------------


def test_json_to_standard_output_and_nothing_else(cli, small):
    end = cli("simulate", "cgopipe", *small, "--json", "-")
    assert (end.code, end.err, end.written) == (0, "", set())
    result = end.json
    assert REQUIRED <= set(result) <= REQUIRED | EXTRA
    assert tuple(result) == KEYS
    assert result["schedule"] == "cgopipe"
    assert result["feasible"] is True
    assert (
        result["policy"].items()
        >= {
            "N": 8,
            "mu": 2,
            "A_g": 0,
            "F_g": 1,
            "r_w": 0.0,
            "r_c": 0.0,
            "r_h": 0.0,
            "pinned": None,
        }.items()
    )
    for key in ("utilization", "idle_s", "busy_s"):
        assert list(result[key]) == STREAMS
    assert set(result["peak_memory_bytes"]) == {"gpu", "cpu", "pinned", "disk"}
    assert set(result["provenance"]) == {"version", "seed", "presets"}


def test_it_is_what_the_library_says(cli, small):
    result = simulate("cgopipe", "mixtral-8x7b", "gcp-t4-24c", "mtbench", 3, 8, 2)
    assert cli("simulate", "cgopipe", *small, "--json", "-").json == json.loads(
        json.dumps(result.to_dict())
    )


def test_json_to_a_file_beside_the_table(cli, small, tmp_path):
    end = cli("simulate", "cgopipe", *small, "--json", "r.json")
    assert (end.code, end.err, end.written) == (0, "", {"r.json"})
    assert end.out == cli("simulate", "cgopipe", *small).out
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert text == cli("simulate", "cgopipe", *small, "--json", "-").out


def test_a_file_that_is_there_is_replaced(cli, small, tmp_path):
    (tmp_path / "r.json").write_text("old")
    cli("simulate", "cgopipe", *small, "--json", "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["schedule"] == "cgopipe"


def test_the_table(cli, small):
    header, line = cli("simulate", "cgopipe", *small).out.splitlines()
    assert header.split()[0] == "schedule"
    cells = line.split()
    result = cli("simulate", "cgopipe", *small, "--json", "-").json
    assert cells[0] == "cgopipe"
    assert float(cells[1]) == pytest.approx(result["throughput_tok_s"], rel=5e-3)
    assert float(cells[2]) == pytest.approx(result["prefill_s"], rel=5e-3)
    assert line.rstrip().endswith("8 / 2")


def test_twice_the_same(cli, small):
    first, second = (cli("simulate", "cgopipe", *small, "--json", "-").out for _ in range(2))
    assert first == second


ONE = ["--model", "switch-base-8", "--hardware", "rtx4090-pc", "--gen-len", "2"]


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["-w", "fixed-8", "--batch", "6"], ("policy", "N"), 6),
        (["-w", "fixed-8", "-N", "6", "--micro-batch", "3"], ("policy", "mu"), 3),
        (["-w", "fixed-8", "-u", "4", "-N", "6"], ("policy", "mu"), 4),
        (["-w", "fixed-8", "-N", "6", "-p", "r_w=0.5", "A_g=1"], ("policy", "r_w"), 0.5),
        (["-w", "fixed-8", "-N", "6", "-p", "r_w=0.5", "A_g=1"], ("policy", "A_g"), 1),
        (["-w", "fixed-8", "-p", "r_w=0.5", "-p", "A_g=1", "-N", "6"], ("policy", "A_g"), 1),
        (["-w", "fixed-8", "--policy=r_w=0.5", "-N", "6"], ("policy", "r_w"), 0.5),
        (["-w", "fixed-8", "-p", "batch=6", "micro_batch=2"], ("policy", "N"), 6),
        (["-w", "fixed-8", "-N", "6", "-p", "weights_on_gpu=1"], ("policy", "r_w"), 1.0),
        (["-w", "fixed-8", "-N", "6", "-p", "pinned=true"], ("policy", "pinned"), True),
        (["-w", "fixed-8", "-N", "6", "--seed", "7"], ("provenance", "seed"), 7),
        (["-w", "mtbench", "-N", "6", "--unpadded"], ("provenance", "presets", "padded"), False),
        (["-w", "mtbench", "-N", "6", "--padded"], ("provenance", "presets", "padded"), True),
        (["-w", "mtbench", "-N", "6", "--gpus", "1"], ("provenance", "presets", "n_gpus"), 1),
        (["-w", "random-8-9", "-N", "6"], ("provenance", "presets", "gen_len"), 2),
    ],
)
def test_options_reach_the_simulation(cli, options, key, value):
    found = cli("simulate", "cgopipe", *ONE, *options, "--json", "-").json
    for part in key:
        found = found[part]
    assert found == value


def test_gpus(cli):
    options = ["-m", "mixtral-8x7b", "-H", "gcp-t4x2-32c", "-w", "mtbench", "--gen-len", 2]
    options += ["-N", 8, "-u", 4, "--json", "-"]
    both = cli("simulate", "cgopipe", *options).json
    one = cli("simulate", "cgopipe", *options, "--gpus", 1).json
    assert {"gpu0", "gpu1"} <= set(both["utilization"])
    assert "gpu" in one["utilization"]
    assert both["throughput_tok_s"] > one["throughput_tok_s"]


def test_own_files(cli, tmp_path):
    """A config.json, a machine based on a preset, a file of lengths: the preset's numbers."""
    config = {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "torch_dtype": "float16",
    }
    (tmp_path / "own-model.json").write_text(json.dumps(config))
    machine = 'based_on = "gcp-t4-24c"\nname = "own-machine"\ndescription = "as the preset"\n'
    (tmp_path / "box.toml").write_text(machine)
    (tmp_path / "own-lengths.csv").write_text("prompt_len\n" + "512\n" * 3)
    numbers = ["--gen-len", 2, "-N", 6, "-u", 3, "--json", "-"]
    own = ["-m", "own-model.json", "-H", "box.toml", "-w", "own-lengths.csv"]
    found = cli("simulate", "cgopipe", *own, *numbers).json
    preset = ["-m", "mixtral-8x7b", "-H", "gcp-t4-24c", "-w", "fixed-512"]
    expected = cli("simulate", "cgopipe", *preset, *numbers).json
    named = {key: found.pop(key) for key in ("model", "hardware", "workload", "provenance")}
    assert found == {key: expected[key] for key in found}
    assert named["model"] == "own-model"
    assert named["hardware"] == "own-machine"
    assert named["workload"] == "own-lengths"
    assert named["provenance"]["presets"]["hardware"] == "own-machine"


# -- the timeline ----------------------------------------------------------------------------------


def lanes(frame: pd.DataFrame):
    return {stream: rows.sort_values("task") for stream, rows in frame.groupby("stream")}


def test_parquet_holds_all_steps_and_the_streams(cli, small, tmp_path):
    end = cli("simulate", "cgopipe", *small, "--timeline", "t.parquet", "--json", "r.json")
    assert (end.code, end.err, end.written) == (0, "", {"t.parquet", "r.json"})
    assert end.out.splitlines()[-1] == f"Written: {tmp_path / 't.parquet'}"
    result = json.loads((tmp_path / "r.json").read_text())
    timeline = Timeline.from_parquet(tmp_path / "t.parquet")
    assert list(timeline.streams) == STREAMS
    assert len(timeline) == result["tasks"]
    assert timeline.frame["step"].unique().tolist() == [0, 1, 2]
    assert timeline.frame["task"].is_unique
    assert list(pq.read_table(tmp_path / "t.parquet").column_names) == list(COLUMNS)


def test_one_task_at_a_time_per_stream(cli, small, tmp_path):
    """Law 1, read from the file alone; the lanes' work is the result's."""
    cli("simulate", "cgopipe", *small, "--timeline", "t.parquet", "--json", "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert (frame["end_s"] >= frame["start_s"]).all()
    found = lanes(frame)
    assert {"pin", "h2d", "gpu", "d2h", "cpu"} == set(found)
    for stream, rows in found.items():
        assert (rows["start_s"].to_numpy()[1:] >= rows["end_s"].to_numpy()[:-1]).all()
        worked = (rows["end_s"] - rows["start_s"]).sum()
        assert worked == pytest.approx(result["busy_s"][stream], rel=1e-9)


def test_a_step_starts_where_the_one_before_ended(cli, small, tmp_path):
    cli("simulate", "cgopipe", *small, "--timeline", "t.parquet", "--json", "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    steps = pd.read_parquet(tmp_path / "t.parquet").groupby("step")
    starts, ends = steps["start_s"].min(), steps["end_s"].max()
    sync = 1e-3  # seconds that the host may take between two steps
    assert 0 <= starts[0] < sync
    assert 0 <= starts[1] - result["prefill_s"] < sync
    assert result["prefill_s"] >= ends[0] > result["prefill_s"] - sync
    assert starts[2] >= ends[1]
    assert result["makespan_s"] >= ends[2] > result["makespan_s"] - sync


@pytest.mark.parametrize(
    ("steps", "held"),
    [("0", {0}), ("2", {2}), ("1-2", {1, 2}), ("0,2", {0, 2}), ("all", {0, 1, 2})],
)
def test_chosen_steps_keep_their_times(cli, small, tmp_path, steps, held):
    cli("simulate", "cgopipe", *small, "--timeline", "all.parquet")
    end = cli("simulate", "cgopipe", *small, "--timeline", "t.parquet", "--steps", steps)
    assert end.code == 0
    everything = pd.read_parquet(tmp_path / "all.parquet")
    expected = everything[everything["step"].isin(held)].reset_index(drop=True)
    found = pd.read_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found.drop(columns="task"), expected.drop(columns="task"))


def test_page(cli, small, tmp_path):
    end = cli("simulate", "cgopipe", *small, "--timeline", "page.html")
    assert (end.code, end.err, end.written) == (0, "", {"page.html"})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert Page(text).loads == []
    assert "cgopipe, mixtral-8x7b on gcp-t4-24c" in text
    assert "2 decode steps" in text


def test_chrome_trace(cli, small, tmp_path):
    end = cli("simulate", "cgopipe", *small, "--timeline", "t.json", "--steps", "1")
    assert (end.code, end.err, end.written) == (0, "", {"t.json"})
    cli("simulate", "cgopipe", *small, "--timeline", "t.parquet", "--steps", "1")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    lanes_named = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert lanes_named == STREAMS
    tasks = [e for e in events if e["ph"] == "X"]
    assert len(tasks) == len(frame)
    assert min(e["ts"] for e in tasks) == pytest.approx(frame["start_s"].min() * 1e6, rel=1e-6)
    assert {e["name"] for e in tasks} == set(frame["op"])


@pytest.mark.parametrize("name", ["p.html", "t.parquet", "t.json"])
def test_without_decode_steps(cli, small, name):
    """Prefill alone yields the only token."""
    end = cli("simulate", "cgopipe", *small, "--gen-len", 1, "--timeline", name, "--json", "r.json")
    assert (end.code, end.err, end.written) == (0, "", {name, "r.json"})
    result = json.loads(end.after["r.json"])
    assert result["tpot_s"] is None
    assert result["decode_s"] == 0


def test_a_path_is_printed_as_it_is(cli, small, tmp_path):
    folder = tmp_path / ("[bold]" + "x" * 180)
    folder.mkdir()
    end = cli("simulate", "cgopipe", *small, "--timeline", folder / "t.parquet")
    assert end.out.splitlines()[-1] == f"Written: {folder / 't.parquet'}"
