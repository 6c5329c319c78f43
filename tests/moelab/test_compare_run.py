"""`moelab compare-run`: of folders that the simulator has written, and of real runs."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from moelab.compared_run import as_run, compared
from sim.hardware import load_hardware
from sim.hardware_parts import Emulated, Rate
from tests.moelab import test_replay
from tests.moelab.runs import GEN_LEN, HERE, write_prompts
from tests.strategies import toy_hardware

SLOWER, change = test_replay.SLOWER, test_replay.change
leave = test_replay.leave  # the folder of a run that took a fourth longer than its tasks
TINY_S = 1e-12

HOST = """\
based_on = "gcp-t4-24c"
name = "this-host"
description = "The host device, guessed by hand"

[gpu.compute.float32.gemm]
peak = 60e9
sustained = 30e9
source = "A guess by hand, for a test"

[gpu.compute.float32.experts]
peak = 60e9
sustained = 25e9
source = "A guess by hand, for a test"

[links.h2d]
peak = 20e9
sustained = 10e9
source = "A guess by hand, for a test"
"""


def toml(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Nested values as lines with dotted keys; JSON's scalars are TOML's."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from toml(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key} = {json.dumps(value)}\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy machine, on which issuing takes no time that counts."""
    values = toy_hardware().model_dump(mode="json")
    for name in ("issue_s", "sync_s"):
        values["host"][name]["value"] = TINY_S
    path = tmp_path / "toy.toml"
    path.write_text("".join(toml(values)))
    return path


@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "accelerate", "on-demand"])
@pytest.mark.parametrize("n", [5, 2])
def test_the_machine_that_made_the_run_has_no_error_of_durations(leave, toy, name, n) -> None:
    """All that is measured and not simulated is the fourth that the phases took longer."""
    found = compared(leave(name, n), str(toy)).to_dict()
    assert found["batches"] == -(-5 // n)
    for key in ("prefill_s", "decode_s", "makespan_s"):
        measured = found["measured"][key]
        assert found["replayed"][key] == pytest.approx(measured / SLOWER, rel=1e-9)
        assert found["simulated"][key] == pytest.approx(measured / SLOWER, rel=1e-9)
    for row in found["operations"]:
        assert row["error"] is None or row["error"] == pytest.approx(0.0, abs=1e-7)
        assert row["worth_s"] == pytest.approx(0.0, abs=1e-6)
    gap = found["gap_s"]["makespan"]
    assert gap["around"] == pytest.approx((1 - 1 / SLOWER) * found["measured"]["makespan_s"])
    assert found["divergences"] == []


def test_a_machine_that_is_slower(leave, toy) -> None:
    """Half of the link's rate: copies take longer, nothing else does."""
    slow = toy.read_text().replace("links.h2d.sustained = 10.0", "links.h2d.sustained = 5.0")
    toy.write_text(slow)
    found = compared(leave(), str(toy)).to_dict()
    errors = {(row["op"], row["stream"]): row["error"] for row in found["operations"]}
    assert all((stream == "h2d") == (error > 0.1) for (_, stream), error in errors.items() if error)
    assert found["gap_s"]["makespan"]["operations"] < 0
    assert found["divergences"][0]["measured"]["stream"] == "h2d"


def test_what_is_printed_and_written(cli, leave, toy) -> None:
    leave(n=2)
    done = cli("compare-run", "run", "--hardware", toy.name, "--out", "p.html", "--json", "r.json")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("cgopipe on toy: measured ")
    assert lines[0].endswith("(-20.0 %).")
    words = [line.split() for line in lines]
    (makespan,) = [line for line in words if line[:1] == ["makespan"]]
    assert makespan[-2:] == ["-20.0", "%"]
    assert "Prefill: the clocks do not part." in lines
    assert done.written == {"p.html", "r.json"}
    found = json.loads(done.after["r.json"])
    assert (found["run"], found["hardware"], found["run_hardware"]) == ("run", "toy", "a CPU")
    assert b"Of several batches the first is shown." in done.after["p.html"]


def test_json_alone_on_standard_output(cli, leave, toy) -> None:
    leave()
    assert cli("compare-run", "run", "-H", toy.name, "--json", "-").json["schedule"] == "cgopipe"


def test_the_machine_that_the_run_names(leave, toy) -> None:
    """A name that can be loaded, as that of a calibration can."""
    folder = leave()
    change(folder, "hardware", value=str(toy))
    assert compared(folder).hardware.name == "toy"


# -- what the run says of its machine --------------------------------------------------------------


def test_links_are_at_most_as_fast_as_the_run_held_them() -> None:
    """h2d and d2h 12.35 GB/s, pageable 5.83 and 5.2; pinning is no link."""
    hardware = load_hardware("gcp-t4-24c")
    found, changes = as_run(hardware, {"link_bytes_per_s": 5.5e9, "threads": [1, 1]})
    rates = {name: found.link_rate(name).sustained for name in hardware.links}
    assert rates["h2d"] == rates["d2h"] == rates["h2d_pageable"] == 5.5e9
    assert rates["d2h_pageable"] == 5.2e9
    assert rates["pin"] == hardware.link_rate("pin").sustained
    assert changes == ("h2d, d2h, h2d_pageable at 5.5 GB/s, as the run held its link",)
    assert "--link-bandwidth" in found.link_rate("h2d").source


@pytest.mark.parametrize("presets", [{}, {"link_bytes_per_s": None}, {"link_bytes_per_s": 1e12}])
def test_a_link_that_was_not_held_or_is_slower_itself(presets: dict) -> None:
    hardware = load_hardware("gcp-t4-24c")
    assert as_run(hardware, presets) == (hardware, ())


@pytest.mark.parametrize(("threads", "changed"), [([1, 3], True), ([2, 1], False)])
def test_threads_that_stand_in_for_a_gpu_are_those_of_the_run(threads, changed: bool) -> None:
    copy = Rate(peak=2e9, sustained=1e9, source="made up for tests")
    emulated = Emulated(gpu_threads=2, cpu_threads=1, copy_rate=copy)
    hardware = load_hardware("gcp-t4-24c").model_copy(update={"emulated": emulated})
    found, changes = as_run(hardware, {"threads": threads})
    assert found.emulated is not None
    assert [found.emulated.gpu_threads, found.emulated.cpu_threads] == threads
    assert changes == (
        ("threads 1, 3, as in the run, beside rates that were measured with 2, 1",)
        if changed
        else ()
    )


@pytest.mark.parametrize(("device", "told"), [("cuda", None), ("cpu", [1, 2])])
def test_a_gpu_has_no_threads_of_the_host(leave, toy, device: str, told: list[int] | None) -> None:
    folder = leave()
    change(folder, "provenance", "presets", "threads", value=[1, 2])
    change(folder, "provenance", "question", value={"device": device})
    assert compared(folder, str(toy)).to_dict()["threads"] == told


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (shutil.rmtree, "the folder 'run' does not exist; give one that moelab run has written"),
        (
            lambda f: (f / "result.json").rename(f / "tokens.partial.jsonl"),
            "the run in 'run' is not finished; moelab run --resume goes on with it",
        ),
        (
            lambda f: change(f, "provenance", "presets", "n_gpus", value=4),
            "used 4 GPUs, and its timeline holds the tasks of the first one alone; runs on one GPU",
        ),
        (lambda f: change(f, "schedule", value="mine"), "unknown schedule 'mine'"),
        (lambda f: change(f, "schedule", value="flexgen"), "is not one of this schedule, policy"),
        (lambda f: change(f, "schedule", value="hobbit"), "'hobbit' decides by the gates' weights"),
        (
            lambda f: change(f, "provenance", "presets", "model_spec", "dtype", value="bfloat16"),
            "toy: toy GPU has no rates for bfloat16, only for float16 and float32",
        ),
    ],
)
def test_runs_that_cannot_be_compared(cli, leave, toy, spoil: Callable, complaint: str) -> None:
    spoil(leave())
    done = cli("compare-run", "run", "-H", toy.name, "--out", "p.html", "--json", "r.json")
    assert complaint in done.mistake


