"""A calibration as plain values."""

import json

import pytest

from sim.calibration.preset import calibrated
from sim.calibration.summary import summary
from tests.sim.calibration.lab import COSTS, LINKS, MACHINE, points, samples


@pytest.fixture(scope="module")
def found():
    return calibrated(MACHINE, list(points()), samples())


def values(found):
    return {row["key"]: row for row in summary(found, list(points()))["values"]}


def test_it_is_plain(found):
    plain = summary(found, list(points()), {"date": "today"})
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert (plain["name"], plain["description"]) == ("lab", "made up")
    assert plain["provenance"] == {"date": "today"}
    assert plain["warnings"] == list(found.warnings)


def test_every_value_of_the_preset_is_there_with_its_unit(found):
    units = {key: row["unit"] for key, row in values(found).items()}
    assert (
        units.items()
        >= {
            "gpu.memory": "B",
            "gpu.memory_bandwidth": "B/s",
            "gpu.call_s": "s",
            "gpu.overlaps": "",
            "gpu.compute.float32.gemm": "flop/s",
            "links.pin": "B/s",
            "link_call_s": "s",
            "host.task_s": "s",
            "host.pinnable_fraction": "",
            "channels.cores": "threads",
            "channels.cpu": "B/s",
            "emulated.copy_rate": "B/s",
        }.items()
    )


def test_intervals_hold_the_value(found):
    rows = values(found)
    for key, cost in (
        ("gpu.memory_bandwidth", COSTS["gpu"]["bytes"]),
        ("gpu.compute.float32.attention", COSTS["gpu"]["float32.attention"]),
        ("links.h2d", LINKS["h2d"]),
    ):
        assert rows[key]["value"] == pytest.approx(1 / cost, rel=0.02)
        assert rows[key]["low"] <= rows[key]["value"] <= rows[key]["high"]
    call = rows["cpu.call_s"]
    assert call["low"] <= call["value"] <= call["high"]


def test_what_was_not_fitted_has_no_interval(found):
    rows = values(found)
    for key in ("gpu.memory", "gpu.overlaps", "cpu.compute.float32.gemm", "channels.cores"):
        assert (rows[key]["low"], rows[key]["high"]) == (None, None)


def test_residuals_are_of_every_measurement(found):
    plain = summary(found, list(points()))
    for device, fit in found.fits.items():
        rows = plain["residuals"][device]
        assert plain["fits"][device]["measurements"] == len(rows) == len(fit.errors)
        errors = [row["modelled_s"] / row["measured_s"] - 1 for row in rows]
        assert errors == pytest.approx(list(fit.errors), abs=1e-9)


def test_of_recorded_runs_alone_there_is_less():
    own = [s for s in samples() if s.work.device != "cpu"]
    plain = summary(calibrated(MACHINE, [], own, based_on="gcp-t4-24c"), [])
    assert list(plain["fits"]) == list(plain["residuals"]) == ["gpu"]
    assert plain["copies"] == plain["pairs"] == plain["threads"] == plain["steady"] == []
