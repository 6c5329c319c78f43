"""Hardware presets, their sources and arithmetic, what-ifs, and malformed files."""

from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest
from pydantic import ValidationError

from schedules.errors import BadInput
from sim.hardware import CALIBRATIONS, Amount, Hardware, Rate, hardware_names, load_hardware

ALL = {
    "a100-80g-epyc64",
    "gcp-l4-24c",
    "gcp-t4-208g",
    "gcp-t4-24c",
    "gcp-t4x2-32c",
    "gcp-t4x4-32c",
    "h200-16c",
    "rtx3080x8-lan",
    "rtx4090-pc",
}
presets = pytest.mark.parametrize("name", sorted(ALL))

# MoE-Lightning, figure 9: one Mixtral layer in decode, milliseconds by batch size and context.
CONTEXTS = (128, 256, 512, 1024, 2048)
KV_TRANSFER_MS = {
    32: (1.41, 2.74, 5.46, 10.9, 21.8),
    64: (2.74, 5.46, 10.9, 21.76, 43.51),
    128: (5.46, 10.92, 21.78, 43.5, 86.99),
    256: (10.89, 21.77, 43.49, 86.97, 173.88),
}
CPU_ATTENTION_MS = {
    32: (0.44, 0.67, 1.73, 3.00, 5.94),
    64: (0.74, 1.48, 2.98, 5.89, 11.60),
    128: (1.57, 2.98, 6.32, 11.40, 23.20),
    256: (3.71, 6.73, 11.78, 22.06, 44.58),
}
MOE_FFN_MS = (12.2, 12.3, 12.5, 13.0)
EXPERTS_OF_A_LAYER_BYTES = 8 * 3 * 4096 * 14336 * 2
FLOPS_PER_TOKEN = 25.8e9  # Mixtral 8x7B, 12.9e9 active parameters


def bytes_and_seconds(table):
    """Rows of figure 9 as two arrays: bytes of keys and values, and seconds."""
    rows = [
        (batch * context * 2 * 8 * 128 * 2, milliseconds / 1e3)
        for batch, row in table.items()
        for context, milliseconds in zip(CONTEXTS, row, strict=True)
    ]
    return np.array(rows, dtype=float).T


def parts_of(part, path=""):
    """Every `Rate` and `Amount` inside a part, with its path."""
    if isinstance(part, Rate | Amount):
        return [(path, part)]
    children = part.items() if isinstance(part, dict) else dict(part).items()
    return [
        found
        for key, child in children
        if isinstance(child, dict) or hasattr(child, "model_fields_set")
        for found in parts_of(child, f"{path}.{key}".strip("."))
    ]


@pytest.fixture
def t4():
    return load_hardware("gcp-t4-24c")


def test_the_presets(monkeypatch, tmp_path):
    monkeypatch.setenv(CALIBRATIONS, str(tmp_path))  # calibrated machines have names as well
    assert set(hardware_names()) == ALL
    assert list(hardware_names()) == sorted(ALL)


def test_calibrated_machines_have_names(monkeypatch, tmp_path):
    for name, file in (("lab", "lab"), ("other", "another")):
        (tmp_path / name).mkdir()
        text = 'based_on = "gcp-t4-24c"\nname = "NAME"\ndescription = "a test"'
        (tmp_path / name / f"{file}.toml").write_text(text.replace("NAME", name))
    monkeypatch.setenv(CALIBRATIONS, str(tmp_path))
    assert set(hardware_names()) == {*ALL, "lab"}
    assert load_hardware("lab").description == "a test"
    with pytest.raises(BadInput, match="did you mean 'lab'"):
        load_hardware("lob")


def test_a_machine_based_on_a_calibrated_one(tmp_path, monkeypatch):
    monkeypatch.setenv(CALIBRATIONS, str(tmp_path))
    calibration(tmp_path, "lab", "gcp-t4-24c")
    calibration(tmp_path, "lab-2", "lab")
    assert load_hardware("lab-2").links["h2d"] == load_hardware("gcp-t4-24c").links["h2d"]


def test_machines_based_on_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv(CALIBRATIONS, str(tmp_path))
    calibration(tmp_path, "a", "b")
    calibration(tmp_path, "b", "a")
    said = "hardware b: based_on is 'a', which is based on b itself"
    with pytest.raises(BadInput, match=said):
        load_hardware("a")


def calibration(folder, name, based_on):
    (folder / name).mkdir()
    text = f'based_on = "{based_on}"\nname = "{name}"\ndescription = "made up"\n'
    (folder / name / f"{name}.toml").write_text(text)


CALIBRATED = Path(__file__).parents[2] / "calibrations"


