"""`moelab replay`: folders as `moelab run` leaves them, here written by the simulator."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moelab.replaying import replay_run
from moelab.run_folder import RunFolder
from runtime.outcome import Asked, BatchRecord, measured_result
from schedules.kernels import Kernels
from schedules.lengths import Listed
from schedules.model import ModelSpec
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from schedules.timeline import Timeline
from schedules.workload import Workload
from sim.cost import Roofline
from sim.generation import Generation
from sim.result import Result
from sim.scenario import Scenario, place
from tests.strategies import toy_hardware

KERNELS = Kernels(experts="loop", cpu_attention="native", logits="last")
MODEL = ModelSpec(
    name="tiny",
    family="mixtral",
    dtype="float16",
    n_layers=3,
    hidden_size=32,
    vocab_size=101,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    n_experts=4,
    top_k=2,
    expert_ffn_size=48,
    ffn_matrices=3,
    tied_embeddings=False,
    max_context=64,
    source="made up",
)
LENGTHS = (4, 9, 1, 6, 4)
GEN_LEN = 4
SLOWER = 1.25  # what the measured phases take longer than their tasks need


def simulated(name: str, lengths: tuple[int, ...], mu: int) -> Result:
    """One batch, as the simulator sees it; issuing takes no time."""
    workload = Workload(
        name="quiz",
        prompt_lengths=Listed(lengths=lengths),
        gen_len=GEN_LEN,
        padded=False,
        source="made up",
    )
    scenario = Scenario(MODEL, toy_hardware(), workload, kernels=KERNELS)
    n, kind = len(lengths), find_schedule(name)
    policy = make_policy({"N": n, "mu": n if kind.one_batch else min(mu, n)})
    cost = Roofline(scenario.hardware)
    cost.issue_s = cost.sync_s = 0.0
    return Result(scenario, policy, Generation(place(scenario, kind, policy), cost))


def record(number: int, first: int, result: Result) -> BatchRecord:
    pools = result.capacity_bytes
    return BatchRecord(
        number=number,
        first=first,
        size=result.policy.N,
        positions=GEN_LEN,
        setup_s=1.0,
        prefill_s=SLOWER * result.prefill_s,
        step_s=tuple(SLOWER * s for s in result.step_s),
        busy_s=result.busy_s,
        tasks=result.tasks,
        peak_bytes=pools,
        predicted_bytes=pools,
        capacity_bytes=pools,
        issuing_s=0.0,
    )


def routing(result: Result, batch: int) -> pd.DataFrame:
    """What the simulated gates chose, as `routing.parquet` has it."""
    trace = result.scenario.routing
    rows = []
    for step in range(GEN_LEN):
        tokens = sum(result.scenario.workload.lengths(result.policy.N)) if step == 0 else None
        for layer in range(MODEL.n_layers):
            ids = trace.expert_ids(tokens or result.policy.N, 4, 2, layer, step)
            part = pd.DataFrame(ids, columns=["expert_0", "expert_1"])
            rows.append(part.assign(step=step, layer=layer, micro_batch=0, batch=batch))
    return pd.concat(rows)


@pytest.fixture
def leave(tmp_path: Path) -> Callable[..., Path]:
    """Writes the folder of a run of batches of `n` prompts."""

    def write(name: str = "cgopipe", n: int = 5, folder: str = "run", mu: int = 2) -> Path:
        out = tmp_path / folder
        out.mkdir()
        batches = [
            simulated(name, LENGTHS[first : first + n], mu) for first in range(0, len(LENGTHS), n)
        ]
        frames, start_s = [], 0.0
        for number, result in enumerate(batches):
            frame = result.timeline(range(GEN_LEN)).frame
            frames.append(
                frame.assign(
                    batch=number,
                    start_s=frame["start_s"] + start_s,
                    end_s=frame["end_s"] + start_s,
                )
            )
            start_s += SLOWER * result.makespan_s
        frame = pd.concat(frames, ignore_index=True)
        first = batches[0]
        write_timeline(out, frame, first.streams)
        if name == "on-demand":
            rows = [routing(result, number) for number, result in enumerate(batches)]
            pd.concat(rows).to_parquet(out / "routing.parquet")
        records = [record(i, i * n, result) for i, result in enumerate(batches)]
        one = find_schedule(name).one_batch
        policy = make_policy({"N": n, "mu": n if one else min(mu, n)})
        asked = Asked(name, "tiny", "a CPU", "quiz", policy.model_dump())
        presets = {
            "gen_len": GEN_LEN,
            "n_gpus": 1,
            "kernels": asdict(KERNELS),
            "model_spec": MODEL.model_dump(mode="json"),
            "prompt_lengths": list(LENGTHS),
        }
        found = measured_result(asked, records, [], {"version": "0", "presets": presets})
        (out / "result.json").write_text(json.dumps(found))
        return out

    return write


def write_timeline(out: Path, frame: pd.DataFrame, streams: tuple[str, ...]) -> None:
    """With the column `batch`, as `moelab run` writes it."""
    own = json.dumps({"streams": streams, "name": "a run"}).encode()
    rows = pa.Table.from_pandas(frame.assign(task=range(len(frame))), preserve_index=False)
    pq.write_table(rows.replace_schema_metadata({b"moelab": own}), out / "timeline.parquet")


def change(folder: Path, *keys: str, value: Any) -> None:
    """Set a value of the result, or remove it (None)."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    at = result
    for key in keys[:-1]:
        at = at[key]
    if value is None:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    path.write_text(json.dumps(result))


