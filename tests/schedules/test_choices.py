"""Choices that are skipped: how many are left, and which."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.batching import MicroBatch
from schedules.choices import SKIPPED, first_instead, kept_choices, skip_choices, token_counts
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_trace import routing_trace
from schedules.task import Task

TOKENS = 20_000
MIXTRAL = load_model("mixtral-8x7b").with_layers(2)
BATCH = (MicroBatch(0, (1,) * 4_000),)


def chosen(tokens, top_k):
    """Ids of the first `top_k` experts, for each token."""
    return np.tile(np.arange(top_k, dtype=np.int64), (tokens, 1))


@pytest.mark.parametrize("top_k", [2, 4, 8])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_as_many_are_kept_as_expected(top_k, share):
    """Choice i of a token is kept with probability (1 - share)^(i - 1); to five deviations."""
    ids = skip_choices(chosen(TOKENS, top_k), share, np.random.default_rng(7))
    kept = (ids != SKIPPED).mean(axis=0)
    expected = (1 - share) ** np.arange(top_k)
    assert np.abs(kept - expected).max() <= 5 * np.sqrt(0.25 / TOKENS)
    assert expected.sum() == pytest.approx(kept_choices(top_k, share))


@given(st.integers(1, 8), st.floats(0, 1), st.integers(0, 2**32), st.integers(0, 20))
def test_choices_are_skipped_from_the_last_on_and_never_the_first(top_k, share, seed, tokens):
    """Weights fall from choice to choice, so what follows a skipped one is skipped too."""
    before = chosen(tokens, top_k)
    ids = skip_choices(before, share, np.random.default_rng(seed))
    assert (ids[:, 0] == before[:, 0]).all()
    skipped = ids == SKIPPED
    assert (skipped[:, 1:] >= skipped[:, :-1]).all()
    assert (ids[~skipped] == before[~skipped]).all()


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(0, 2**32))
def test_the_bounds(top_k, seed):
    """Below a share of nothing is no weight; below the first's own weight are all others'."""
    before, rng = chosen(50, top_k), np.random.default_rng(seed)
    assert (skip_choices(before, 0.0, rng) == before).all()
    assert (skip_choices(before, 1.0, rng)[:, 1:] == SKIPPED).all()
    assert (kept_choices(top_k, 0.0), kept_choices(top_k, 1.0)) == (top_k, 1)


@given(st.lists(st.integers(-1, 4), min_size=3, max_size=30))
def test_tokens_of_each_expert(values):
    ids = np.array(values[: len(values) // 3 * 3], dtype=np.int64).reshape(-1, 3)
    counts = token_counts(ids, 5)
    assert counts.tolist() == [int((ids == e).sum()) for e in range(5)]


def test_a_first_choice_in_place_of_skipped_ones():
    ids = np.array([[3, SKIPPED, 1], [0, 2, SKIPPED]])
    assert first_instead(ids).tolist() == [[3, 3, 1], [0, 2, 0]]


# -- the simulator's gates -------------------------------------------------------------------------


def answers(share, seed=0, kind="uniform"):
    """What the gates of Mixtral's first two layers answer in prefill, for 4000 tokens."""
    model = MIXTRAL.model_copy(update={"skip_below": share})
    routing = Routing(kind=kind, seed=seed, exponent=1.0 if kind == "zipf" else None)
    trace = routing_trace(routing, model, BATCH, 4)
    return [trace(Task(0, "gate", "gpu", layer, 0, 0)) for layer in (0, 1)]


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_a_gate_names_the_same_experts_but_for_skipped_ones(kind):
    """About half of the second choices are left, others in each layer; and the same every time."""
    plain, skipping = answers(0.0, kind=kind), answers(0.5, kind=kind)
    for all_of_them, left in zip(plain, skipping, strict=True):
        assert (left[:, 0] == all_of_them[:, 0]).all()
        kept = left[:, 1] != SKIPPED
        assert (left[kept] == all_of_them[kept]).all()
        assert kept.mean() == pytest.approx(0.5, abs=0.04)  # five deviations of 4000 coins
    first, second = (left[:, 1] == SKIPPED for left in skipping)
    assert (first == second).mean() == pytest.approx(0.5, abs=0.04)
    assert all(map(np.array_equal, skipping, answers(0.5, kind=kind)))


def test_another_seed_skips_others():
    one, other = (answers(0.5, seed)[0][:, 1] == SKIPPED for seed in (0, 1))
    assert (one == other).mean() == pytest.approx(0.5, abs=0.04)
