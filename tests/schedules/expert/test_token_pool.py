"""Hidden states of all micro-batches, on the GPU and in host memory."""

import pytest

from schedules.expert import MoEGen
from schedules.node import Slot


def pool(lab, **policy):
    """Of three sequences with prompts of 10 tokens in two micro-batches; 8192 B a token."""
    return lab.build(MoEGen, 3, 2, model="mixtral-8x7b", pinned=True, **policy).x


def test_room_for_the_prompts(lab):
    x = pool(lab)
    assert [buffer.bytes for buffer in x.all] == [2 * 10 * 8_192, 10 * 8_192]
    assert [buffer.bytes for buffer in x.host] == [2 * 10 * 8_192, 10 * 8_192]
    assert all(buffer.pinned and buffer.pool == "cpu" for buffer in x.host)
    assert [x.at(j) for j in (0, 1)] == x.all


@pytest.mark.parametrize(("step", "tokens"), [(0, 10), (1, 1)])
@pytest.mark.parametrize("r_h", [0.0, 0.75])
def test_what_goes_and_comes(lab, step, tokens, r_h):
    """The micro-batch's tokens of this pass: its prompt, then one; a share 1 - r_h of them."""
    x = pool(lab, r_h=r_h)
    x.node.begin(step)
    x.put(Slot(1, 1))
    x.get(Slot(1, 1))
    x.node.issuer.barrier()
    graph = x.node.issuer.take()
    size = tokens * 8_192 * (1 - r_h)
    assert [graph.ops[op] for op in graph.op] == ["store_hidden", "load_hidden"]
    assert lab.moved(graph) == {"d2h": size, "h2d": size}
    assert graph.dependencies_of(1).tolist() == [0]


def test_nothing_moves_where_all_stays(lab):
    x = pool(lab, r_h=1.0)
    x.node.begin(1)
    x.put(Slot(0, 0))
    x.get(Slot(0, 0))
    x.node.issuer.barrier()
    assert len(x.node.issuer.take()) == 0
    assert [buffer.bytes for buffer in x.host] == [0, 0]