@pytest.mark.parametrize("path", sorted(CALIBRATED.glob("*/*.toml")), ids=lambda path: path.stem)
def test_committed_calibrations_can_be_read(path):
    assert load_hardware(path).name == path.stem == path.parent.name
    for ending in ("points.jsonl", "operations.jsonl", "facts.json", "check.json"):
        assert path.with_name(f"{path.stem}.{ending}").is_file()


@presets
def test_a_preset_is_named_like_its_file_and_survives_json(name):
    hardware = load_hardware(name)
    assert hardware.name == name
    assert Hardware.model_validate_json(hardware.model_dump_json()) == hardware


@presets
def test_every_number_has_a_source(name):
    hardware = load_hardware(name)
    parts = parts_of(hardware)
    assert len(parts) >= 9 + 6 + 5 + 8  # CPU and GPU compute, five links, the other amounts
    assert all(len(part.source) >= 10 for _, part in parts)
    assert len(hardware.shared_host_link.source) >= 10


SANE = {  # a wrong unit is off by 1000 or more
    "gpu.compute": (1e12, 1e15),
    "gpu.memory_bandwidth": (200e9, 5e12),
    "cpu.compute": (0.5e12, 20e12),  # of eight desktops together
    "cpu.memory_bandwidth": (20e9, 500e9),
    "gpu.memory": (10e9, 150e9),
    "cpu.memory": (100e9, 600e9),
    "gpu.process": (0.1e9, 2e9),
    "gpu.call_s": (1e-6, 1e-5),
    "cpu.call_s": (1e-6, 1e-4),
    "links.peer": (0.1e9, 66e9),  # from gigabit Ethernet on
    "links": (0.4e9, 250e9),
    "link_call_s": (1e-6, 1e-4),
    "peer_call_s": (1e-5, 1e-3),
    "host.issue_s": (1e-6, 5e-5),
    "host.sync_s": (1e-6, 1e-4),
    "host.ffn_s": (1e-5, 1e-2),
    "host.pinnable_fraction": (0.1, 1.0),
    "disk": (1e11, 1e14),
}


@presets
def test_units_are_right(name):
    for path, part in parts_of(load_hardware(name)):
        low, high = next(span for start, span in SANE.items() if path.startswith(start))
        values = (part.value,) if isinstance(part, Amount) else (part.sustained, part.peak)
        assert low <= values[0] <= values[-1] <= high, path


@presets
def test_relations_between_rates(name):
    hardware = load_hardware(name)
    links = hardware.links
    for way in ("h2d", "d2h"):
        staged, pinned = links[f"{way}_pageable"].sustained, links[way].sustained
        assert staged < links["pin"].sustained, "the driver's staging copies as one thread does"
        assert staged < pinned
    assert 2 * links["pin"].sustained < hardware.cpu.memory_bandwidth.sustained
    for compute in (hardware.gpu.compute, hardware.cpu.compute):
        for rates in compute.values():
            assert rates["experts"].sustained <= rates["gemm"].sustained
            assert rates["attention"].sustained <= rates["gemm"].sustained
    assert ("bfloat16" in hardware.gpu.compute) == ("T4" not in hardware.gpu.name)
    assert set(hardware.cpu.compute) == {"float16", "bfloat16", "float32"}
    assert ("peer" in links) == (hardware.gpu.count > 1)


def test_one_cloud_one_value(t4):
    for name in ("gcp-l4-24c", "gcp-t4-208g", "gcp-t4x2-32c", "gcp-t4x4-32c"):
        other = load_hardware(name)
        own = {"pin", "disk"}  # a worker for each GPU; another CPU, another disk
        same = [link for link in t4.links if link not in own]
        assert {link: other.links[link] for link in same} == {link: t4.links[link] for link in same}
        assert other.host == t4.host
    assert load_hardware("gcp-t4x4-32c").gpu == t4.gpu.model_copy(update={"count": 4})


def test_figure_9_gives_the_link():
    size, seconds = bytes_and_seconds(KV_TRANSFER_MS)
    slope, fixed = np.polyfit(size, seconds, 1)
    l4 = load_hardware("gcp-l4-24c")
    assert l4.links["h2d"].sustained == pytest.approx(1 / slope, rel=1e-3)
    assert abs((slope * size + fixed) / seconds - 1).max() < 0.011
    host = l4.host
    overhead = host.issue_s.value + host.sync_s.value + l4.link_call_s.value
    assert overhead == pytest.approx(fixed, abs=1e-6)