@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "accelerate", "on-demand"])
@pytest.mark.parametrize("n", [5, 2])
def test_every_batch_is_replayed(leave, name: str, n: int) -> None:
    """The measured phases took a fourth longer than their tasks did."""
    folder = leave(name, n)
    found = replay_run(folder).to_dict()
    for key in ("prefill_s", "decode_s", "makespan_s"):
        assert found["measured"][key] == pytest.approx(SLOWER * found["simulated"][key], rel=1e-9)
        assert found["error"][key] == pytest.approx(1 / SLOWER - 1)
    assert found["tasks"] == len(pd.read_parquet(folder / "timeline.parquet"))
    assert found["utilization"]["simulated"]["gpu"] == pytest.approx(
        SLOWER * found["utilization"]["measured"]["gpu"]
    )


def test_what_is_printed_and_written(cli, leave) -> None:
    leave(), leave("flexgen", folder="other")
    done = cli("replay", "run", "other", "--report", "r.html", "--json", "r.json")
    assert done.code == 0, done.err
    words = [line.split() for line in done.out.splitlines()]
    assert words[1][:2] == ["cgopipe", "prefill"]
    assert words[3][:1] == ["makespan"]
    assert words[3][-2:] == ["-20.0", "%"]
    assert words[4][:2] == ["flexgen", "prefill"]
    assert any(line[:2] == ["flexgen", "host"] for line in words)
    assert done.written == {"r.html", "r.json"}
    found = json.loads(done.after["r.json"])
    assert [one["schedule"] for one in found["replays"]] == ["cgopipe", "flexgen"]
    assert [one["run"] for one in found["replays"]] == ["run", "other"]
    assert b"simulated: " in done.after["r.html"]


@pytest.mark.parametrize("suffix", [".html", ".parquet", ".json"])
def test_the_simulated_timeline(cli, leave, suffix: str) -> None:
    leave(n=2)
    done = cli("replay", "run", "--timeline", f"t{suffix}")
    assert (done.code, done.written) == (0, {f"t{suffix}"})


def test_batches_follow_one_another_in_the_simulated_timeline(cli, leave) -> None:
    folder = leave(n=2)
    cli("replay", "run", "--timeline", "t.parquet", "--json", "r.json")
    found = Timeline.from_parquet("t.parquet")
    makespan_s = json.loads(Path("r.json").read_text())["replays"][0]["simulated"]["makespan_s"]
    assert found.frame["end_s"].max() == pytest.approx(makespan_s)
    assert len(found) == len(Timeline.from_parquet(folder / "timeline.parquet"))
    for _, lane in found.frame.groupby("stream"):
        lane = lane.sort_values(["start_s", "task"])
        assert (lane["start_s"].to_numpy()[1:] >= lane["end_s"].to_numpy()[:-1] - 1e-9).all()


