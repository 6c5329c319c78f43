"""The issuer: dependencies from the data, memory, waits and barriers, all worked by hand."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schedules.errors import BadInput, Infeasible, MoelabError
from schedules.graph import RecordingIssuer

STREAMS = ("h2d", "gpu", "d2h")


def issuer(gpu=100, hosts=1, trace=None, **pools) -> RecordingIssuer:
    return RecordingIssuer(STREAMS, {"gpu": gpu, **pools}, hosts, trace)


def take(issuer):
    issuer.barrier()
    return issuer.take()


def dependencies(issuer) -> list[list[int]]:
    graph = take(issuer)
    return [graph.dependencies_of(task).tolist() for task in range(len(graph))]


# -- dependencies follow from the data -------------------------------------------------------------


def test_a_reader_waits_for_the_last_writer():
    """w0 -> w1 -> r; the reader names only the second writer."""
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("w0", "h2d", writes=[x])
    i.task("w1", "d2h", writes=[x])
    i.task("r", "gpu", reads=[x])
    assert dependencies(i) == [[], [0], [1]]


def test_a_writer_waits_for_all_readers_and_the_writer():
    r"""
    w on h2d --> r1 on gpu --> v on h2d       (the writer's own stream says that v follows w)
             \-> r2 on d2h -/
    """
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("w", "h2d", writes=[x])
    i.task("r1", "gpu", reads=[x])
    i.task("r2", "d2h", reads=[x])
    i.task("v", "h2d", writes=[x])
    assert dependencies(i) == [[], [0], [0], [1, 2]]


def test_readers_do_not_wait_for_readers():
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("r1", "gpu", reads=[x])
    i.task("r2", "d2h", reads=[x])
    assert dependencies(i) == [[], []]


def test_after_a_writer_the_readers_before_it_are_forgotten():
    """r -> w -> v: v follows w, which follows r."""
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("r", "gpu", reads=[x])
    i.task("w", "h2d", writes=[x])
    i.task("v", "d2h", writes=[x])
    assert dependencies(i) == [[], [0], [1]]


def test_what_the_stream_implies_is_not_recorded():
    """All on one stream; then only the last of two readers on another."""
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("w", "gpu", writes=[x])
    i.task("r1", "gpu", reads=[x])
    i.task("r2", "gpu", reads=[x])
    i.task("v", "h2d", writes=[x])
    assert dependencies(i) == [[], [], [], [2]]


def test_one_dependency_for_each_stream_the_latest():
    """c reads what a and b wrote on the same stream; b is the later."""
    i = issuer()
    x, y = i.buffer("x", "gpu", 1), i.buffer("y", "gpu", 1)
    i.task("a", "h2d", writes=[x])
    i.task("b", "h2d", writes=[y])
    i.task("c", "gpu", reads=[y, x])
    assert dependencies(i) == [[], [], [1]]


def test_in_place_reads_and_writes_at_once():
    """a -> b -> c, each in place on the next stream."""
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    for stream in STREAMS:
        i.task("step", stream, reads=[x], writes=[x])
    assert dependencies(i) == [[], [0], [1]]


def test_after_a_barrier_of_all_streams_nothing_before_it_is_named():
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("w", "h2d", writes=[x])
    i.barrier()
    i.task("r", "gpu", reads=[x])
    i.task("v", "h2d", writes=[x])
    assert dependencies(i) == [[], [], [1]]


def test_a_barrier_of_some_streams_does_not_settle_the_others():
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.task("w", "h2d", writes=[x])
    i.barrier(["gpu"])
    i.task("r", "gpu", reads=[x])
    assert dependencies(i) == [[], [0]]


# -- waits and barriers ----------------------------------------------------------------------------


def waits(issuer):
    return [(w.host, w.position, w.tasks) for w in take(issuer).waits]


def test_a_wait_is_of_the_thread_that_waits():
    i = issuer(hosts=2)
    a = i.task("a", "gpu")
    i.host = 1
    i.wait(a)
    i.task("b", "h2d")
    assert waits(i) == [(1, 1, (0,)), (0, 2, (1, 0)), (1, 2, (1, 0))]


def test_a_barrier_names_the_last_task_of_each_of_its_streams():
    i = issuer()
    i.barrier()  # nothing has been issued
    i.task("a", "h2d")
    i.task("b", "h2d")
    i.task("c", "d2h")
    i.barrier(["d2h", "gpu"])
    assert waits(i) == [(0, 0, ()), (0, 3, (2,)), (0, 3, (1, 2))]


def test_routing_waits_for_the_gate_and_answers_from_the_trace():
    asked = []

    def trace(gate):
        asked.append(gate)
        return np.array([[1, 5]])

    i = issuer(trace=trace)
    gate = i.task("gate", "gpu", layer=2)
    assert i.routing(gate).tolist() == [[1, 5]]
    assert asked == [gate]
    assert i.gate_weights(gate) is None  # nobody computes them
    i.task("load_expert", "h2d")
    assert waits(i)[0] == (0, 1, (0,))


def test_without_a_trace_there_is_no_routing():
    i = issuer()
    with pytest.raises(BadInput, match="'gate' asks for routing, but no routing was given"):
        i.routing(i.task("gate", "gpu"))


# -- names -----------------------------------------------------------------------------------------


def test_an_unknown_stream_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match=r"task 'load': no stream 'hd2', did you mean 'h2d'"):
        issuer().task("load", "hd2")
    with pytest.raises(BadInput, match=r"no stream 'xyz'; known: d2h, gpu, h2d"):
        issuer().task("load", "xyz")


def test_an_unknown_pool_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match=r"buffer 'KV': no pool 'gpus', did you mean 'gpu'\?"):
        issuer().buffer("KV", "gpus", 1)


def test_a_barrier_of_an_unknown_stream_is_refused():
    with pytest.raises(BadInput, match="no stream 'hd2', did you mean 'h2d'"):
        issuer().barrier(["hd2"])


def test_a_failed_task_leaves_nothing_behind():
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    with pytest.raises(BadInput):
        i.task("w", "nowhere", writes=[x])
    i.task("r", "gpu", reads=[x])
    assert dependencies(i) == [[]]


# -- memory ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_infeasible_and_says_why():
    i = issuer(gpu=16e9)
    i.buffer("weights[0]", "gpu", 5e9)
    i.buffer("weights[1]", "gpu", 5e9)
    i.buffer("KV[0,0]", "gpu", 3e9)
    i.buffer("hidden", "gpu", 1e9)
    i.buffer("embeddings", "gpu", 0.5e9)
    with pytest.raises(Infeasible) as error:
        i.buffer("workspace", "gpu", 2e9)
    assert str(error.value) == (
        "pool 'gpu' is too small: 'workspace' needs 2.00 GB beside 14.50 GB in use, but the pool "
        "holds 16.00 GB (largest holders: weights 10.00 GB in 2 buffers, the oldest 'weights[0]'; "
        "KV[0,0] 3.00 GB; hidden 1.00 GB)"
    )


def test_a_pool_can_be_filled_to_the_last_byte():
    i = issuer(gpu=10)
    i.buffer("x", "gpu", 4)
    i.buffer("y", "gpu", 6)
    with pytest.raises(Infeasible, match=r"largest holders: y .*; x "):
        i.buffer("z", "gpu", 1)


def test_the_peak_is_the_most_that_was_in_use_at_once():
    """4, 7, 3 (a barrier after freeing 4), 8 bytes."""
    i = issuer(gpu=10, cpu=5)
    x = i.buffer("x", "gpu", 4)
    i.buffer("y", "gpu", 3)
    assert i.peak_bytes == {"gpu": 7, "cpu": 0}
    i.free(x)
    i.barrier()
    i.buffer("z", "gpu", 3)
    assert i.peak_bytes["gpu"] == 7
    i.buffer("w", "gpu", 2)
    assert i.peak_bytes["gpu"] == 8


def test_memory_is_freed_once():
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.free(x)
    with pytest.raises(MoelabError, match=r"buffer 'x' is not in pool 'gpu' \(freed twice\?\)"):
        i.free(x)
    i.barrier()
    with pytest.raises(MoelabError, match="freed twice"):
        i.free(x)


def test_a_freed_buffer_is_not_used_again():
    i = issuer()
    x = i.buffer("x", "gpu", 1)
    i.free(x)
    with pytest.raises(MoelabError, match="'x'"):
        i.task("w", "gpu", writes=[x])


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf")])
def test_a_size_must_be_a_number_of_bytes(size):
    with pytest.raises(MoelabError, match="'x'"):
        issuer().buffer("x", "gpu", size)


def test_reused_memory_waits_for_its_last_users():
    """x fills the pool; y takes its place, so y's writer waits for x's readers and writer.

    w(x) on h2d --> r(x) on gpu      free x, y in its place
         |              |
         +---- w(y) on d2h
    """
    i = issuer(gpu=10)
    x = i.buffer("x", "gpu", 10)
    i.task("w", "h2d", writes=[x])
    i.task("r", "gpu", reads=[x])
    i.free(x)
    y = i.buffer("y", "gpu", 10)
    i.task("w", "d2h", writes=[y])
    assert dependencies(i) == [[], [0], [0, 1]]
    assert i.peak_bytes["gpu"] == 10


def test_memory_that_was_free_all_along_waits_for_nobody():
    i = issuer(gpu=20)
    x = i.buffer("x", "gpu", 10)
    i.task("w", "h2d", writes=[x])
    i.free(x)
    y = i.buffer("y", "gpu", 10)
    i.task("w", "d2h", writes=[y])
    assert dependencies(i) == [[], []]
    assert i.peak_bytes["gpu"] == 20


def test_the_memory_freed_first_is_reused_first():
    """x, then y were freed; z needs only as much as x held."""
    i = issuer(gpu=20)
    x, y = i.buffer("x", "gpu", 10), i.buffer("y", "gpu", 10)
    i.task("wx", "h2d", writes=[x])
    i.task("wy", "gpu", writes=[y])
    i.free(x)
    i.free(y)
    z = i.buffer("z", "gpu", 10)
    i.task("wz", "d2h", writes=[z])
    assert dependencies(i) == [[], [], [0]]


def test_after_a_barrier_freed_memory_waits_for_nobody():
    i = issuer(gpu=10)
    x = i.buffer("x", "gpu", 10)
    i.task("w", "h2d", writes=[x])
    i.free(x)
    i.barrier()
    y = i.buffer("y", "gpu", 10)
    i.task("w", "d2h", writes=[y])
    assert dependencies(i) == [[], []]


def test_every_buffer_that_takes_a_part_of_freed_memory_waits_for_its_last_users():
    """x held 10 bytes; y takes 4 of them and z the other 6: both wait for x's writer."""
    i = issuer(gpu=10)
    x = i.buffer("x", "gpu", 10)
    i.task("wx", "h2d", writes=[x])
    i.free(x)
    y, z = i.buffer("y", "gpu", 4), i.buffer("z", "gpu", 6)
    i.task("wy", "gpu", writes=[y])
    i.task("wz", "d2h", writes=[z])
    assert dependencies(i) == [[], [0], [0]]


def test_an_attempt_that_does_not_fit_leaves_freed_memory_as_it_was():
    i = issuer(gpu=10)
    x = i.buffer("x", "gpu", 10)
    i.task("wx", "h2d", writes=[x])
    i.free(x)
    with pytest.raises(Infeasible):
        i.buffer("too large", "gpu", 11)
    y = i.buffer("y", "gpu", 10)
    i.task("wy", "gpu", writes=[y])
    assert dependencies(i) == [[], [0]]


sizes = st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=30)