def test_figure_9_gives_cpu_attention(t4):
    size, seconds = bytes_and_seconds(CPU_ATTENTION_MS)
    rates = sorted(size / seconds)
    l4 = load_hardware("gcp-l4-24c")
    assert l4.cpu.memory_bandwidth.sustained == pytest.approx(median(rates), rel=1e-3)
    _, fixed = np.polyfit(size, seconds, 1, w=1 / seconds)
    assert l4.cpu.call_s.value == pytest.approx(fixed, abs=1e-6)
    assert rates[3] < t4.cpu.memory_bandwidth.sustained < rates[4], "the lower envelope"


def test_figure_9_gives_the_memory_of_the_l4():
    rates = [EXPERTS_OF_A_LAYER_BYTES / (ms / 1e3) for ms in MOE_FFN_MS]
    sustained = load_hardware("gcp-l4-24c").gpu.memory_bandwidth.sustained
    assert sustained == pytest.approx(fmean(rates), rel=5e-3)


def test_published_runs_give_expert_rates_and_pinning(t4):
    # MoE-Lightning S1 padded: 504 sequences of 418 tokens; tokens/s at 32 to 256 generated tokens.
    throughputs = {32: 15.609, 64: 23.997, 128: 30.122, 256: 33.938}
    total = {length: 504 * length / tokens_s for length, tokens_s in throughputs.items()}
    lengths = sorted(total)
    steps = [(total[b] - total[a]) / (b - a) for a, b in pairwise(lengths)]
    model = 32 * EXPERTS_OF_A_LAYER_BYTES
    pin = t4.links["pin"]
    assert pin.peak == pytest.approx(model / min(steps), rel=1e-3)
    assert fmean(model / step for step in steps) < pin.sustained < pin.peak
    prefill = total[32] - 31 * steps[0]
    implied = 504 * 418 / prefill * FLOPS_PER_TOKEN
    assert implied == pytest.approx(7.42e12, rel=0.01)  # the lowest of the estimates it stands for
    assert implied < t4.compute_rate("gpu", "experts", "float16").sustained < 1.1 * implied
    # S2 padded: 1088 sequences, 32 tokens, decode steps as long as pinning the experts.
    l4 = load_hardware("gcp-l4-24c")
    prefill = 1088 * 32 / 53.714 - 31 * model / l4.links["pin"].sustained
    implied = 1088 * 418 / prefill * FLOPS_PER_TOKEN
    assert l4.compute_rate("gpu", "experts", "float16").sustained == pytest.approx(
        implied, rel=0.01
    )


def test_rates_by_name(t4):
    assert t4.compute_rate("gpu", "gemm", "float16").peak == 65e12
    assert t4.compute_rate("cpu", "experts", "bfloat16") == t4.cpu.compute["bfloat16"]["experts"]
    assert t4.link_rate("pin") == t4.links["pin"]


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (("gpu", "gemm", "bfloat16"), "NVIDIA T4 has no rates for bfloat16, only for float16 and"),
        (("tpu", "gemm", "float16"), "no device 'tpu'; it must be 'gpu' or 'cpu'"),
        (("cpu", "expert", "float16"), "no kernel class 'expert', did you mean 'experts'"),
    ],
)
def test_there_is_no_such_rate(t4, question, sentence):
    with pytest.raises(BadInput, match=f"gcp-t4-24c.*{sentence}"):
        t4.compute_rate(*question)


def test_there_is_no_such_link(t4):
    with pytest.raises(BadInput, match="gcp-t4-24c has no link 'peer'"):
        t4.link_rate("peer")


