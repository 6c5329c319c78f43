"""Which experts lie on the GPU under a budget: slots, and places for those without."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.expert.places import Places
from schedules.expert.sida import SiDA
from schedules.expert.sida_residents import Residents

EXPERTS = 4


def counts(*experts):
    return np.bincount(np.array(experts, dtype=np.int64), minlength=EXPERTS)


@pytest.fixture(scope="module")
def room(lab):
    """Makes `Residents` for two layers of a model, and gives its layers."""
    schedule = lab.build(SiDA, 1, model="switch-base-8", layers=4)
    specs = [spec for spec in schedule.node.model.decoder_layers if spec.is_moe]

    def make(capacity, keep):
        slots, others = (Places(schedule.node, schedule.gpu, tag, 8, 0) for tag in ("a ", "b "))
        return Residents(slots, others, capacity, keep)

    return make, specs


def test_loads_and_places(room):
    make, (one, two) = room
    residents = make(3, keep=True)
    loads = residents.bring({one: counts(0, 3), two: counts(1, 2)})
    assert [(load.spec, load.expert) for load in loads] == [(one, 0), (one, 3), (two, 1)]
    assert [load.place.name for load in loads] == [f"experts[a {i}]" for i in range(3)]
    held, missing = residents.places(two, counts(1, 2))
    assert [place.name for place in held] == ["experts[a 2]", "experts[b 0]"]
    assert [load[:2] for load in missing] == [(two, 2)]


def test_with_a_budget_they_stay_until_their_slot_is_needed(room):
    make, (one, two) = room
    residents = make(3, keep=True)
    residents.bring({one: counts(0, 3)})
    residents.leave([two])
    assert [load.expert for load in residents.bring({two: counts(1)})] == [1]
    residents.bring({two: counts(2)})  # the first in leaves
    assert set(residents.cache.slots) == {(one.number, 3), (two.number, 1), (two.number, 2)}


def test_without_they_leave_at_once(room):
    make, (one, two) = room
    residents = make(8, keep=False)
    residents.bring({one: counts(0, 3), two: counts(1)})
    assert [load.expert for load in residents.bring({one: counts(3, 2)})] == [2]
    assert set(residents.cache.slots) == {(one.number, 2), (one.number, 3), (two.number, 1)}
    residents.leave([one])
    assert set(residents.cache.slots) == {(one.number, 2), (one.number, 3)}
    assert len(residents.slots.buffers) == 3  # the slot of the first was used again


requests = st.lists(
    st.tuples(*[st.lists(st.integers(0, EXPERTS - 1), max_size=4)] * 2), min_size=1, max_size=6
)


@given(requests, st.integers(0, 8), st.booleans())
def test_who_follows_the_loads_finds_every_expert_in_its_place(room, requests, capacity, keep):
    make, specs = room
    residents, content = make(capacity, keep), {}
    for request in requests:
        named = {spec: counts(*ids) for spec, ids in zip(specs, request, strict=True)}
        residents.leave(named)
        loads = residents.bring(named)
        content |= {id(load.place): load[:2] for load in loads}
        assert len(residents.slots.buffers) <= capacity
        assert len({id(load.place) for load in loads}) == len(loads)
        for spec in specs:
            held, missing = residents.places(spec, named[spec])
            content |= {id(load.place): load[:2] for load in missing}
            wanted = {(spec, int(expert)) for expert in np.flatnonzero(named[spec])}
            assert {content[id(place)] for place in held} == wanted
            assert len(held) == len(wanted)
