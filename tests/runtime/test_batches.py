"""Batches, and sequences that end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.batches import Batch, Sequences, policy_for, split
from runtime.journal import Finished
from runtime.sampling import NOT_FINITE
from schedules.errors import BadInput, MoelabError
from schedules.policy import make_policy
from schedules.schedule import find_schedule

PROMPTS = tuple((i,) * (1 + i % 3) for i in range(7))


@given(n=st.integers(0, 20), size=st.integers(1, 25))
def test_batches_hold_all_prompts_in_order(n: int, size: int) -> None:
    prompts = [(i,) for i in range(n)]
    batches = split(prompts, size)
    assert [p for batch in batches for p in batch.prompts] == prompts
    assert [i for batch in batches for i in batch.indices] == list(range(n))
    assert [batch.number for batch in batches] == list(range(len(batches)))
    assert all(len(batch) == size for batch in batches[:-1])


def test_a_batch_has_a_size() -> None:
    with pytest.raises(BadInput, match="the batch size N is 0"):
        split(PROMPTS, 0)


def test_the_policy_of_a_smaller_batch() -> None:
    policy = make_policy({"N": 4, "mu": 2, "r_w": 0.5})
    kind, whole = find_schedule("cgopipe"), find_schedule("zero-inference")
    sizes = [
        (policy_for(policy, kind, batch).N, policy_for(policy, kind, batch).mu)
        for batch in (split(PROMPTS, 4)[1], Batch(0, 0, PROMPTS[:1]))
    ]
    assert sizes == [(3, 2), (1, 1)]
    assert policy_for(policy, kind, split(PROMPTS, 4)[0]) == policy
    one = policy_for(make_policy({"N": 4, "mu": 4}), whole, split(PROMPTS, 4)[1])
    assert (one.N, one.mu) == (3, 3)
    whole.check(one)


# -- sequences -------------------------------------------------------------------------------------


def add(sequences: Sequences, *ids: int) -> list[tuple[int, tuple[int, ...], str]]:
    found = sequences.add(np.array(ids))
    return [(s.index, s.token_ids, s.finish) for s in found]


def test_sequences_end_with_the_token_or_the_length() -> None:
    sequences = Sequences(Batch(2, 10, PROMPTS[:3]), 3, (7, 9), {})
    assert add(sequences, 1, 7, 2) == [(11, (7,), "stop")]
    assert add(sequences, 3, 7, 4) == []  # one ends once
    assert not sequences.done
    assert add(sequences, 5, 1, 9) == [(10, (1, 3, 5), "length"), (12, (2, 4, 9), "stop")]
    assert sequences.done
    assert sequences.positions == 3


def test_one_token() -> None:
    sequences = Sequences(Batch(0, 0, PROMPTS[:2]), 1, (7,), {})
    assert add(sequences, 7, 8) == [(0, (7,), "stop"), (1, (8,), "length")]
    assert sequences.done


def test_without_an_end_token_all_have_the_length() -> None:
    sequences = Sequences(Batch(0, 0, PROMPTS[:2]), 2, (), {})
    assert add(sequences, 0, 1) == []
    assert [length for *_, length in add(sequences, 0, 1)] == ["length", "length"]


def test_known_sequences_are_not_handed_out_again_but_compared() -> None:
    known = {0: Finished(0, (1, 7), "stop"), 2: Finished(2, (5, 5, 5), "length")}
    sequences = Sequences(Batch(0, 0, PROMPTS[:3]), 3, (7,), known)
    assert add(sequences, 1, 2, 5) == []
    assert add(sequences, 7, 7, 6) == [(1, (2, 7), "stop")]
    assert sequences.done  # although the third had one more token before
    assert sequences.differing == 1


def test_a_batch_of_known_sequences_is_done() -> None:
    known = {i: Finished(i, (7,), "stop") for i in range(2)}
    assert Sequences(Batch(0, 0, PROMPTS[:2]), 3, (7,), known).done
    assert not Sequences(Batch(0, 0, PROMPTS[:3]), 3, (7,), known).done


def test_an_overflow_names_prompt_and_token() -> None:
    sequences = Sequences(Batch(1, 4, PROMPTS[:2]), 3, (7,), {})
    add(sequences, 1, 2)
    with pytest.raises(MoelabError) as error:
        add(sequences, 1, NOT_FINITE)
    assert str(error.value) == (
        "the logits of prompt 5 (counted from 0) for generated token 1 are not finite: weights "
        "that hold NaN, or an overflow, most likely of float16; try --dtype bfloat16 or float32"
    )
