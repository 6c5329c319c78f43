"""The model: causal, sparse, and routed by whom the caller says."""

import pytest
import torch

from runtime.training.model import Sizes, choose, given, new_model
from schedules.errors import BadInput
from tests.runtime.training.small_models import SIZES, model, tokens


@pytest.mark.parametrize("top_k", [1, 2])
def test_experts_are_a_weighted_sum(top_k: int) -> None:
    """Against every expert computed for every token, and most of it thrown away."""
    experts = model(top_k).block(1).experts
    x = torch.randn(7, SIZES.width, generator=torch.Generator().manual_seed(1))
    ids, weights = choose(torch.randn(7, SIZES.experts), top_k)
    every = torch.einsum("tef,efd->ted", (x @ experts.up).mT.permute(2, 0, 1).relu(), experts.down)
    expected = (every[torch.arange(7)[:, None], ids] * weights[:, :, None]).sum(dim=1)
    assert torch.allclose(experts(x, ids, weights), expected, atol=1e-5)


def test_one_expert_is_weighted_by_its_probability() -> None:
    ids, weights = choose(torch.tensor([[0.0, 2.0, 1.0]]), 1)
    assert ids.tolist() == [[1]]
    assert weights.item() == pytest.approx(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1].item())


def test_several_experts_share_a_weight_of_one() -> None:
    ids, weights = choose(torch.tensor([[0.0, 2.0, 1.0]]), 2)
    assert ids.tolist() == [[1, 2]]
    assert weights[0].tolist() == pytest.approx(torch.tensor([2.0, 1.0]).softmax(0).tolist())


@pytest.mark.parametrize("place", range(1, SIZES.context))
def test_a_token_changes_nothing_before_it(place: int) -> None:
    small, first = model(2), tokens(1)
    second = first.clone()
    second[0, place] = (second[0, place] + 1) % SIZES.vocabulary
    before, after = small(first).logits[0], small(second).logits[0]
    assert torch.allclose(before[:place], after[:place], atol=1e-6)
    assert not torch.allclose(before[place], after[place], atol=1e-6)


def test_a_pass_records_what_the_gates_took() -> None:
    small = model(2)
    done = small(tokens())
    for i in range(SIZES.layers):
        logits = small.block(i).gate(done.gate_inputs[i])
        assert torch.equal(done.gate_logits[i], logits)
        assert torch.equal(done.experts[i], logits.topk(2).indices)


def test_its_own_logits_given_back_change_nothing() -> None:
    small = model(2)
    done = small(tokens())
    assert torch.equal(small(tokens(), given(done.gate_logits)).logits, done.logits)
    others = [logits.flip(-1) for logits in done.gate_logits]
    assert not torch.allclose(small(tokens(), given(others)).logits, done.logits, atol=1e-5)


def test_weights_follow_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = model(seed=1), model(seed=1), model(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"top_k": 6}, "top_k is 6, but must be from 1 to 5 experts"),
        ({"top_k": 0}, "top_k is 0, but must be from 1 to 5 experts"),
        ({"heads": 3}, "a width of 16 cannot be shared by 3 heads"),
    ],
)
def test_sizes_go_together(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        new_model(Sizes(**(vars(SIZES) | wrong)), 0)
