"""Prompt lengths: what a description answers, and what each number of it may be."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schedules.errors import BadInput
from schedules.lengths import MOST_TOKENS, Fixed, Listed, PromptLengths, Spread, positive_int

PUBLISHED = [(77, 418), (242, 256), (1693, 1984)]


@st.composite
def spreads(draw):
    shortest = draw(st.integers(1, 3000))
    longest = draw(st.integers(shortest, 5000))
    average = draw(st.floats(shortest, longest))
    return Spread(average=average, longest=longest, shortest=shortest)


@pytest.mark.parametrize(("average", "longest"), PUBLISHED)
@pytest.mark.parametrize("n", [20, 21, 100, 504, 4096, 100_000])
def test_published_spread_keeps_average_and_longest(average, longest, n):
    sample = Spread(average=average, longest=longest).sample(n)
    assert len(sample) == n
    assert sum(sample) == n * average
    assert max(sample) == longest
    assert min(sample) >= 1


@given(spreads(), st.integers(1, 300))
def test_spread_is_sorted_within_bounds_and_exact_in_sum(spread, n):
    sample = spread.sample(n)
    assert len(sample) == n
    assert list(sample) == sorted(sample)
    assert spread.shortest <= sample[0]
    assert sample[-1] <= spread.longest
    assert sum(sample) == round(n * spread.average)


@given(spreads(), st.integers(1, 300))
def test_the_longest_is_present_whenever_the_sum_allows_it(spread, n):
    room = round(n * spread.average) >= spread.longest + (n - 1) * spread.shortest
    if room:
        assert spread.sample(n)[-1] == spread.longest


def test_the_sum_of_five_mtbench_prompts_leaves_no_room_for_the_longest():
    spread = Spread(average=77, longest=418)
    assert spread.sample(5) == (10, 30, 58, 100, 187)
    assert spread.sample(6)[-1] == 418


def test_same_question_same_answer_and_types():
    first = Spread(average=77, longest=418).sample(50)
    assert first == Spread(average=77.0, longest=418).sample(50)
    assert {type(length) for length in first} == {int}


def test_average_in_the_middle_gives_the_uniform_distribution():
    sample = np.array(Spread(average=500.5, longest=1000).sample(1000))
    assert abs(sample - np.arange(1, 1001)).max() <= 1
    assert Spread(average=5, longest=9).sample(1) == (5,)


@pytest.mark.parametrize(("average", "longest"), PUBLISHED)
def test_large_samples_follow_the_truncated_exponential(average, longest):
    """Its variance given the mean is 1/k^2 - e^k / (e^k - 1)^2 on [0, 1]: an independent route."""
    reach, mean = longest - 1, (average - 1) / (longest - 1)
    low, high = -1000.0, 1001.0
    for _ in range(200):
        k = (low + high) / 2
        at_k = 1 / k - 1 / math.expm1(k) if k < 700 else 1 / k
        low, high = (k, high) if at_k > mean else (low, k)
    variance = 1 / k**2 - math.exp(-abs(k)) / (1 - math.exp(-abs(k))) ** 2
    sample = np.array(Spread(average=average, longest=longest).sample(100_000))
    assert sample.std() / reach == pytest.approx(math.sqrt(variance), rel=2e-3)


def test_spread_at_its_ends():
    assert Spread(average=9, longest=9).sample(3) == (9, 9, 9)
    assert Spread(average=9, longest=9, shortest=9).sample(3) == (9, 9, 9)
    assert Spread(average=4, longest=9, shortest=4).sample(3) == (4, 4, 4)
    assert Spread(average=1.5, longest=3).sample(4) == (1, 1, 1, 3)


def test_fixed_and_listed():
    assert Fixed(tokens=512).sample(2) == (512, 512)
    assert (Fixed(tokens=512).average, Fixed(tokens=512).longest) == (512, 512)
    listed = Listed(lengths=(5, 7, 3))
    assert listed.sample(2) == (5, 7)
    assert listed.sample(7) == (5, 7, 3, 5, 7, 3, 5)
    assert (listed.average, listed.longest) == (5.0, 7)


def test_kind_chooses_the_description_and_it_survives_json():
    adapter = TypeAdapter(PromptLengths)
    for lengths in (Fixed(tokens=3), Spread(average=2, longest=3), Listed(lengths=(1, 2))):
        assert adapter.validate_json(adapter.dump_json(lengths)) == lengths
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "normal", "tokens": 3})
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_python({"kind": "fixed", "tokens": 3, "longest": 4})


@pytest.mark.parametrize("value", [0, -3, 2.0, math.nan, "7", None, True, Fraction(3)])
def test_a_count_is_a_whole_number_of_at_least_one(value):
    with pytest.raises(BadInput, match=r"^mu is .*; it must be a whole number of at least 1$"):
        positive_int(value, "mu")


def test_a_count_accepts_numpy_integers_and_ends_at_32_bits():
    assert type(positive_int(np.int64(7), "mu")) is int
    assert positive_int(MOST_TOKENS, "mu") == 2_147_483_647
    with pytest.raises(BadInput, match="mu is 2147483648; it must be at most 2147483647"):
        positive_int(MOST_TOKENS + 1, "mu")


@pytest.mark.parametrize("average", [math.nan, math.inf, -1, 0, "77", None, True])
def test_average_must_be_a_number(average):
    with pytest.raises(BadInput, match=r"average prompt length is .*; it must be a number"):
        Spread(average=average, longest=100)


def test_average_must_lie_between_shortest_and_longest():
    with pytest.raises(BadInput, match="is 500; it must lie between the shortest, 1, and the long"):
        Spread(average=500, longest=418)
    with pytest.raises(BadInput, match="shortest, 80, and the longest, 418"):
        Spread(average=77, longest=418, shortest=80)


def test_bad_lengths_are_named():
    with pytest.raises(BadInput, match="the shortest prompt length is 0"):
        Spread(average=77, longest=418, shortest=0)
    with pytest.raises(BadInput, match=r"the longest prompt length is 41\.5"):
        Spread(average=3, longest=41.5)
    with pytest.raises(BadInput, match="the prompt length is -1"):
        Fixed(tokens=-1)
    with pytest.raises(BadInput, match="prompt length number 2 is 0"):
        Listed(lengths=[4, 0])
    for nothing in ([], "12", 5):
        with pytest.raises(BadInput, match="they must be a list, not empty"):
            Listed(lengths=nothing)


def test_a_spread_that_is_even():
    """Of five prompts the longest is fixed; the sum of the others asks for even quantiles."""
    assert Spread(average=6.2, longest=11).sample(5) == (2, 4, 6, 8, 11)
