"""What each quantity changes, and what it leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from sim.api import Question, simulate
from sim.hardware import load_hardware
from sim.quantity import QUANTITIES, find_quantity, with_gpu_memory, with_pcie

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")


@pytest.fixture(scope="module")
def scenario():
    return Question(*S1).scenario()


def test_names():
    assert list(QUANTITIES) == ["batch", "gpu-memory", "pcie", "prompt"]
    assert all(found.name == name for name, found in QUANTITIES.items())


def test_an_unknown_quantity():
    with pytest.raises(BadInput, match=r"^no quantity is named 'pci', did you mean 'pcie'\?$"):
        find_quantity("pci")


def test_own_values(scenario):
    own = {name: found.own(scenario) for name, found in QUANTITIES.items()}
    assert own == {"batch": None, "gpu-memory": 15.5e9, "pcie": 12.35e9, "prompt": None}


def test_usual_ranges(scenario):
    usual = {name: found.usual(scenario) for name, found in QUANTITIES.items()}
    assert usual["batch"] == (1, 1024)
    assert usual["gpu-memory"] == (15.5e9 / 4, 15.5e9 * 8)
    assert usual["pcie"] == (12.35e9 / 4, 12.35e9 * 8)
    assert usual["prompt"] == (32, 4096)


def test_prompts_end_where_the_model_has_no_positions():
    usual = QUANTITIES["prompt"].usual
    assert usual(Question("opt-6.7b", *S1[1:], gen_len=48).scenario()) == (32, 2000)
    assert usual(Question("switch-base-8", *S1[1:], gen_len=48).scenario()) == (32, 4096)


def test_gpu_memory(scenario):
    changed = QUANTITIES["gpu-memory"].changed(scenario, 40e9).hardware
    before = scenario.hardware
    assert changed.capacities() == before.capacities() | {"gpu": 40_000_000_000}
    assert changed.links == before.links
    assert changed.name == "gcp-t4-24c (GPU memory 40 GB)"
    assert "what if" in changed.gpu.memory.source


def test_pcie_by_hand():
    """12.35 to 24.70 GB/s. A pageable byte took 1/5.83 ns, of them 1/12.35 on the link, now half:
    1 / (1/5.83 - 1/12.35 + 1/24.70) = 7.631. Back: 11.9 to 23.8 GB/s by the same factor."""
    before = load_hardware("gcp-t4-24c")
    changed = with_pcie(before, 24.7e9)
    assert changed.links["h2d"].sustained == pytest.approx(24.7e9)
    assert changed.links["h2d_pageable"].sustained == pytest.approx(7.631e9, rel=1e-3)
    ratio = changed.links["d2h"].sustained / before.links["d2h"].sustained
    assert ratio == pytest.approx(2)
    for untouched in ("pin", "pin_parallel"):
        assert changed.links[untouched] == before.links[untouched]
    assert changed.gpu == before.gpu
    assert changed.name == "gcp-t4-24c (PCIe 24.7 GB/s)"


@given(st.floats(1e8, 1e12), st.sampled_from(["gcp-t4-24c", "a100-80g-epyc64", "rtx4090-pc"]))
def test_pageable_copies_gain_at_most_what_the_link_gains(rate, name):
    before = load_hardware(name)
    after = with_pcie(before, rate)
    for way in ("h2d", "d2h"):
        link = after.links[way].sustained / before.links[way].sustained
        staged = after.links[f"{way}_pageable"]
        gain = staged.sustained / before.links[f"{way}_pageable"].sustained
        assert min(1, link) * (1 - 1e-9) <= gain <= max(1, link) * (1 + 1e-9)
        assert staged.sustained <= after.links[way].sustained * (1 + 1e-9)


@given(st.floats(1e8, 1e13))
def test_the_own_value_of_the_changed_machine_is_the_value(value):
    scenario = Question(*S1).scenario()
    for name in ("gpu-memory", "pcie"):
        found = QUANTITIES[name]
        assert found.own(found.changed(scenario, value)) == pytest.approx(value, rel=1e-12)


def test_prompts(scenario):
    changed = QUANTITIES["prompt"].changed(scenario, 300).workload
    assert (changed.longest, changed.average, changed.gen_len) == (300, 300.0, 128)
    assert changed.name == "mtbench (prompts of 300 tokens)"
    assert scenario.workload.name == "mtbench"


def test_a_changed_machine_simulates_as_one_by_hand():
    asked = ("mixtral-8x7b", with_gpu_memory(load_hardware("gcp-t4-24c"), 20e9), "mtbench", 2, 8, 4)
    scaled = load_hardware("gcp-t4-24c").with_rate("gpu.memory", 20 / 15.5)
    expected = simulate("cgopipe", asked[0], scaled, *asked[2:])
    assert simulate("cgopipe", *asked).makespan_s == expected.makespan_s
