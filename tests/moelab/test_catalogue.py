"""`moelab list`: names that the other commands understand, with the numbers that matter."""

import json

import pytest

from moelab.catalogue import entries
from schedules.model_presets import load_model, model_names
from schedules.schedule import find_schedule, schedules
from schedules.workload_presets import load_workload, workload_names
from sim.hardware import hardware_names, load_hardware

KINDS = ("models", "hardware", "workloads", "schedules")
NAMES = {
    "models": model_names,
    "hardware": hardware_names,
    "workloads": workload_names,
    "schedules": schedules,
}


@pytest.mark.parametrize("what", KINDS)
def test_lists_all_that_has_a_name(cli, what):
    end = cli("list", what)
    assert (end.code, end.err) == (0, "")
    lines = [line.split() for line in end.out.splitlines()]
    for name in NAMES[what]():
        assert any(line and line[0] == name for line in lines)


@pytest.mark.parametrize("what", KINDS)
def test_json_to_standard_output_and_nothing_else(cli, what):
    end = cli("list", what, "--json", "-")
    assert (end.code, end.err, end.written) == (0, "", set())
    assert list(end.json) == [what]
    assert [entry["name"] for entry in end.json[what]] == list(NAMES[what]())
    assert end.json == {what: entries(what)}


@pytest.mark.parametrize("what", KINDS)
def test_json_to_a_file(cli, tmp_path, what):
    end = cli("list", what, "--json", "found.json")
    assert (end.code, end.err, end.written) == (0, "", {"found.json"})
    assert end.out == cli("list", what).out
    assert json.loads((tmp_path / "found.json").read_text()) == {what: entries(what)}


@pytest.mark.parametrize("what", KINDS)
def test_every_entry_has_the_same_keys_and_says_what_it_is(what):
    found = entries(what)
    assert len({tuple(entry) for entry in found}) == 1
    for entry in found:
        text = entry.get("source") or entry.get("description") or entry.get("paper")
        assert len(text) > 10


def entry(what, name):
    return next(e for e in entries(what) if e["name"] == name)


def test_a_model():
    found = entry("models", "mixtral-8x7b")
    assert found["parameters"] == 46_702_792_704  # Hugging Face counts as many
    assert found["active_parameters"] == 12_879_925_248
    assert (found["layers"], found["experts"], found["top_k"]) == (32, 8, 2)
    assert found["dtype"] == load_model("mixtral-8x7b").dtype == "float16"


def test_a_machine():
    found = entry("hardware", "gcp-t4x2-32c")
    machine = load_hardware("gcp-t4x2-32c")
    assert found["gpus"] == "2 x NVIDIA T4"
    assert found["gpu_memory_bytes"] == machine.gpu.memory.value == 15.5e9
    assert found["h2d_bytes_per_s"] == machine.links["h2d"].sustained
    assert found["cpu_memory_bytes_per_s"] == machine.cpu.memory_bandwidth.sustained


def test_a_workload():
    found = entry("workloads", "mtbench")
    assert (found["average"], found["longest"]) == (77, 418)  # MoE-Lightning, table 3
    assert found["gen_len"] == load_workload("mtbench").gen_len


def test_a_schedule():
    found = entry("schedules", "cgopipe")
    assert found["policy"] == ["N", "mu", "A_g", "pinned", "r_c", "r_w"]
    assert found["several_gpus"] == find_schedule("cgopipe").multi_gpu == "tensor"
    assert entry("schedules", "accelerate")["several_gpus"] is None
    assert "2411.11217" in found["paper"]
