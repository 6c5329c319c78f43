"""Micro-benchmarks as plain values."""

import pytest

from sim.calibration.links import link_fit
from sim.calibration.measured import by_threads, copies, pairs, steady
from tests.sim.calibration import lab
from tests.sim.calibration.lab import COPY_S, LINKS, point


def test_copies_with_and_without_a_fit():
    own = list(lab.copies())
    rows = list(copies(own, link_fit(own, [])))
    assert len(rows) == len(own)
    assert {row["link"] for row in rows} == set(LINKS)
    for row in rows:
        assert row["measured_s"] == pytest.approx(LINKS[row["link"]] * row["bytes"] + COPY_S)
        assert row["modelled_s"] == pytest.approx(row["measured_s"], rel=0.01)
    assert all(row["modelled_s"] is None for row in copies(own, None))


def test_pairs_are_joined():
    own = [
        point("copy_pair", seconds, {"bytes": 8.0}, pair="h2d+d2h", role=role, when=when)
        for role, when, seconds in (
            ("h2d", "alone", 1.0),
            ("h2d", "together", 2.0),
            ("d2h", "alone", 1.5),
            ("d2h", "together", 1.5),
        )
    ]
    assert list(pairs(own)) == [
        {"pair": "h2d+d2h", "role": "h2d", "alone_s": 1.0, "together_s": 2.0},
        {"pair": "h2d+d2h", "role": "d2h", "alone_s": 1.5, "together_s": 1.5},
    ]
    assert list(pairs(own[1:2])) == []  # alone was not measured yet


def test_rates_by_threads():
    """Of pinning only the largest size, so that all threads do the same."""
    pins = [
        point("pin", 1.0, {"bytes": size}, link="pin", threads=n, size_bytes=int(size))
        for size, n in ((4.0, 1), (8.0, 1), (8.0, 2))
    ]
    own = [
        point("cores", 2.0, {"flops": 8.0}, threads=1),
        point("memory", 2.0, {"bytes": 6.0}, memory="cpu", what="read", threads=1),
        point("memory", 2.0, {"bytes": 6.0}, memory="gpu", what="copy", threads=1),
    ]
    assert [tuple(row.values()) for row in by_threads([*pins, *own])] == [
        ("products of matrices", 1, 4, "flop/s"),
        ("read host memory", 1, 3, "B/s"),
        ("copy to pinned memory", 1, 8, "B/s"),
        ("copy to pinned memory", 2, 8, "B/s"),
    ]


def test_probes_over_time():
    own = [
        point("steady", seconds, {"bytes": 1.0}, at=at, probe="copy", turn=turn)
        for turn, (seconds, at) in enumerate(((2.0, 100.0), (1.0, 110.0), (4.0, 125.0)))
    ]
    own.append(point("steady", 2.0, {"cpu_s": 1.5}, at=101.0, probe="share", turn=0))
    assert [tuple(row.values()) for row in steady(own[::-1])] == [
        ("share", 0, 1, 0.75),
        ("copy", 0, 0, 0.5),
        ("copy", 1, 10, 1),
        ("copy", 2, 25, 0.25),
    ]
