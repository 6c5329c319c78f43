"""What tasks need: data, places, gates."""

import numpy as np
import pytest

from schedules.errors import BadInput
from sim.optimal.flow import flow
from tests.sim.optimal.orders import COMPUTE, COPY, issuer, jobs, problem_of


def test_a_copy_opens_a_life_and_its_readers_use_it():
    problem = problem_of(jobs([(1, 1), (1, 1), (1, 1)], slots=2))
    assert problem.before == ((0, 1), (2, 3), (4, 5))
    assert [(s.opens, s.users, s.stays) for s in problem.stays] == [
        (0, (0, 1), False),
        (2, (2, 3), False),
        (4, (4, 5), False),
    ]
    assert (problem.places, problem.kinds) == ((2,), ("slot",))


def test_what_is_changed_in_place_keeps_its_order():
    made = issuer()
    hidden = made.buffer("hidden", "gpu", 10)
    made.task("first", "gpu", [], [hidden], COMPUTE)
    made.task("read", "d2h", [hidden], [], COPY)
    made.task("second", "gpu", [], [hidden], COMPUTE)
    found = flow(made.accesses)
    assert found.after == ((), (0,), (0, 1))
    assert found.lives == ()


def test_what_one_op_alone_writes_is_handed_over():
    made = issuer()
    slots = [made.buffer(f"made[{i}]", "gpu", 10) for i in range(2)]
    for i in range(4):
        made.task("make", "gpu", [], [slots[i % 2]], COMPUTE)
        made.task("store", "d2h", [slots[i % 2]], [], COPY)
    found = flow(made.accesses)
    assert found.after == ((), (0,), (), (2,), (), (4,), (), (6,))
    assert [life.users for life in found.lives] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_pieces_that_fill_a_buffer_together_are_one_life():
    made = issuer()
    slot = made.buffer("slot", "gpu", 10)
    for _ in range(2):
        made.task("load", "h2d", [], [slot], COPY)
        made.task("load", "h2d", [], [slot], COPY)
        made.task("compute", "gpu", [slot], [], COMPUTE)
    found = flow(made.accesses)
    assert found.after == ((), (0,), (1,), (), (3,), (4,))
    assert [life.users for life in found.lives] == [[0, 1, 2], [3, 4, 5]]


def test_what_lies_somewhere_for_good_is_never_replaced():
    made = issuer()
    cache = made.buffer("KV", "cpu", 10, holds=("a block",))
    made.task("store", "d2h", [], [cache], COPY)
    made.task("attend", "host", [cache], [], COMPUTE)
    made.task("store", "d2h", [], [cache], COPY)
    found = flow(made.accesses)
    assert (found.after, found.lives) == (((), (0,), (0, 1)), ())


def test_what_follows_from_a_gate_waits_for_it():
    made = issuer()
    made._trace = lambda gate: np.zeros((1, 1), np.int64)
    gate = made.task("gate", "gpu", [], [], COMPUTE)
    made.task("before", "h2d", [], [], COPY)
    made.routing(gate)
    made.task("load", "h2d", [], [], COPY)
    assert flow(made.accesses).after == ((), (), (0,))


def test_forgetting_numbers_from_zero():
    made = issuer()
    made._trace = lambda gate: np.zeros((1, 1), np.int64)
    made.task("old", "gpu", [], [], COMPUTE)
    made.barrier()
    made.forget()
    made.routing(made.task("gate", "gpu", [], [], COMPUTE))
    made.task("load", "h2d", [], [], COPY)
    assert flow(made.accesses).after == ((), (0,))


def test_memory_that_comes_and_goes_is_refused():
    made = issuer()
    buffer = made.buffer("expert[3]", "gpu", 10)
    with pytest.raises(BadInput, match=r"gives buffer 'expert\[3\]' back while it runs"):
        made.free(buffer)