def test_a_batch_that_was_not_measured_is_left_out(leave) -> None:
    """A run that was interrupted after its last token and resumed."""
    folder = leave(n=2)
    batches = json.loads((folder / "result.json").read_text())["measured"]["batches"]
    change(folder, "measured", "batches", value=batches[1:])
    found = replay_run(folder)
    assert [batch.number for batch, _ in found.batches] == [1, 2]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (shutil.rmtree, "the folder 'run' does not exist; give one that moelab run has written"),
        (lambda f: (f / "result.json").unlink(), "the folder 'run' holds no result.json"),
        (
            lambda f: (f / "result.json").rename(f / "tokens.partial.jsonl"),
            "the run in 'run' is not finished; moelab run --resume goes on with it",
        ),
        (lambda f: (f / "result.json").write_text("{"), "'run/result.json' cannot be read as JSON"),
        (lambda f: (f / "result.json").write_text("[]"), "is not a measured result; moelab run"),
        (
            lambda f: change(f, "measured", value=None),
            "'run/result.json' is not a measured result; moelab run writes one",
        ),
        (
            lambda f: change(f, "provenance", "presets", "n_gpus", value=4),
            "used 4 GPUs, and its timeline holds the tasks of the first one alone; runs on one GPU",
        ),
        (
            lambda f: change(f, "provenance", "presets", "kernels", value=None),
            "lacks provenance.presets.kernels, which a replay needs; it is of another version",
        ),
        (
            lambda f: change(f, "provenance", "presets", "kernels", value={"magic": 1}),
            "has kernels of another version of moelab",
        ),
        (
            lambda f: change(f, "provenance", "presets", "model_spec", "n_layers", value=-1),
            "the model of 'run': n_layers is -1",
        ),
        (lambda f: change(f, "schedule", value="flexgen"), "is not one of this schedule, policy"),
        (lambda f: change(f, "schedule", value="mine"), "unknown schedule 'mine'"),
        (lambda f: change(f, "measured", "batches", value=[]), "in 'run' nothing was measured"),
        (lambda f: (f / "timeline.parquet").unlink(), "'run/timeline.parquet' does not exist"),
        (
            lambda f: (f / "timeline.parquet").write_bytes(b"PAR1"),
            "'run/timeline.parquet' is not a moelab timeline in Parquet",
        ),
    ],
)
def test_what_cannot_be_replayed(cli, leave, spoil: Callable[[Path], Any], complaint: str) -> None:
    spoil(leave())
    assert complaint in cli("replay", "run", "--report", "r.html", "--json", "r.json").mistake


def test_a_timeline_without_batches(cli, leave) -> None:
    folder = leave()
    found = Timeline.from_parquet(folder / "timeline.parquet")
    found.to_parquet(folder / "timeline.parquet")
    assert "has no column 'batch'" in cli("replay", "run").mistake


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.unlink(), "does not exist, and schedule 'on-demand' moves what its"),
        (lambda path: path.write_bytes(b"x"), "'run/routing.parquet' is not the routing of a run"),
        (
            lambda path: pd.read_parquet(path).query("step < 2").to_parquet(path),
            "the recorded routing lacks step 2, layer 0, micro-batch 0",
        ),
    ],
)
def test_routing_that_is_missing(cli, leave, spoil, complaint: str) -> None:
    spoil(leave("on-demand") / "routing.parquet")
    assert complaint in cli("replay", "run").mistake


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["run", "--report", "r.pdf"], "its name must end in .html"),
        (["run", "--timeline", "t.csv"], "its name must end in .html, .parquet, .json"),
        (["run", "--timeline", "a.html", "--report", "a.html"], "'a.html' was asked for twice"),
        (["run", "--timeline", "a.json", "--json", "a.json"], "'a.json' was asked for twice"),
        (["run", "run", "--timeline", "t.html"], "--timeline shows one run, and 2 folders were"),
    ],
)
def test_targets_are_checked_first(cli, leave, words: list[str], complaint: str) -> None:
    leave()
    assert complaint in cli("replay", *words).mistake


def test_routing_is_read_only_when_a_schedule_asks(leave) -> None:
    folder = leave()
    assert not (folder / "routing.parquet").exists()
    assert RunFolder.read(folder).kind.name == "cgopipe"
    assert replay_run(folder).to_dict()["schedule"] == "cgopipe"