def test_a_disk_and_its_link_go_together(t4):
    fields = t4.model_dump()
    without = {link: rate for link, rate in fields["links"].items() if link != "disk"}
    for change, sentence in (
        ({"disk": None}, r"links.disk is given, but no \[disk\] says how large it is"),
        ({"links": without}, "links.disk is missing"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            Hardware.model_validate(fields | change)
    assert t4.with_rate("disk", 2).disk.value == 2 * t4.disk.value


def test_capacities():
    flexgen = load_hardware("gcp-t4-208g").capacities()
    dram = 208 * 2**30
    assert flexgen == {
        "gpu": 15_500_000_000,
        "cpu": dram,
        "pinned": dram // 2,
        "disk": 1_500_000_000_000,
    }
    assert load_hardware("gcp-t4x4-32c").capacities()["gpu"] == flexgen["gpu"], "of one GPU"


def test_what_if_one_rate(t4):
    faster = t4.with_rate("links.pin", 2)
    assert faster.links["pin"].sustained == 2 * t4.links["pin"].sustained
    assert faster.links["pin"].peak == 2 * t4.links["pin"].peak
    assert faster.links["pin"].source.startswith("what if, x 2: Implied")
    assert faster.name == "gcp-t4-24c (links.pin x 2)"
    assert {link for link in t4.links if faster.links[link] != t4.links[link]} == {"pin"}
    assert (faster.gpu, faster.cpu, faster.host) == (t4.gpu, t4.cpu, t4.host)
    assert t4 == load_hardware("gcp-t4-24c"), "the original is as it was"


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("gpu.memory", ["gpu.memory"]),
        ("host.issue_s", ["host.issue_s"]),
        ("link_call_s", ["link_call_s"]),
        ("gpu.compute.float32.gemm", ["gpu.compute.float32.gemm"]),
        (
            "gpu.compute.float16",
            [f"gpu.compute.float16.{kind}" for kind in ("attention", "experts", "gemm")],
        ),
        (
            "links",
            [
                "links.d2h",
                "links.d2h_pageable",
                "links.disk",
                "links.h2d",
                "links.h2d_pageable",
                "links.pin",
                "links.pin_parallel",
            ],
        ),
    ],
)
def test_what_if_reaches_what_the_path_names_and_nothing_else(t4, path, changed):
    before, after = dict(parts_of(t4)), dict(parts_of(t4.with_rate(path, 0.5)))
    assert sorted(key for key in before if before[key] != after[key]) == changed
    assert all(after[key].source.startswith("what if, x 0.5") for key in changed)


@pytest.mark.parametrize(
    ("path", "factor", "sentence"),
    [
        ("links.pim", 2, "'links.pim' leads to no rate: no 'pim', did you mean 'pin'"),
        ("link.pin", 2, "no 'link', did you mean 'links'"),
        ("", 2, "'' leads to no rate: no ''"),
        ("gpu", 2, "'gpu' leads to no rate: it is no number"),
        ("gpu.count", 2, "'gpu.count' leads to no rate: it is no number"),
        ("links.pin.peak", 2, "'links.pin.peak' leads to no rate"),
        ("links.pin", 0, "the factor of links.pin is 0; it must be above 0"),
        ("links.pin", -1, "must be above 0"),
        ("links.pin", float("nan"), "factor of links.pin is nan"),
        ("links.pin", 1e300, r"links.pin x 1e\+300: peak is inf; it must be a finite number"),
        ("host.pinnable_fraction", 3, "pinnable_fraction.value must be at most 1"),
    ],
)
def test_what_if_that_makes_no_sense(t4, path, factor, sentence):
    with pytest.raises(BadInput, match=f"gcp-t4-24c.*{sentence}"):
        t4.with_rate(path, factor)


EMULATED = """
[emulated]
gpu_threads = 1
cpu_threads = 1
[emulated.copy_rate]
peak = 1e10
sustained = 1e10
source = 'measured by me'
"""


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


MINE = 'based_on = "gcp-t4-24c"\nname = "mine"\ndescription = "my T4"\n'
DUAL = "[gpu]\ncount = 2\n"
SHARE = '[host.pinnable_fraction]\nvalue = 1.5\nsource = "a guess of mine"\n'


def link(name, peak, sustained, source="measured by me"):
    return f'[links.{name}]\npeak = {peak}\nsustained = {sustained}\nsource = "{source}"\n'


def test_a_file_based_on_a_preset_says_only_what_differs(tmp_path, t4):
    mine = load_hardware(written(tmp_path, MINE + link("h2d", "15e9", "13e9")))
    assert (mine.name, mine.description) == ("mine", "my T4")
    assert mine.links["h2d"] == Rate(peak=15e9, sustained=13e9, source="measured by me")
    assert {**mine.links, "h2d": t4.links["h2d"]} == t4.links
    assert (mine.gpu, mine.cpu, mine.host) == (t4.gpu, t4.cpu, t4.host)
    assert load_hardware(str(tmp_path / "mine.toml")) == mine


