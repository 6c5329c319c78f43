"""HOBBIT's score by hand, its records, and what its terms are alone."""

import pytest

from schedules.errors import BadInput
from schedules.expert.cache import ExpertCache
from schedules.expert.cache_hobbit import Hobbit, UseRecords

OFTEN, PRECISE = (0, 0), (1, 0)  # HOBBIT's figure 11: experts 4 and 6


def after_four_tokens(**settings) -> Hobbit:
    """Two layers, the first runs: `OFTEN` used 1H 2L 4L, `PRECISE` 2H 3H by these tokens."""
    policy = Hobbit(2, **settings)
    cache = ExpertCache(2, policy)
    for token, key, high in [
        (1, OFTEN, True),
        (2, PRECISE, True),
        (2, OFTEN, False),
        (3, PRECISE, True),
        (4, OFTEN, False),
    ]:
        cache.access(key, token=token, high=high)
    return policy


def test_the_sum() -> None:
    policy = after_four_tokens()
    assert policy.score(OFTEN) == pytest.approx((4 / 4 + 3 / 4 + 1 / 4 + 1) / 4)
    assert policy.score(PRECISE) == pytest.approx((3 / 4 + 2 / 4 + 2 / 4 + 1 / 2) / 4)


@pytest.mark.parametrize(
    ("weights", "victim"),
    [
        ((1, 0, 0, 0), PRECISE),  # used last by token 3, not 4
        ((0, 1, 0, 0), PRECISE),  # used twice, not three times
        ((0, 0, 1, 0), OFTEN),  # once in high precision, not twice
        ((0, 0, 0, 1), PRECISE),  # a layer away
    ],
)
def test_each_term(weights, victim) -> None:
    assert after_four_tokens(weights=weights).evict(()) == victim


def test_what_was_never_used_has_only_its_distance() -> None:
    policy = Hobbit(4)
    ExpertCache(1, policy).insert((1, 3))
    assert policy.score((1, 3)) == 0.25 * (1 - 1 / 4)


def test_both_precisions_share_their_records() -> None:
    records = UseRecords()
    high, low = (ExpertCache(1, Hobbit(2, records=records)) for _ in range(2))
    high.access(OFTEN, token=1)
    low.access(OFTEN, token=3, high=False)
    assert (records.last, records.uses, records.high_uses) == ({OFTEN: 3}, {OFTEN: 2}, {OFTEN: 1})
    assert high.policy.score(OFTEN) == low.policy.score(OFTEN)


def test_tokens_are_counted_by_their_first_layer() -> None:
    records = UseRecords()
    high, low = (ExpertCache(4, Hobbit(3, records=records)) for _ in range(2))
    for layer, expert in [(0, 0), (0, 1), (1, 0), (2, 0)]:
        high.access((layer, expert))
    assert records.token == 1
    low.access((0, 2), high=False)  # the next token; the other cache need not see its first layer
    high.access((1, 0))
    assert records.token == 2
    high.access((0, 0), token=7)
    assert (records.token, records.last[0, 0], records.last[2, 0]) == (7, 7, 1)


def test_a_sequence_starts_anew() -> None:
    policy = after_four_tokens()
    policy.records.next_sequence()
    assert policy.records == UseRecords()
    assert policy.score(OFTEN) == 0.25


def test_mistakes() -> None:
    for weights in [(0.5, 0.5, 0.5, 0), (1, 1, -1, 0), (0.5, 0.5)]:
        with pytest.raises(BadInput, match="four shares that sum to 1"):
            Hobbit(2, weights)
    with pytest.raises(BadInput, match="token 0 is impossible"):
        ExpertCache(1, Hobbit(2)).access(OFTEN, token=0)
    with pytest.raises(BadInput, match="'hobbit' takes no gate"):
        ExpertCache(1, Hobbit(2)).access(OFTEN, gate=0.5)
