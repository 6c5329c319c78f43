"""Errors: one root, and suggestions that help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput, Infeasible, MoelabError, suggest

NAMES = ("cgopipe", "flexgen", "flexgen-cpu", "zero-inference")


@pytest.mark.parametrize("kind", [BadInput, Infeasible])
def test_one_root(kind):
    assert issubclass(kind, MoelabError)
    with pytest.raises(MoelabError, match="what was wrong"):
        raise kind("what was wrong")


def test_the_two_kinds_are_told_apart():
    assert not issubclass(BadInput, Infeasible)
    assert not issubclass(Infeasible, BadInput)


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("cgopip", ", did you mean 'cgopipe'?"),
        ("CGOPipe", ", did you mean 'cgopipe'?"),
        ("flexgen-gpu", ", did you mean 'flexgen-cpu' or 'flexgen'?"),
        ("q", "; known: cgopipe, flexgen, flexgen-cpu, zero-inference"),
        ("", "; known: cgopipe, flexgen, flexgen-cpu, zero-inference"),
    ],
)
def test_the_nearest_names_or_all(name, clause):
    assert suggest(name, NAMES) == clause


def test_a_dictionary_will_do():
    assert suggest("gpus", {"gpu": 1, "cpu": 2}) == ", did you mean 'gpu' or 'cpu'?"


@given(st.text(max_size=12), st.lists(st.text(max_size=12), unique=True, max_size=6))
def test_whatever_is_suggested_is_known(name, known):
    clause = suggest(name, known)
    if clause.startswith("; known: "):
        assert clause == "; known: " + ", ".join(sorted(known))
    else:
        assert any(f"'{other}'" in clause for other in known)
    assert suggest(name, reversed(known)) == clause  # the order they are listed in does not matter