def test_a_dtype_that_is_as_another_follows_it(tmp_path):
    rate = 'peak = 9e12\nsustained = 8e12\nsource = "my own GEMM"\n'
    text = MINE + "".join(
        f"[cpu.compute.float32.{kind}]\n{rate}" for kind in ("gemm", "experts", "attention")
    )
    half = load_hardware(written(tmp_path, text)).compute_rate("cpu", "gemm", "float16")
    assert half.sustained == 8e12
    assert half.source.startswith("No float16 units")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINE + link("h2d", "0", "0"), r"links.h2d.peak is 0; it must be greater than 0"),
        (MINE + link("h2d", "-3e9", "1e9"), r"links.h2d.peak is -3000000000.0; it must be greater"),
        (MINE + link("h2d", "nan", "1e9"), r"links.h2d.peak is nan; it must be a finite number"),
        (MINE + link("h2d", "inf", "1e9"), r"links.h2d.peak is inf; it must be a finite number"),
        (MINE + link("h2d", "true", "1e9"), r"links.h2d.peak is True; it must be a valid number"),
        (MINE + link("h2d", '"12 GB/s"', "1e9"), r"peak is '12 GB/s'; it must be a valid number"),
        (
            MINE + link("h2d", "12e9", "13e9"),
            r"links.h2d: sustained is 1.3e\+10; it must be at most the peak, 1.2e\+10",
        ),
        (MINE + link("h2d", "2e9", "1e9", "me"), r"source is 'me'; it must have at least 10"),
        (MINE + "[links.h2d]\nsource = 'measured by me'\n", r"links.h2d.peak is missing"),
        (MINE + "[links.h2d]\npeak = 13e9\nsustained = 13e9\n", r"links.h2d.source is missing"),
        (MINE + link("h2b", "2e9", "1e9"), r"links.h2b is not a key here; it must be 'h2d', 'd2h'"),
        (MINE + "[gpu]\nmemmory = 3\n", r"gpu: 'memmory' is not a key here, did you mean 'memory'"),
        ("colour = 'red'\n" + MINE, r": 'colour' is not a key here; known: channels, cpu, descri"),
        (MINE + "[gpu]\ncount = 0\n", r"gpu.count is 0; it must be greater than or equal to 1"),
        (MINE + "[gpu]\ncount = 1.5\n", r"gpu.count is 1.5; it must be a valid integer"),
        (MINE + DUAL, r"links.peer is missing"),
        (MINE + link("peer", "2e9", "1e9"), r"links.peer is given, but gpu.count is 1"),
        (
            MINE + "[peer_call_s]\nvalue = 1e-4\nsource = 'measured by me'\n",
            r"peer_call_s is given, but gpu.count is 1",
        ),
        (
            MINE + "[channels.queue]\nvalue = 2\nsource = 'measured by me'\n",
            r"channels.queue is given, but there is no \[emulated\] GPU",
        ),
        (
            MINE + EMULATED + "[channels.queue]\nvalue = 1\nsource = 'measured by me'\n",
            r"channels.queue.value must be at least 2: an operation takes two",
        ),
        (MINE + SHARE, r"host.pinnable_fraction.value must be at most 1"),
        (MINE + "[gpu.compute]\nfp16 = {}\n", r"gpu.compute.fp16 is not a key here; .*'float16'"),
        (
            MINE + "[gpu.compute.bfloat16]\nsame_as = 'int8'\nsource = 'my own test'\n",
            r"gpu.compute: same_as is 'int8'; it must name a dtype with own rates",
        ),
        (
            MINE + "[gpu.compute.bfloat16.gemm]\npeak = 2\nsustained = 1\nsource = 'my own test'\n",
            r"gpu: compute.bfloat16.experts is missing",
        ),
        (MINE + "links = 3\n", r"links is 3; it must be a table"),
        (MINE + "[cpu]\ncompute = 3\n", r"cpu.compute is 3; it must be a table"),
        (MINE + "gpu = 'a T4'\n", r"gpu is 'a T4'; it must be a table"),
        (MINE + "shared_host_link = true\n", r"shared_host_link is True; it must be a table"),
        (MINE + "[gpu]\ncompute = {source = 'x'}\n", r"gpu.compute.source is not a key here"),
        ("based_on = 'gcp-t4-24'\n", r"based_on is 'gcp-t4-24', which is no preset, did you mean"),
        ("based_on = 4\n", r"based_on is '4', which is no preset"),
        ("based_on = 'gcp-t4-24c'\n", r"name is missing"),
        ("name = 'mine'\n", r"description is missing"),
        ("name = \n", r"is not TOML: Invalid value \(at line 1"),
        (MINE + MINE, r"is not TOML: Cannot overwrite a value"),
    ],
)
def test_a_malformed_file_is_answered_with_file_key_value_and_what_is_right(
    tmp_path, text, sentence
):
    with pytest.raises(BadInput, match=rf"hardware .*mine\.toml.*{sentence}") as caught:
        load_hardware(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gcp-t4", "no hardware is named 'gcp-t4', did you mean 'gcp-t4-24c' or"),
        ("", "no hardware is named ''"),
        ("none.toml", "none.toml: there is no such file"),
        ("no/such/place", "there is no such file"),
    ],
)
def test_unknown_hardware(name, sentence):
    with pytest.raises(BadInput, match=sentence):
        load_hardware(name)


def test_hardware_is_frozen(t4):
    with pytest.raises(ValidationError, match="frozen"):
        t4.name = "faster"