@given(sizes)
@example([(10, True), (1, False), (9, False)])
def test_a_pool_never_holds_more_than_its_capacity(requests):
    """Buffers that are alive fit; what is refused would not have fitted."""
    i = issuer(gpu=20)
    alive = 0
    for size, freed in requests:
        try:
            buffer = i.buffer("x", "gpu", size)
        except Infeasible:
            assert alive + size > 20
            continue
        alive += size
        assert alive <= i.pools["gpu"].used_bytes <= i.peak_bytes["gpu"] <= 20
        if freed:
            i.free(buffer)
            alive -= size


# -- lanes -----------------------------------------------------------------------------------------


def wide(lanes):
    return RecordingIssuer(["h2d", "gpu"], {"gpu": 100}, lanes=lanes)


def test_what_two_lanes_read_must_both_have_ended_before_it_is_overwritten():
    """With one lane the second reader's end implies the first one's."""
    for lanes, expected in (({}, [2]), ({"gpu": 2}, [1, 2])):
        issuer = wide(lanes)
        buffer = issuer.buffer("weights", "gpu", 1)
        issuer.task("load", "h2d", writes=[buffer])
        issuer.task("first", "gpu", reads=[buffer])
        issuer.task("second", "gpu", reads=[buffer])
        issuer.task("load", "h2d", writes=[buffer])
        issuer.barrier()
        assert issuer.take().dependencies_of(3).tolist() == expected


