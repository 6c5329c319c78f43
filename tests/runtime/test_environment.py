"""Where a run took place."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime

import pytest
import torch

from runtime import environment
from runtime.environment import GPU_QUERY, cpu, hardware_name, package_version, provenance, smi

T4 = "535.183.01, 70.00, 41, 585, 1590, 5000, 5001, 3, 3, 16, Enabled\n"


def test_everything_is_plain_and_says_where_it_comes_from() -> None:
    found = provenance(7, {"model": "tiny"}, "cpu", {"gen_len": 4}, ["/bin/moelab", "run", "a b"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["command"] == "moelab run 'a b'"
    assert (found["seed"], found["presets"], found["question"]) == (
        7,
        {"model": "tiny"},
        {"gen_len": 4},
    )
    assert datetime.fromisoformat(found["date"]).utcoffset() is not None
    place = found["environment"]
    assert place["packages"]["torch"] == package_version("torch")
    assert place["python"] == sys.version.split()[0]
    assert place["torch_threads"] == torch.get_num_threads()
    assert place["device"] == hardware_name("cpu")
    assert "gpu" not in place


def test_the_command_is_by_default_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["moelab", "run"])
    assert provenance(0, {}, "cpu")["command"] == "moelab run"
    assert provenance(0, {}, "cpu")["question"] is None


def test_the_cpu_has_a_name_and_cores() -> None:
    found = cpu()
    assert found["model"]
    assert 1 <= found["usable_cores"] <= found["logical_cores"]
    assert hardware_name("cpu") == f"{found['model']}, {found['usable_cores']} cores"


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_text", lambda path: None)
    monkeypatch.setattr(environment.platform, "processor", lambda: "arm")
    found = cpu()
    assert (found["model"], found["clock_mhz"], found["governor"]) == ("arm", None, None)


def test_a_package_that_is_not_installed() -> None:
    assert package_version("no-such-package") is None


# -- nvidia-smi ------------------------------------------------------------------------------------


def test_nvidia_smi_is_asked_about_the_gpu_that_is_used() -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        asked.append(command)
        return T4

    found = smi("GPU-1234", run)
    assert found["driver"] == "535.183.01"
    assert found["power_limit_w"] == 70
    assert (found["sm_clock_mhz"], found["sm_clock_max_mhz"]) == (585, 1590)
    assert (found["pcie_generation"], found["pcie_width"]) == (3, 16)
    assert found["ecc"] == "Enabled"
    assert asked[0][0] == "nvidia-smi"
    assert "--id=GPU-1234" in asked[0]
    smi(None, run)
    assert not any(word.startswith("--id") for word in asked[1])


@pytest.mark.parametrize("output", [None, "", "No devices were found\n"])
def test_without_an_answer_all_is_null(output: str | None) -> None:
    assert smi(None, lambda command: output) == dict.fromkeys(GPU_QUERY)


def test_what_a_gpu_does_not_know_is_null() -> None:
    answer = T4.replace("70.00", "[N/A]").replace("Enabled", "[N/A]")
    found = smi(None, lambda command: answer)
    assert found["power_limit_w"] is None
    assert found["sm_clock_mhz"] == 585


def test_commands_that_are_missing_or_fail() -> None:
    assert environment._run(["no-such-program-anywhere"]) is None
    assert environment._run(["false"]) is None
    assert environment._run(["echo", "here"]) == "here\n"


@pytest.mark.gpu
def test_a_gpu() -> None:
    found = provenance(0, {}, "cuda")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    gpu = found["environment"]["gpu"]
    assert gpu["name"] == found["environment"]["device"] == torch.cuda.get_device_name()
    assert gpu["memory_bytes"] > 0
    assert gpu["driver"] is not None
