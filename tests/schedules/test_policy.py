"""The policy: what it holds, and what is said of a wrong one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schedules.errors import BadInput
from schedules.policy import Policy, make_policy, parse_assignments

PLACEMENT = {"N", "mu", "A_g", "F_g", "r_w", "r_c", "r_h", "pinned"}


def test_defaults():
    """CPU attention, GPU FFN, everything in host memory, pinned by the schedule's own rule."""
    policy = make_policy({"N": 504, "mu": 36})
    assert {k: v for k, v in policy.model_dump().items() if k in PLACEMENT} == {
        "N": 504,
        "mu": 36,
        "A_g": 0,
        "F_g": 1,
        "r_w": 0.0,
        "r_c": 0.0,
        "r_h": 0.0,
        "pinned": None,
    }


@pytest.mark.parametrize(
    ("batch", "micro_batch", "count"), [(504, 36, 14), (505, 36, 15), (1, 1, 1), (36, 36, 1)]
)
def test_the_last_micro_batch_may_be_smaller(batch, micro_batch, count):
    assert make_policy({"N": batch, "mu": micro_batch}).n_micro_batches == count


def test_words_in_place_of_symbols():
    words = {
        "batch_size": 8,
        "micro_batch_size": 4,
        "attention_on_gpu": 1,
        "ffn_on_gpu": 1,
        "weights_on_gpu": 0.1,
        "cache_on_gpu": 0.2,
        "activations_on_gpu": 0.3,
    }
    symbols = {"N": 8, "mu": 4, "A_g": 1, "F_g": 1, "r_w": 0.1, "r_c": 0.2, "r_h": 0.3}
    assert make_policy(words) == make_policy(symbols)
    assert make_policy({"batch": 8, "micro_batch": 4}) == make_policy({"N": 8, "mu": 4})


def test_values_of_the_command_line():
    values = parse_assignments(["N=504", "mu=36", "r_w = 0.1", "pinned=true"])
    assert values == {"N": "504", "mu": "36", "r_w": "0.1", "pinned": "true"}
    assert make_policy(values) == Policy(N=504, mu=36, r_w=0.1, pinned=True)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0, 1), st.booleans())
def test_a_policy_survives_the_way_through_text(batch, other, share, pinned):
    mu = min(batch, other)
    words = [f"N={batch}", f"mu={mu}", f"r_w={share!r}", f"pinned={pinned}"]
    assert make_policy(parse_assignments(words)) == Policy(N=batch, mu=mu, r_w=share, pinned=pinned)


@pytest.mark.parametrize("word", ["N", "N=", "=5", "", "="])
def test_an_assignment_is_a_key_and_a_value(word):
    with pytest.raises(BadInput, match=f"'{word}' is not of the form KEY=VALUE"):
        parse_assignments(["mu=3", word])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "'N' is missing; give N and mu"),
        ({"N": 4}, "'mu' is missing; give N and mu"),
        ({"mu": 4}, "'N' is missing; give N and mu"),
        ({"N": 4, "mu": 8}, "micro-batch mu = 8 is larger than the batch N = 4"),
        ({"N": 0, "mu": 1}, "N = 0: input should be greater than or equal to 1"),
        ({"N": 4, "mu": -2}, "mu = -2: input should be greater than or equal to 1"),
        ({"N": 4.5, "mu": 1}, "N = 4.5: input should be a valid integer"),
        ({"N": "many", "mu": 1}, "N = 'many': input should be a valid integer"),
        ({"N": 4, "mu": 2, "r_w": 1.1}, "r_w = 1.1: input should be less than or equal to 1"),
        ({"N": 4, "mu": 2, "r_c": -0.1}, "r_c = -0.1: input should be greater than or equal to 0"),
        ({"N": 4, "mu": 2, "r_h": float("nan")}, "r_h = nan: input should be a finite number"),
        ({"N": 4, "mu": 2, "A_g": 2}, "A_g = 2: input should be less than or equal to 1"),
        ({"N": 4, "mu": 2, "F_g": 0.5}, "F_g = 0.5: input should be a valid integer"),
        ({"N": 4, "mu": 2, "pinned": "maybe"}, "pinned = 'maybe': input should be a valid boolean"),
        ({"N": 4, "mu": 2, "rw": 0.1}, "unknown key 'rw', did you mean 'r_w'"),
        ({"N": 4, "mu": 2, "zzz": 1}, "unknown key 'zzz'; known: A_g, F_g, N, "),
    ],
)
def test_a_wrong_policy_is_refused_with_the_key_and_what_is_right(values, message):
    with pytest.raises(BadInput) as error:
        make_policy(values)
    assert str(error.value).startswith("policy: " + message)


def test_a_policy_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        make_policy({"N": 4, "mu": 2}).N = 8


def test_equal_policies_are_one_key():
    assert {make_policy({"N": 4, "mu": 2}), make_policy({"N": "4", "mu": 2.0})} == {
        Policy(N=4, mu=2)
    }


def test_a_key_is_given_once():
    with pytest.raises(BadInput, match="'r_w' is given twice"):
        parse_assignments(["r_w=0.1", "r_w=0.2"])
