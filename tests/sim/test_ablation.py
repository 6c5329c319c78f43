"""Parts of the physics that can be taken away, one by one and together."""

import pytest

from schedules.errors import BadInput
from schedules.kernels import Kernels
from schedules.routing_presets import load_routing
from sim.ablation import ABLATIONS, NAMES, WHOLE, find_ablation
from sim.hardware import load_hardware
from sim.published import read_published
from sim.validate import check_row
from tests.sim.figures import row

T4 = load_hardware("gcp-t4-24c")
FIGURES = {figure.id: figure for figure in read_published()}

RUN = row(schedule="flexgen")


def simulated(name, row=RUN, **changes):
    ablation = WHOLE if name == "none" else find_ablation(name)
    found = check_row(row.model_copy(update=changes), ablation)
    assert found.reason is None
    return found.simulated


def test_without_pinning_pageable_memory_is_as_fast_as_page_locked():
    links = find_ablation("pinning").hardware(T4).links
    assert links["pin"].sustained == 1e6 * T4.links["pin"].sustained
    for link in ("h2d", "d2h"):
        assert links[link] == T4.links[link]
        assert links[f"{link}_pageable"].sustained == pytest.approx(T4.links[link].sustained)


def test_without_the_host_no_fixed_cost_is_left():
    bare = find_ablation("host").hardware(T4)
    host = bare.host
    for cost in (host.issue_s, host.sync_s, host.ffn_s, bare.gpu.call_s, bare.link_call_s):
        assert cost.value < 1e-9
    assert bare.gpu.compute == T4.gpu.compute


def test_without_contention_each_worker_has_the_rate_of_one():
    two = load_hardware("gcp-t4x2-32c")
    alone = find_ablation("contention").hardware
    assert alone(T4) == T4
    assert alone(two).links["pin"].sustained == pytest.approx(2 * T4.links["pin"].sustained)


def test_at_data_sheet_peaks():
    peaks = find_ablation("sustained").hardware(T4)
    assert peaks.links["h2d"].sustained == T4.links["h2d"].peak
    assert peaks.gpu.compute["float16"]["gemm"].sustained == 65e12
    assert peaks.cpu.memory_bandwidth.sustained == T4.cpu.memory_bandwidth.peak
    assert peaks.gpu.memory == T4.gpu.memory


def test_channels_carry_the_peaks_of_the_memories():
    channels = find_ablation("channels").hardware(T4).channels
    assert {name: amount.value for name, amount in channels.items()} == {
        "cpu": 136.5e9,
        "gpu": 320e9,
    }


def test_kernels_and_routing():
    kernels = find_ablation("tiles").kernels(Kernels())
    assert kernels.rows_per_tile(1000, 8) == kernels.rows_per_tile(1, 8) == 1
    torch = Kernels(cpu_attention="torch")
    assert find_ablation("float32").kernels(torch).cpu_attention == "native"
    skewed = load_routing("switch-base-128", 3)
    flat = find_ablation("routing").routing(skewed)
    assert (flat.kind, flat.seed) == ("uniform", 3)


def test_without_flexgens_barriers_nothing_is_slower():
    assert simulated("barriers") > simulated("none")
    assert simulated("barriers", schedule="zero-inference", micro_batch=8) == simulated(
        "none", schedule="zero-inference", micro_batch=8
    )


@pytest.mark.parametrize("name", ["pinning", "host", "tiles", "barriers", "sustained", "overlap"])
@pytest.mark.parametrize("schedule", ["flexgen", "flexgen-cpu", "cgopipe"])
def test_without_a_cost_a_run_is_no_slower(name, schedule):
    """The engine has anomalies (less work may take longer), but not by a thousandth here."""
    assert simulated(name, schedule=schedule) >= 0.999 * simulated("none", schedule=schedule)


def test_two_together_are_both():
    both = find_ablation("pinning+tiles")
    assert both.hardware(T4).links["pin"].sustained > 1e15
    assert both.kernels(Kernels()).tile_rows == 1
    assert both.seconds == "events"
    assert find_ablation("overlap+host").seconds == find_ablation("host+overlap").seconds
    assert find_ablation("barriers+host").recorder is ABLATIONS["barriers"].recorder


def test_on_a_t4_pinning_and_tiles_hide_each_other():
    """S1 padded: either alone changes little, both together much."""
    row = FIGURES["moe-lightning/S1/cgopipe-padded/32"]
    whole, pinning, tiles, both = (
        simulated(name, row) for name in ("none", "pinning", "tiles", "pinning+tiles")
    )
    assert max(pinning, tiles) < 1.08 * whole
    assert both > 1.12 * whole


@pytest.mark.parametrize("name", ["pining", "pinning+tile", ""])
def test_an_unknown_name(name):
    with pytest.raises(BadInput, match="no ablation is named"):
        find_ablation(name)


def test_names_are_those_of_the_ablations():
    assert all(name == one.name for name, one in ABLATIONS.items())
    assert [find_ablation(name).name for name in NAMES] == list(NAMES)


def test_operations_have_no_fixed_costs_in_the_plain_roofline():
    row = FIGURES["moe-lightning/figure9/kv_transfer/32/128"]
    moved = 32 * 128 * 4096
    assert simulated("hrm", row) == pytest.approx(moved / 12.35e9)
    assert simulated("host", row) == pytest.approx(moved / 12.35e9, rel=1e-5)