def test_tasks_of_two_lanes_depend_on_each_other_by_their_data():
    for lanes, expected in (({}, []), ({"gpu": 2}, [0])):
        issuer = wide(lanes)
        buffer = issuer.buffer("hidden", "gpu", 1)
        issuer.task("write", "gpu", writes=[buffer])
        issuer.task("read", "gpu", reads=[buffer])
        issuer.barrier()
        graph = issuer.take()
        assert graph.dependencies_of(1).tolist() == expected
        assert graph.lanes == ((1, 2) if lanes else ())


def test_a_barrier_waits_for_every_lane():
    issuer = wide({"gpu": 2})
    for op in "abc":
        issuer.task(op, "gpu")
    issuer.barrier()
    (wait,) = issuer.take().waits
    assert wait.tasks == (0, 1, 2)


@pytest.mark.parametrize(
    ("lanes", "message"),
    [
        ({"gpus": 2}, "lanes: no stream 'gpus', did you mean 'gpu'"),
        ({"gpu": 0}, "stream 'gpu' has 0 lanes; it must have at least 1"),
    ],
)
def test_impossible_lanes(lanes, message):
    with pytest.raises(BadInput, match=message):
        wide(lanes)


def test_a_thread_has_one_lane():
    with pytest.raises(BadInput, match="stream 'host' has 2 lanes; it must have 1, being a thread"):
        RecordingIssuer(["host"], {}, lanes={"host": 2})


def test_a_buffer_that_is_never_released_is_named_when_the_pool_is_full():
    """A schedule that takes places for experts and gives none back."""
    issuer = RecordingIssuer(["h2d"], {"gpu": 10})
    for number in range(5):
        place = issuer.buffer(f"experts[{number}]", "gpu", 2)
        issuer.task("load_expert", "h2d", writes=[place])
    with pytest.raises(Infeasible, match=r"'experts\[5\]' needs .* \(largest holders: experts"):
        issuer.buffer("experts[5]", "gpu", 2)