def test_a_machine_without_calibration(cli, leave) -> None:
    leave()
    assert cli("compare-run", "run").mistake == (
        "the run in 'run' was made on 'a CPU', for which there is no calibration; make one with "
        "moelab calibrate, or name a machine with --hardware"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-H", "gcp-t4-24"], "no hardware is named 'gcp-t4-24', did you mean 'gcp-t4-24c'"),
        (["-H", "mine.toml"], "mine.toml"),
        (["-H", "gcp-t4-24c", "--out", "p.pdf"], "its name must end in .html"),
        (["-H", "gcp-t4-24c", "--out", "a.html", "--json", "a.html"], "was asked for twice"),
    ],
)
def test_other_mistakes(cli, leave, words: list[str], complaint: str) -> None:
    leave()
    assert complaint in cli("compare-run", "run", *words).mistake


# -- real runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cgopipe", "flexgen", "on-demand"])
def test_a_real_run(cli, model, tmp_path: Path, schedule: str) -> None:
    """The host device beside a machine guessed by hand: the parts add up to the difference."""
    (tmp_path / "host.toml").write_text(HOST)
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    asked = ["--checkpoint", model, "--prompts", prompts, "--gen-len", GEN_LEN, "--ignore-eos"]
    asked += [*HERE.split(), "--link-bandwidth", "1GB/s", "-N", 3, "--out", "out"]
    assert cli("run", schedule, *asked).code == 0
    done = cli("compare-run", "out", "-H", "host.toml", "--json", "-", "--out", "p.html")
    assert (done.code, done.written) == (0, {"p.html"})
    found = done.json
    assert found["batches"] == 2
    assert found["changes"] == [
        "h2d, d2h, h2d_pageable, d2h_pageable at 1 GB/s, as the run held its link"
    ]
    assert found["threads"] == [1, 1]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    gap = found["gap_s"]["makespan"]
    assert found["tasks"] == result["tasks"]
    assert found["measured"]["makespan_s"] == pytest.approx(result["makespan_s"])
    assert gap["total"] == pytest.approx(result["makespan_s"] - found["simulated"]["makespan_s"])
    for stream, busy_s in found["busy_s"]["measured"].items():
        assert busy_s == pytest.approx(result["busy_s"][stream], rel=1e-6)
