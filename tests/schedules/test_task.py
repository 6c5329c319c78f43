"""Work, tasks and buffers: amounts add up, and nothing malformed gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.task import KERNELS, NOTHING, Buffer, Task, Work

amounts = st.integers(0, 10**15).map(float)


def works(device="gpu"):
    """Works on one device; whole amounts, so that sums are exact."""
    return st.builds(
        Work,
        device=st.just(device),
        flops=st.dictionaries(st.sampled_from(KERNELS), amounts),
        bytes=st.dictionaries(st.sampled_from(["gpu", "cpu", "disk"]), amounts),
        link_bytes=st.dictionaries(st.sampled_from(["h2d", "d2h", "pin"]), amounts),
        calls=st.integers(0, 1000),
    )


def test_a_sum_by_hand():
    first = Work(device="gpu", flops={"gemm": 10, "experts": 5}, bytes={"gpu": 100}, calls=3)
    second = Work(device="gpu", flops={"gemm": 1, "attention": 2}, bytes={"gpu": 7}, calls=4)
    both = first + second
    assert both.flops == {"gemm": 11, "experts": 5, "attention": 2}
    assert both.bytes == {"gpu": 107}
    assert (both.calls, both.device) == (7, "gpu")
    assert (both.total_flops, both.total_bytes, both.total_link_bytes) == (18, 107, 0)


def test_a_copy_counts_both_memories_and_the_link_once():
    copy = Work(device="link", bytes={"cpu": 8, "gpu": 8}, link_bytes={"h2d": 8}, calls=1)
    assert (copy.total_flops, copy.total_bytes, copy.total_link_bytes) == (0, 16, 8)


@given(works(), works())
def test_totals_add_up(one, two):
    both = one + two
    assert both.total_flops == one.total_flops + two.total_flops
    assert both.total_bytes == one.total_bytes + two.total_bytes
    assert both.total_link_bytes == one.total_link_bytes + two.total_link_bytes
    assert both.calls == one.calls + two.calls


@given(works(), works(), works())
def test_the_order_of_adding_does_not_matter(one, two, three):
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one


def test_a_sum_keeps_the_device_dtype_and_share_of_the_first():
    half = Work(device="cpu", dtype="float32", share=0.5, calls=1)
    assert (half + half).model_dump() == half.model_dump() | {"calls": 2}


def test_nothing_is_no_work_on_no_device():
    assert NOTHING.device == "none"
    assert NOTHING.device == "none"
    assert (NOTHING.total_flops, NOTHING.total_bytes, NOTHING.total_link_bytes) == (0, 0, 0)
    assert NOTHING.calls == 0


@pytest.mark.parametrize(
    "values",
    [
        {"device": "tpu"},
        {"dtype": "int8"},
        {"flops": {"gemm": -1.0}},
        {"bytes": {"gpu": float("nan")}},
        {"link_bytes": {"h2d": float("inf")}},
        {"calls": -1},
        {"calls": 1.5},
        {"share": 0.0},
        {"share": 1.5},
        {"seconds": 1.0},
    ],
)
def test_malformed_work_is_refused(values):
    (key,) = values
    with pytest.raises(ValidationError, match=key):
        Work(**values)


def test_work_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        NOTHING.calls = 1


def test_a_task_is_a_handle_and_a_buffer_says_what_it_is():
    task = Task(3, "load_weights", "h2d", 2, -1, 1)
    assert task.number == 3
    assert task._asdict()["stream"] == "h2d"
    assert repr(Buffer("weights[0]", "gpu", 64)) == "Buffer('weights[0]', 'gpu', 64)"
