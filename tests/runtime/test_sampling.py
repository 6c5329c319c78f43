"""Sampling: the right distribution, the right support, the same tokens in every batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from runtime.sampling import NOT_FINITE, SCRATCH_BYTES, Greedy, Random, make_sampler, uniforms
from runtime.sampling_settings import Sampling

UNLIKELY = 1e-4  # of a p-value; seeds are fixed, so a test passes always or never


def draw(logits, sampling, indices=None, position=0, gen_len=None, **options) -> torch.Tensor:
    """One token for each row, each of a prompt of its own."""
    indices = range(len(logits)) if indices is None else indices
    sampler = Random(sampling, indices, gen_len or position + 1, **options)
    return sampler(logits, torch.arange(len(logits)), position)


def counts(row, sampling, n=20_000) -> np.ndarray:
    """How often each token is drawn from the same logits."""
    ids = draw(torch.tensor([row]).expand(n, -1), sampling)
    return np.bincount(ids.numpy(), minlength=len(row))


def softmax(row, temperature) -> np.ndarray:
    weights = np.exp(np.array(row, dtype=np.float64) / temperature)
    return weights / weights.sum()


distinct = st.lists(st.integers(-400, 400), min_size=1, max_size=40, unique=True).map(
    lambda values: torch.tensor([values], dtype=torch.float32) / 40
)


# -- greedy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_greedy_takes_the_highest_and_the_first_among_equals(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.0, 3.0], [-5.0, -4.0, -4.0]], dtype=dtype)
    ids = Greedy()(logits, torch.arange(3), 0)
    assert ids.tolist() == [1, 0, 1]
    assert ids.dtype == torch.int64


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 2, 0.9)])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_an_overflow_of_the_model_is_not_a_token(sampling: Sampling, wrong: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, wrong, 2.0], [-torch.inf, -torch.inf, 1.0]])
    ids = make_sampler(sampling, range(3), 1)(logits, torch.arange(3), 0)
    assert ids[1] == NOT_FINITE
    assert ids[0] >= 0
    assert ids[2] == 2
    assert make_sampler(sampling, [0], 1)(
        torch.full((1, 3), -torch.inf), torch.tensor([0]), 0
    ).tolist() == [NOT_FINITE]


# -- distribution ----------------------------------------------------------------------------------

ROW = [0.3, -1.2, 2.0, 0.0, 1.1, 0.9, -0.4, 1.5]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_tokens_are_distributed_as_the_softmax_says(temperature: float) -> None:
    observed = counts(ROW, Sampling(temperature, seed=1))
    expected = softmax(ROW, temperature) * observed.sum()
    assert chisquare(observed, expected).pvalue > UNLIKELY


def test_positions_of_one_prompt_are_distributed_as_prompts_are() -> None:
    sampler = Random(Sampling(1.0, seed=2), [0], 4000)
    row, request = torch.tensor([ROW]), torch.tensor([0])
    ids = [int(sampler(row, request, position)) for position in range(4000)]
    expected = softmax(ROW, 1.0) * len(ids)
    assert chisquare(np.bincount(ids, minlength=len(ROW)), expected).pvalue > UNLIKELY


def test_what_top_k_and_top_p_leave_keeps_its_proportions() -> None:
    observed = counts(ROW, Sampling(1.0, top_k=5, top_p=0.8, seed=3))
    shares = softmax(ROW, 1.0)
    order = np.argsort(-shares)[:5]  # then the fewest that hold 80 % of these five
    inside = np.cumsum(shares[order]) / shares[order].sum()
    kept = order[: np.searchsorted(inside, 0.8) + 1]
    assert set(np.flatnonzero(observed)) == set(kept.tolist())
    expected = shares[kept] / shares[kept].sum() * observed.sum()
    assert chisquare(observed[kept], expected).pvalue > UNLIKELY


def test_a_large_vocabulary_has_no_favourites() -> None:
    """Uniform logits: token = floor(u x vocabulary), to the last one."""
    n, vocab = 40, 150_000
    ids = draw(torch.zeros(1, vocab).expand(n, -1), Sampling(1.0, seed=4))
    u = uniforms(4, range(n), 1)[:, 0]
    np.testing.assert_array_equal(ids.numpy(), np.floor(u * vocab))


# -- support ---------------------------------------------------------------------------------------


def support(logits: torch.Tensor, sampling: Sampling) -> set[int]:
    """All tokens that some uniform number leads to."""
    n = 1024
    sampler = Random(sampling, range(n), 1)
    sampler._uniform = ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[None]
    return set(sampler(logits.expand(n, -1), torch.arange(n), 0).tolist())


@settings(max_examples=40)
@given(distinct, st.integers(1, 50))
def test_top_k_has_the_k_most_likely_tokens_and_no_others(logits: torch.Tensor, k: int) -> None:
    best = logits[0].topk(min(k, logits.shape[1])).indices.tolist()
    found = support(logits, Sampling(20.0, top_k=k))  # so warm that all of them are seen
    assert found == set(best)


@settings(max_examples=40)
@given(distinct, st.floats(0.05, 1.0), st.sampled_from([None, 3, 100]))
def test_top_p_has_the_fewest_tokens_that_hold_p(
    logits: torch.Tensor, p: float, k: int | None
) -> None:
    shares = softmax(logits[0].numpy(), 20.0)
    order = np.argsort(-shares)[:k]
    held = np.cumsum(shares[order]) / shares[order].sum()
    fewest = {int(np.searchsorted(held, p * change)) + 1 for change in (1 - 1e-6, 1, 1 + 1e-6)}
    found = support(logits, Sampling(20.0, k, p))
    assert found in [set(order[:n].tolist()) for n in fewest]


def test_ties_at_the_border_all_stay() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]])
    assert support(logits, Sampling(1.0, top_k=2)) == {1, 2, 3, 4}
    assert support(logits, Sampling(1.0, top_p=0.6)) == {1, 2, 3, 4}
    assert support(logits, Sampling(1.0, top_k=2, top_p=0.99)) == {1, 2, 3, 4}


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_unit_interval_are_inside(uniform: float) -> None:
    sampler = Random(Sampling(1.0, top_k=2), [0], 1)
    sampler._uniform = torch.tensor([[uniform]], dtype=torch.float64)
    logits = torch.tensor([[0.0, 2.0, -1.0, 3.0, 0.5]])
    assert sampler(logits, torch.tensor([0]), 0).tolist() == [1 if uniform == 0 else 3]


def test_top_p_takes_at_least_one_token() -> None:
    assert support(torch.tensor([[1.0, 3.0, 2.0]]), Sampling(1.0, top_p=1e-9)) == {1}


@given(distinct, st.integers(0, 2**32))
def test_towards_temperature_0_it_is_greedy(logits: torch.Tensor, seed: int) -> None:
    ids = draw(logits, Sampling(1e-4, seed=seed))
    assert ids.tolist() == Greedy()(logits, torch.tensor([0]), 0).tolist()


def test_extreme_temperatures_and_logits() -> None:
    logits = torch.tensor([[60000.0, -60000.0, 0.0]], dtype=torch.float16)
    assert draw(logits, Sampling(1e-6)).tolist() == [0]
    assert draw(logits, Sampling(1.0)).tolist() == [0]
    assert support(logits, Sampling(1e30)) == {0, 1, 2}


# -- the same tokens in every batch ----------------------------------------------------------------

LOGITS = torch.randn(37, 501, generator=torch.Generator().manual_seed(0)) * 3
SETTINGS = [Sampling(1.0, seed=7), Sampling(0.7, 20, seed=7), Sampling(1.3, 50, 0.9, seed=7)]


@pytest.mark.parametrize("sampling", SETTINGS)
@settings(max_examples=20)
@given(cut=st.integers(0, 37), rows=st.integers(1, 40), position=st.integers(0, 3))
def test_a_token_does_not_depend_on_batch_chunk_or_order(
    sampling: Sampling, cut: int, rows: int, position: int
) -> None:
    whole = draw(LOGITS, sampling, position=position, gen_len=4)
    parts = [
        draw(LOGITS[part], sampling, range(37)[part], position, 9, scratch_bytes=rows * 501 * 96)
        for part in (slice(0, cut), slice(cut, 37))
    ]
    assert torch.cat(parts).tolist() == whole.tolist()
    backwards = Random(sampling, range(37), 4)(LOGITS.flip(0), torch.arange(37).flip(0), position)
    assert backwards.flip(0).tolist() == whole.tolist()


def test_seed_prompt_and_position_each_matter() -> None:
    same = LOGITS[:1].expand(8, -1)
    first = draw(same, SETTINGS[0])
    assert len(set(first.tolist())) > 1
    assert draw(same, Sampling(1.0, seed=8)).tolist() != first.tolist()
    assert draw(same, SETTINGS[0], position=1).tolist() != first.tolist()


def test_a_longer_generation_has_the_same_numbers_first() -> None:
    table = uniforms(5, [3, 4], 10)
    assert table.shape == (2, 10)
    np.testing.assert_array_equal(uniforms(5, [4], 3), table[1:, :3])
    assert table.min() >= 0
    assert table.max() < 1


def test_memory_is_bounded_by_chunks() -> None:
    sampler = Random(SETTINGS[0], range(500), 1)
    assert sampler.scratch_bytes(500, 150_000) <= SCRATCH_BYTES + 8 * 500
    assert sampler.scratch_bytes(2, 1000) == 2 * 1000 * 96 + 16
    assert sampler.scratch_bytes(500, 10**7) == 10**7 * 96 + 8 * 500  # one row at a time
    assert Greedy().scratch_bytes(500, 150_000) == 8000


def test_make_sampler_takes_the_kind_from_the_settings() -> None:
    assert isinstance(make_sampler(Sampling(), [0], 1), Greedy)
    assert isinstance(make_sampler(Sampling(0.5), [0], 1), Random)


# -- on a GPU --------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [Sampling(), *SETTINGS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_cuda_without_synchronising(sampling: Sampling, dtype: torch.dtype) -> None:
    sampler = make_sampler(sampling, range(37), 3, "cuda")
    logits, requests = LOGITS.to("cuda", dtype), torch.arange(37, device="cuda")
    sampler(logits, requests, 0)  # the first call may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        ids = [sampler(logits, requests, position) for position in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    host = make_sampler(sampling, range(37), 3)
    for position, found in enumerate(ids):
        expected = host(LOGITS.to(dtype), torch.arange(37), position)
        assert found.tolist() == expected.tolist()
