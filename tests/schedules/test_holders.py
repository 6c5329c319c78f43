"""The sentence about a full pool: who holds it, since when, and which tasks used it last."""

import gc

import pytest

from schedules.errors import BadInput, Infeasible
from schedules.graph import RecordingIssuer
from schedules.holders import holders, last_use, named
from schedules.task import Task


def issuer(gpu=10):
    return RecordingIssuer(["host", "h2d", "gpu"], {"gpu": gpu, "cpu": 100})


def complaint(made, size=99):
    with pytest.raises(Infeasible) as error:
        made.buffer("wanted", "gpu", size)
    return str(error.value)


def test_a_task_is_named_by_what_it_has():
    assert named(Task(3, "experts", "gpu", 2, 1, 4)) == (
        "task 3 ('experts' on gpu, layer 2, micro-batch 1, step 4)"
    )
    assert named(Task(3, "sample", "gpu", -1, -1, 0)) == "task 3 ('sample' on gpu, step 0)"


def test_nothing_is_held():
    assert holders([], issuer()) == "nothing"
    made = issuer()
    made.buffer("empty", "gpu", 0)
    assert complaint(made).endswith(
        "0.00 GB in use, but the pool holds 0.000 MB (largest holders: nothing)"
    )


def test_before_any_task_none_is_named():
    made = issuer()
    made.buffer("weights[0]", "gpu", 4)
    made.buffer("weights[1]", "gpu", 4)
    assert complaint(made).endswith(
        "(largest holders: weights 0.000 MB in 2 buffers, the oldest 'weights[0]')"
    )


def test_two_kinds_with_their_tasks_and_more_of_the_first():
    made = issuer()
    held = [made.buffer(name, "gpu", size) for name, size in zip("abcd", (4, 3, 2, 1), strict=True)]
    made.task("load", "h2d", writes=held[:1], layer=5)
    made.task("compute", "gpu", reads=held[:2], layer=6, micro_batch=1)
    assert complaint(made).endswith(
        "(largest holders: a 0.000 MB last used by task 1 ('compute' on gpu, layer 6, "
        "micro-batch 1, step 0); b 0.000 MB last used by task 1; issued last: task 1 "
        "('compute' on gpu, layer 6, micro-batch 1, step 0))"
    )


def test_the_largest_may_not_be_used_yet():
    made = issuer()
    made.buffer("big", "gpu", 4)
    made.task("sample", "gpu")
    assert complaint(made).endswith(
        "(largest holders: big 0.000 MB not used yet; issued last: task 0 ('sample' on gpu, "
        "step 0))"
    )


def test_the_last_task_that_touched_a_buffer():
    made = issuer()
    x = made.buffer("x", "gpu", 1)
    assert last_use(x) == -1
    for number, (stream, touch) in enumerate(
        [("h2d", "writes"), ("gpu", "reads"), ("h2d", "reads"), ("gpu", "writes")]
    ):
        made.task("op", stream, **{touch: [x]})
        assert last_use(x) == number


def leak(made, steps):
    """A page more in every step; the graphs that were recorded."""
    graphs = []
    for made.step in range(1, steps + 1):
        page = made.buffer(f"KV page[{made.step}]", "gpu", 2)
        made.task("store_kv", "gpu", writes=[page], layer=0)
        made.barrier()
        graphs.append(made.take())
    return graphs


def test_what_every_step_leaves_behind():
    """Its graphs are kept, to tell; those that leave nothing behind need not be."""
    made = issuer()
    leak(made, 5)
    gc.collect()
    assert complaint(made, 2).endswith(
        "(largest holders: KV page 0.000 MB in 5 buffers, the oldest 'KV page[1]' last used by "
        "task 0 ('store_kv' on gpu, layer 0, step 1), never freed?; issued last: task 4 "
        "('store_kv' on gpu, layer 0, step 5))"
    )


def test_of_a_graph_that_nobody_kept_the_number_is_known():
    made = issuer()
    pages = [made.buffer(f"page[{i}]", "gpu", 5) for i in range(2)]
    graphs = []
    for made.step, page in enumerate([*pages, pages[0], pages[0], pages[1]]):
        made.task("read", "gpu", [page], layer=7)
        made.barrier()
        graphs.append(made.take())
    assert made.issued(3) == Task(3, "read", "gpu", 7, -1, 3)
    del graphs[1:4]
    gc.collect()
    assert made.issued(3) is None
    assert made.issued(0) == graphs[0].task(0) == Task(0, "read", "gpu", 7, -1, 0)
    assert made.issued(4) == graphs[1].task(0)._replace(number=4)
    said = complaint(made)
    assert "2 buffers, the oldest 'page[0]' last used by task 3, never freed?; issued" in said


def test_buffers_that_each_step_uses_again_were_not_left():
    made = issuer()
    pages = [made.buffer(f"page[{i}]", "gpu", 2) for i in range(5)]
    for made.step in (1, 2):
        for page in pages[: 5 if made.step == 1 else 2]:
            made.task("read", "gpu", [page])
    said = complaint(made)
    assert "the oldest 'page[0]' last used by task 5 ('read' on gpu, step 2); issued last" in said
    assert "freed" not in said


def test_freed_memory_is_no_ones():
    """It is given to who asks next, so it is not what is missing."""
    made = issuer(gpu=10)
    made.buffer("kept", "gpu", 4)
    made.free(made.buffer("gone", "gpu", 6))
    assert "beside 0.000 MB in use" in complaint(made)
    assert complaint(made).endswith("(largest holders: kept 0.000 MB)")


def test_sentences_are_short():
    """Names as long as those of the schedules, in the largest sentence there is."""
    made = issuer(gpu=1e12)
    for made.step in (100, 101):
        for kind in ("host weights", "expert weights", "routed hidden"):
            name = f"{kind}[decoder {made.step},{made.step}]"
            held = made.buffer(name, "gpu", 33.3e9)
            made.task("compute_attention", "gpu", writes=[held], layer=31, micro_batch=41)
    assert len(complaint(made, 2e12)) < 450


def test_a_task_is_waited_for_after_it_was_issued():
    """So a schedule cannot make its issuing thread wait for what comes later."""
    made = issuer()
    later = made.task("load", "h2d")._replace(number=1)
    with pytest.raises(BadInput, match=r"task 1 \('load' on h2d, step 0\) is waited for, but it"):
        made.wait(later)
    with pytest.raises(BadInput, match="it has not been issued yet"):
        made.routing(later)
