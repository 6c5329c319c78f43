"""Reads from disk: a temporary file that does not stay."""

from contextlib import closing

from runtime.calibration.disk import STRETCHES, ColdFile, points
from runtime.calibration.effort import EFFORTS
from tests.runtime.runs import OPTIONS

MIB = 1 << 20


def test_the_file_is_read_in_stretches(tmp_path):
    file = ColdFile(tmp_path / "new", 2 * STRETCHES * MIB)
    assert len(file.seconds(MIB)) == STRETCHES
    (path,) = (tmp_path / "new").iterdir()
    assert path.stat().st_size == 2 * STRETCHES * MIB
    file.remove()
    assert not list((tmp_path / "new").iterdir())


def test_nothing_stays_when_it_is_stopped(tmp_path):
    with closing(points(OPTIONS, EFFORTS["quick"], tmp_path)) as items:
        (bench, params), measure = next(items)
        point = measure()
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    assert (bench, params) == ("disk", {"size_bytes": MIB, "pattern": "sequential"})
    assert point.amount == {"bytes": 4 * MIB}


def test_asking_what_there_is_to_measure_writes_nothing(tmp_path):
    with closing(points(OPTIONS, EFFORTS["normal"], tmp_path / "none")) as items:
        assert {params["size_bytes"] for (_, params), _ in items} <= {
            MIB << 2 * i for i in range(4)
        }
    assert not (tmp_path / "none").exists()
