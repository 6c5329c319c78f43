"""Experts in a ring of places."""

import pytest

from schedules.expert import Klotski


@pytest.fixture
def queue(lab):
    """For two layers of Mixtral, with three places."""
    return lab.build(Klotski, 1, expert_slots=3, pinned=True).experts


def names(queue):
    return [place.name for place in queue.here]


def test_places_are_taken_in_turn(queue):
    spec, _ = queue.home
    queue.begin(spec, [4, 2])
    queue.bring_all()
    assert names(queue) == ["experts[0]", "experts[1]"]
    assert queue.add([2, 7, 4, 1, 7]) == [7, 1]
    queue.bring_all()  # for three, so 1 waits
    assert names(queue) == ["experts[0]", "experts[1]", "experts[2]"]
    assert queue.take().name == "experts[0]"
    queue.bring()
    assert names(queue) == ["experts[1]", "experts[2]", "experts[0]"]
    assert queue.order == [4, 2, 7, 1]


def test_nothing_comes_between_layers(queue):
    queue.bring()
    assert not queue.here
    spec, other = queue.home
    queue.begin(spec, [0])
    queue.bring_all()
    queue.take()
    queue.end()
    queue.bring()
    assert not queue.here
    queue.begin(other, [0])
    queue.bring()
    assert names(queue) == ["experts[1]"]


def test_what_each_copy_moves(queue):
    """352.3 MB of Mixtral's expert, from the layer's experts in host memory."""
    spec, _ = queue.home
    queue.begin(spec, [5])
    queue.bring()
    issuer = queue.node.issuer
    issuer.barrier()
    graph = issuer.take()
    (work,) = graph.works
    assert work.link_bytes == {"h2d": 2 * 3 * 4_096 * 14_336}
    assert graph.layer.tolist() == [spec.index]
