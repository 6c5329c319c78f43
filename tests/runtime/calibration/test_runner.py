"""All benches: what they leave, and going on after a stop."""

import pytest
import torch

from runtime.calibration.runner import benches, measure
from runtime.calibration.store import Store
from runtime.device import DeviceOptions
from schedules.errors import BadInput
from tests.runtime.runs import OPTIONS

PROBES = ("copy", "gemm", "share")
UNITS = {
    "launch": {"calls"},
    "copy": {"bytes"},
    "copy_pair": {"bytes", "flops"},
    "pin": {"bytes"},
    "memory": {"bytes"},
    "cores": {"flops"},
    "disk": {"bytes"},
    "steady": {"bytes", "flops", "cpu_s"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with everything, and what was said meanwhile."""
    store, said = Store(tmp_path_factory.mktemp("out") / "points.jsonl"), []
    left = measure(OPTIONS, store, "quick", lambda *each: said.append(each))
    assert left == ()
    return store, said


def test_every_bench_leaves_points(whole):
    store, _ = whole
    assert {point.bench for point in store.points()} == set(benches(store)) | {"steady"}
    for point in store.points():
        assert set(point.amount) <= UNITS[point.bench]
        assert min(point.amount.values()) > 0
        assert point.seconds
        assert min(point.seconds) > 0
    assert [path.name for path in store.path.parent.iterdir()] == ["points.jsonl"]


def test_links_and_threads_of_schedules_are_there(whole):
    points = whole[0].points()
    links = {p.params["link"] for p in points if p.bench in ("copy", "pin")}
    assert {"h2d", "d2h", "h2d_pageable", "d2h_pageable", "pin"} <= links
    calls = {p.params["what"] for p in points if p.bench == "launch"}
    assert {"kernel", "link_call", "task", "hop", "sync", "cpu_call"} <= calls
    threads = [p.params["threads"] for p in points if p.bench == "cores"]
    assert threads == list(range(1, len(threads) + 1))


def test_progress_counts_every_point_once(whole):
    store, said = whole
    total = sum(point.bench != "steady" for point in store.points())
    assert [done for done, _, _ in said] == list(range(total + 1))
    assert {of for _, of, _ in said} == {total}
    assert said[-1] == (total, total, "")
    assert any(name.startswith("copy h2d 4096") for _, _, name in said)


def test_the_probe_is_taken_before_each_bench_and_at_the_end(whole):
    store, _ = whole
    turns = [(p.params["probe"], p.params["turn"]) for p in store.points() if p.bench == "steady"]
    n = len(benches(store)) + 1
    assert turns == [(probe, turn) for turn in range(n) for probe in PROBES]
    assert [store.points()[0].bench, store.points()[-1].bench] == ["steady", "steady"]


def test_nothing_is_measured_twice(whole):
    store, _ = whole
    before = store.path.read_bytes()
    assert measure(OPTIONS, Store(store.path), "quick") == ()
    assert store.path.read_bytes() == before


def test_it_goes_on_where_it_was_stopped(whole, tmp_path):
    lines = whole[0].path.read_bytes().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if b'"disk"' in line)
    path = tmp_path / "points.jsonl"
    path.write_bytes(b"".join(lines[:cut]) + lines[cut][:7])
    assert measure(OPTIONS, Store(path), "quick") == ()
    again = path.read_bytes().splitlines(keepends=True)
    assert again[:cut] == lines[:cut]
    assert {(p.bench, *p.params.values()) for p in Store(path).points()} >= {
        (p.bench, *p.params.values()) for p in whole[0].points()
    }


def test_when_time_is_over_it_says_what_is_left(whole, tmp_path):
    store, said = Store(tmp_path / "points.jsonl"), []
    left = measure(OPTIONS, store, "quick", lambda *each: said.append(each), deadline_s=0.0)
    assert len(left) == sum(point.bench != "steady" for point in whole[0].points())
    assert store.points() == ()
    assert said == [(0, len(left), "")]


def test_a_point_that_fails_leaves_the_points_before_it(tmp_path):
    def stop(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    store = Store(tmp_path / "points.jsonl")
    with pytest.raises(KeyboardInterrupt):
        measure(OPTIONS, store, "quick", stop)
    assert sum(point.bench != "steady" for point in Store(store.path).points()) == 3


def test_an_unknown_effort_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no effort 'quik'"):
        measure(OPTIONS, Store(tmp_path / "points.jsonl"), "quik")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_bench_runs_on_a_gpu(tmp_path):
    store = Store(tmp_path / "points.jsonl")
    assert measure(DeviceOptions("cuda", 1 << 30, 4 << 30), store, "quick") == ()
    assert {point.bench for point in store.points()} == set(UNITS)
    assert all(min(point.seconds) > 0 for point in store.points())
