"""`moelab calibrate`: what it measures, writes, resumes and refuses."""

import json
import shutil
import tomllib

import pytest

from moelab.held_out import MODELS, cases, summary
from sim.hardware import load_hardware

SIMULATE = "simulate cgopipe -w fixed-64 --gen-len 3 -N 4 -u 2"
QUICK = "calibrate --device cpu --effort quick --gpu-memory 500MB --link-bandwidth 1GB/s"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The folder of a quick calibration."""
    from moelab.cli import main

    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.raises(SystemExit) as end:
        main([*QUICK.split(), "--out", str(folder / "lab.toml")])
    assert not end.value.code
    return folder


@pytest.fixture
def lab(calibrated, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(calibrated, tmp_path / "lab")


def test_it_leaves_a_preset_and_raw_data(calibrated):
    assert sorted(path.name for path in calibrated.iterdir()) == [
        "lab.facts.json",
        "lab.operations.jsonl",
        "lab.points.jsonl",
        "lab.toml",
    ]
    machine = load_hardware(calibrated / "lab.toml")
    assert machine.name == "lab"
    assert machine.emulated is not None
    assert set(machine.channels) == {"cores", "cpu", "queue"}
    assert machine.gpu.memory.value == 500e6
    facts = json.loads((calibrated / "lab.facts.json").read_text())
    assert facts["device"] == "cpu"
    assert facts["options"]["link_bytes_per_s"] == 1e9
    for table in tables(tomllib.loads((calibrated / "lab.toml").read_text())):
        assert facts["date"][:10] in table["source"]  # where each value comes from


def tables(values):
    """All tables with a source."""
    if "source" in values:
        yield values
    for value in values.values():
        if isinstance(value, dict):
            yield from tables(value)


def test_a_copy_is_as_fast_as_the_link_was_held(calibrated):
    machine = load_hardware(calibrated / "lab.toml")
    assert machine.link_rate("h2d").sustained < 1.2e9
    assert machine.link_rate("pin").sustained > 1.2e9


def test_the_simulator_takes_it_by_path_and_by_name(cli, lab, monkeypatch):
    model = lab.parent / "config.json"
    model.write_text(json.dumps(MODELS["quick"].config("float32")))
    asked = [*SIMULATE.split(), "--json", "-", "-m", model]
    by_path = cli(*asked, "-H", lab / "lab.toml").json
    home = lab.parent / "calibrations" / "lab"
    shutil.copytree(lab, home)
    monkeypatch.setenv("MOELAB_CALIBRATIONS", str(home.parent))
    by_name = cli(*asked, "-H", "lab").json
    assert by_name["throughput_tok_s"] == by_path["throughput_tok_s"] > 0
    assert "lab" in cli("list", "hardware").out
    assert "did you mean 'lab'?" in cli(*asked, "-H", "lob").mistake


def test_another_number_format_is_refused(cli, lab):
    model = lab.parent / "config.json"
    model.write_text(json.dumps(MODELS["quick"].config("float16")))
    words = [*SIMULATE.split(), "-m", model, "-H"]
    assert "no rates for float16, only for float32" in cli(*words, lab / "lab.toml").mistake


def test_again_nothing_is_measured(cli, lab):
    points = (lab / "lab.points.jsonl").read_bytes()
    (lab / "lab.toml").unlink()
    found = cli(*QUICK.split(), "--out", str(lab / "lab.toml"), "--json", str(lab / "x.json"))
    assert found.code == 0
    assert (lab / "lab.points.jsonl").read_bytes() == points
    values = json.loads((lab / "x.json").read_text())
    assert set(values["fits"]) == {"gpu", "cpu", "links"}
    keys = {one["key"] for one in values["values"]}
    assert {"gpu.compute.float32.gemm", "links.h2d", "host.task_s", "channels.cores"} <= keys


@pytest.mark.slow
def test_held_out_runs_and_the_page(cli, lab):
    found = cli(*QUICK.split(), "--check", "--out", lab / "lab.toml", "--page", lab / "lab.html")
    assert found.code == 0
    assert "Held-out runs: median error" in found.out
    check = json.loads((lab / "lab.check.json").read_text())
    assert len(check["runs"]) == len(cases("quick"))
    assert "plotly" in (lab / "lab.html").read_text()


def test_it_goes_on_where_it_was_stopped(cli, lab):
    operations = lab / "lab.operations.jsonl"
    lines = operations.read_text().splitlines(keepends=True)
    operations.write_text("".join(lines[:-1]) + lines[-1][:40])  # killed while it wrote
    assert cli(*QUICK.split(), "--out", str(lab / "lab.toml")).code == 0
    again = [json.loads(line)["run"] for line in operations.read_text().splitlines()]
    assert again == [json.loads(line)["run"] for line in lines]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--device cpu --effort fast --out lab.toml", "there is no effort 'fast'"),
        ("--device cpu --out lab.json", "its name must end in .toml"),
        ("--device cpu --out nowhere/lab.toml", "the folder 'nowhere' does not exist"),
        ("--device cuda --link-bandwidth 1GB/s --out lab.toml", "with --device cpu only"),
        ("--device cpu --based-on gcp-t4-24c --out lab.toml", "--based-on is for --from"),
        ("--from run --out lab.toml", "--from needs --based-on NAME"),
        (
            "--from run --based-on nothing --out lab.toml",
            "--based-on nothing: no hardware is named",
        ),
        ("--from run --based-on ./lab.toml --out lab.toml", "no hardware is named so"),
        ("--from run --based-on gcp-t4 --out lab.toml", "did you mean 'gcp-t4-24c'"),
        ("--from run --based-on gcp-t4-24c --out gcp-t4-24c.toml", "would have that name itself"),
        ("--from run --based-on gcp-t4-24c --out lab.toml", "the folder 'run' does not exist"),
        ("--from run --based-on gcp-t4-24c --check --out lab.toml", "leave --from out"),
        ("--device cpu --threads 0,1 --out lab.toml", "each must be from 1 to"),
    ],
)
def test_mistakes(cli, words, message):
    assert message in cli("calibrate", *words.split()).mistake


def test_without_a_gpu_nothing_is_measured_or_removed(cli, lab, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = {path.name: path.read_bytes() for path in lab.iterdir()}
    words = ["calibrate", "--device", "cuda", "--again", "--out", str(lab / "lab.toml")]
    said = cli(*words).mistake
    assert said == "--device cuda: PyTorch finds no CUDA device here; use --device cpu"
    assert {path.name: path.read_bytes() for path in lab.iterdir()} == before


def test_other_options_are_another_calibration(cli, lab):
    other = [word.replace("1GB/s", "2GB/s") for word in QUICK.split()]
    found = cli(*other, "--out", str(lab / "lab.toml"))
    assert found.code == 2
    assert "is of a calibration with another device or other options" in found.err


@pytest.mark.parametrize("name", ["lab.points.jsonl", "lab.operations.jsonl", "lab.facts.json"])
def test_broken_raw_data(cli, lab, name):
    path = lab / name
    path.write_text("nonsense\n" + path.read_text())
    found = cli(*QUICK.split(), "--out", str(lab / "lab.toml"))
    assert found.code == 2
    assert name in found.err
    assert "Traceback" not in found.err


def row(workload, measured_s, simulated_s, again_s=None):
    """A held-out run."""
    return {
        "workload": workload,
        "measured_s": measured_s,
        "simulated_s": simulated_s,
        "repeats_s": [measured_s, again_s or measured_s],
        "error": simulated_s / measured_s - 1,
    }


def test_the_summary_of_held_out_runs_by_hand():
    rows = [row("a", 10, 11), row("a", 20, 19), row("a", 20.1, 18, 20.5), row("b", 1, 30)]
    found = summary(rows)
    assert found["worst_abs_error"] == 29
    assert found["median_abs_error"] == pytest.approx((0.1 + 2.1 / 20.1) / 2)
    assert found["pairs"] == 2  # the two that are closer than a run is to itself do not count
    assert found["same_ranking"]
    assert found["worst_noise"] == pytest.approx(20.5 / 20.1 - 1)
    assert not summary([row("a", 1, 2), row("a", 2, 1)])["same_ranking"]


@pytest.mark.parametrize("kind", ["quick", "cpu", "cuda"])
def test_held_out_runs_are_many(kind):
    every = cases(kind)
    assert len(every) >= 12
    assert len({case.schedule for case in every}) >= 7
    assert len({case.budget for case in every}) == 3
    assert min(case.micro_batch for case in every) >= 1
