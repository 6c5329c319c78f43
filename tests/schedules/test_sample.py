"""Operations of runs, and their plain form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.sample import ISSUE, Sample, Timed, mean_work, plain, samples_of
from schedules.task import KERNELS, NOTHING, Work

amounts = st.floats(0, 1e12, allow_nan=False)
works = st.builds(
    Work,
    device=st.sampled_from(["gpu", "cpu", "link"]),
    dtype=st.sampled_from(["float16", "float32"]),
    flops=st.dictionaries(st.sampled_from(KERNELS), amounts),
    bytes=st.dictionaries(st.sampled_from(["gpu", "cpu"]), amounts),
    link_bytes=st.dictionaries(st.sampled_from(["h2d", "pin"]), amounts),
    calls=st.integers(0, 100),
    share=st.sampled_from([0.5, 1.0]),
)
samples = st.builds(
    Sample,
    *(st.text(max_size=8) for _ in range(4)),
    works,
    st.lists(st.floats(0, 1e3), min_size=1, max_size=4).map(tuple),
)


@given(samples)
def test_plain_values_and_back(sample):
    values = sample.to_dict()
    assert Sample.of(json.loads(json.dumps(values))) == sample
    assert set(values["work"]) <= set(Work.model_fields)


def test_only_what_is_not_usual_is_written():
    assert plain(Work(device="gpu", calls=3)) == {"device": "gpu", "calls": 3}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"work": {}, "seconds": [1.0]},
        {"work": {"calls": "many"}, "seconds": [1.0]},
        {"work": {}, "seconds": ["long"]},
        {"work": {}, "seconds": 1.0},
    ],
)
def test_what_is_no_sample_is_refused(values):
    with pytest.raises(BadInput, match="not a measured operation: "):
        Sample.of(values)


def task(op, step, seconds, **amounts):
    return Timed(op, "gpu", step, Work(device="gpu", **amounts), seconds)


def test_tasks_of_a_kind_are_one_sample():
    """Kinds differ by operation, stream, phase, size, device, number format and share."""
    tasks = [
        task("attention", 0, 9.0, calls=1),
        task("attention", 1, 1.0, calls=1, bytes={"gpu": 1000.0}),
        task("attention", 2, 2.0, calls=3, bytes={"gpu": 1010.0}),
        task("attention", 3, 7.0, calls=1, bytes={"gpu": 2000.0}),
        task("attention", 2, 5.0, dtype="float32"),
        task("attention", 2, 6.0, share=0.5),
        Timed("free", "gpu", 1, NOTHING, 4.0),
    ]
    issue, *found = samples_of("here", tasks, 1e-6)
    assert (issue.op, issue.work.device, issue.seconds) == (ISSUE, "host", (1e-6,))
    assert [(s.where, s.phase, s.seconds) for s in found] == [
        ("here", "prefill", (9.0,)),
        ("here", "decode", (1.0, 2.0)),
        ("here", "decode", (7.0,)),
        ("here", "decode", (5.0,)),
        ("here", "decode", (6.0,)),
    ]
    assert found[1].work == Work(device="gpu", calls=2, bytes={"gpu": 1005.0})


def test_of_warm_runs_the_first_task_of_a_kind_is_left_out():
    tasks = [task("a", 1, 9.0), task("a", 2, 1.0), task("a", 3, 2.0), task("b", 1, 8.0)]
    found = samples_of("here", tasks, 1e-6, warm=True)[1:]
    assert [s.seconds for s in found] == [(1.0, 2.0), (8.0,)]  # of b there is no other


@given(works, st.integers(1, 4))
def test_the_mean_of_equal_works_is_that_work(work, n):
    mean = mean_work([work] * n)
    assert (mean.device, mean.dtype, mean.share, mean.calls) == (
        work.device,
        work.dtype,
        work.share,
        work.calls,
    )
    for group in ("flops", "bytes", "link_bytes"):
        assert getattr(mean, group) == pytest.approx(getattr(work, group))
