"""Plain values as TOML and back."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from sim.calibration.toml_text import toml_text

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.booleans() | texts | st.integers(-(2**63), 2**63 - 1) | numbers
tables = st.recursive(
    st.dictionaries(texts, values, max_size=3),
    lambda inner: st.dictionaries(texts, values | inner, max_size=3),
    max_leaves=8,
)


def same(one, other):
    """Equal, but for digits of floats after the sixth; tables without anything may be missing."""
    if isinstance(one, dict):
        kept = {key: value for key, value in one.items() if not hollow(value)}
        return kept.keys() <= other.keys() and all(same(v, other[k]) for k, v in kept.items())
    if type(one) is float:
        return type(other) is float and math.isclose(one, other, rel_tol=1e-5)
    return type(one) is type(other) and one == other


def hollow(value):
    return isinstance(value, dict) and all(map(hollow, value.values()))


@pytest.mark.parametrize(
    ("value", "text"),
    [(100000.5, "100000.0"), (2.0, "2.0"), (-0.0, "-0.0"), (123456789.0, "1.23457e+08")],
)
def test_floats_stay_floats(value, text):
    assert toml_text({"x": value}) == f"x = {text}\n"


@given(tables)
def test_what_is_written_is_read_again(table):
    assert same(table, tomllib.loads(toml_text(table)))


@given(tables)
def test_written_again_it_is_the_same(table):
    read = tomllib.loads(toml_text(table))
    assert tomllib.loads(toml_text(read)) == read


def test_by_hand():
    table = {"name": "lab", "gpu": {"memory": {"value": 8e9, "on": True}, "count": 2}, "rate": 0.5}
    assert toml_text(table, "of today\n\nby hand") == (
        "# of today\n#\n# by hand\n"
        'name = "lab"\nrate = 0.5\n\n[gpu]\ncount = 2\n\n[gpu.memory]\nvalue = 8e+09\non = true\n'
    )


@pytest.mark.parametrize("value", [None, [1], math.inf, math.nan])
def test_what_has_no_form_is_refused(value):
    with pytest.raises(BadInput, match=r"rate is .*, which a TOML file cannot say"):
        toml_text({"gpu": {"rate": value}})
