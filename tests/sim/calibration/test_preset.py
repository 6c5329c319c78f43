"""A preset from measurements prices what was measured as the fits say."""

import tomllib

import numpy as np
import pytest

from schedules.errors import BadInput
from schedules.sample import Sample
from schedules.task import Work
from sim.calibration.preset import calibrated
from sim.calibration.toml_text import toml_text
from sim.cost import Roofline
from sim.hardware import load_hardware
from tests.sim.calibration.lab import (
    COPY_S,
    COSTS,
    LINKS,
    MACHINE,
    TASK_S,
    Priced,
    copies,
    point,
    points,
    priced,
    samples,
)


def loaded(found, folder):
    """The preset, through a file."""
    path = folder / "lab.toml"
    path.write_text(toml_text(found.preset), encoding="utf-8")
    return load_hardware(path)


@pytest.mark.parametrize("overlaps", [False, True])
def test_it_prices_operations_as_they_were_measured(overlaps, tmp_path):
    how = Priced(overlaps)
    own = samples(how, n=80)
    cost = Roofline(loaded(calibrated(MACHINE, list(points()), own), tmp_path))
    for sample in own[1:]:
        assert cost.seconds(sample.work) == pytest.approx(priced(sample.work, how), rel=0.03)


def test_with_noise_it_prices_them_as_the_fit_says(tmp_path):
    own = samples(Priced(noise=0.1), n=80)
    found = calibrated(MACHINE, list(points()), own)
    cost = Roofline(loaded(found, tmp_path))
    for device in ("gpu", "cpu"):
        sample_s = [np.median(s.seconds) for s in found.samples[device]]
        errors = [cost.seconds(s.work) for s in found.samples[device]] / np.array(sample_s) - 1
        assert errors == pytest.approx(found.fits[device].errors, abs=1e-3)


def test_it_prices_copies_as_they_were_measured(tmp_path):
    hardware = loaded(calibrated(MACHINE, list(points()), samples()), tmp_path)
    cost = Roofline(hardware)
    for link, seconds in LINKS.items():
        work = Work(device="link", link_bytes={link: 1e6}, calls=1)
        assert cost.seconds(work) == pytest.approx(1e6 * seconds + COPY_S, rel=0.01)


def test_the_rest_of_it(tmp_path):
    hardware = loaded(calibrated(MACHINE, list(points()), samples()), tmp_path)
    assert hardware.host.task_s.value == pytest.approx(TASK_S)
    assert hardware.host.sync_s.value == pytest.approx(1e-4)
    assert hardware.channels["cores"].value == pytest.approx(1.6)
    assert (hardware.emulated.gpu_threads, hardware.emulated.cpu_threads) == (1, 1)
    assert hardware.emulated.copy_rate.sustained == pytest.approx(1e7 / 2.51e-3, rel=1e-3)
    assert (hardware.gpu.memory.value, hardware.cpu.memory.value) == (1e9, 2e9)
    assert "95 % interval" in hardware.gpu.memory_bandwidth.source
    assert "made up for tests" in hardware.gpu.memory_bandwidth.source
    assert hardware.disk is None


def test_what_did_not_run_is_as_what_did(tmp_path):
    """The CPU ran attention alone; the sources say so."""
    hardware = loaded(calibrated(MACHINE, list(points()), samples()), tmp_path)
    attention, experts = (hardware.cpu.compute["float32"][k] for k in ("attention", "experts"))
    assert experts.sustained == attention.sustained
    assert "none ran: as attention" in experts.source


def test_a_link_that_was_not_measured_is_as_another(tmp_path):
    own = [p for p in points() if p.params.get("link") not in ("d2h", "d2h_pageable")]
    links = loaded(calibrated(MACHINE, own, samples()), tmp_path).links
    assert links["d2h"].sustained == links["d2h_pageable"].sustained == links["h2d"].sustained
    assert "none ran" in links["d2h"].source


def test_a_disk_is_there_where_it_was_measured(tmp_path):
    machine = MACHINE.__class__(**{**vars(MACHINE), "disk_bytes": 1e11})
    reads = [point("disk", 0.5, {"bytes": 1e9}, size_bytes=1024, pattern="sequential")]
    hardware = loaded(calibrated(machine, [*points(), *reads], samples()), tmp_path)
    assert hardware.disk.value == 1e11
    assert hardware.links["disk"].sustained == pytest.approx(2e9)
    assert loaded(calibrated(machine, list(points()), samples()), tmp_path).disk is None


def test_on_top_of_another_preset_only_what_was_measured_differs(tmp_path):
    own = [s for s in samples() if s.work.device != "cpu"]
    found = calibrated(MACHINE, [], own, based_on="gcp-t4-24c")
    other, hardware = load_hardware("gcp-t4-24c"), loaded(found, tmp_path)
    assert list(found.fits) == ["gpu"]
    assert hardware.cpu == other.cpu
    assert hardware.links == other.links
    bandwidth = hardware.gpu.memory_bandwidth.sustained
    assert bandwidth == pytest.approx(1 / COSTS["gpu"]["bytes"], rel=0.02)
    assert hardware.host.task_s.value == pytest.approx(TASK_S)


def test_what_runs_do_not_show_is_not_made_up(tmp_path, monkeypatch):
    """Calls that cost nothing, and no bench of them: the other preset's stay."""
    monkeypatch.setitem(COSTS["gpu"], "calls", 0.0)
    own = samples(Priced(noise=0.05))
    found = calibrated(MACHINE, [], own, based_on="gcp-t4-24c")
    assert "call_s" not in found.preset["gpu"]
    assert loaded(found, tmp_path).gpu.call_s == load_hardware("gcp-t4-24c").gpu.call_s
    benched = calibrated(MACHINE, list(points()), own)
    assert benched.preset["gpu"]["call_s"]["value"] == pytest.approx(1e-6)
    assert "as 40 operations of the gpu show none" in benched.preset["gpu"]["call_s"]["source"]


def test_what_every_preset_has_must_be_measured():
    own = samples()
    with pytest.raises(BadInput, match="issuing a task and waiting for one were not measured"):
        calibrated(MACHINE, [p for p in points() if p.params.get("what") != "round_trip"], own)
    with pytest.raises(BadInput, match="no operation was measured on the cpu"):
        calibrated(MACHINE, list(points()), [s for s in own if s.work.device != "cpu"])
    with pytest.raises(BadInput, match="no copy of link 'pin' was measured"):
        calibrated(MACHINE, [p for p in points() if p.bench != "pin"], own)
    with pytest.raises(BadInput, match="no copy was measured"):
        calibrated(MACHINE, [p for p in points() if p.bench not in ("pin", "copy")], own)


def test_an_emulated_gpu_needs_a_copy_by_one_thread():
    moved = [Sample("here", "pin", "pin", "decode", work, (1.0,)) for work in _pins()]
    own = [*(p for p in points() if p.bench != "pin")]
    with pytest.raises(BadInput, match="no copy by one thread was measured"):
        calibrated(MACHINE, own, [*samples(), *moved])


def _pins():
    for size in (1e6, 1e7):
        yield Work(device="link", link_bytes={"pin": size}, calls=1)


def test_sources_are_in_its_text():
    text = toml_text(calibrated(MACHINE, list(points()), samples()).preset)
    assert tomllib.loads(text)["links"]["pin"]["source"].startswith("Fitted to copies over pin, 95")
    assert len([*copies()]) == 5 * len(LINKS)
