"""Look-ahead: gates of later layers on this layer's input."""

import pytest
import torch

from runtime.training.look_ahead import look_ahead, share_named
from tests.runtime.training.small_models import SIZES, model, tokens


def test_share_is_of_the_experts_taken() -> None:
    named, taken = torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[2, 3], [1, 0]])
    assert share_named(named, taken) == 0.75
    assert share_named(taken, taken) == 1


@pytest.mark.parametrize("top_k", [1, 2])
def test_accuracy_by_layer_and_distance(top_k: int) -> None:
    small = model(top_k)
    done = small(tokens())
    found = look_ahead(small, tokens())
    assert {distance: len(shares) for distance, shares in found.items()} == {1: 3, 2: 2, 3: 1}
    for distance, shares in found.items():
        for layer, share in enumerate(shares, start=distance):
            named = small.block(layer).gate(done.gate_inputs[layer - distance])
            hits = [
                expert in guess
                for guess, taken in zip(
                    named.topk(top_k).indices.tolist(), done.experts[layer].tolist(), strict=True
                )
                for expert in taken
            ]
            assert share == pytest.approx(sum(hits) / len(hits))


def test_blocks_that_add_nothing_are_seen_through() -> None:
    """With equal hidden states everywhere and equal norms, the gates see what they will see."""
    small = model(2)
    with torch.no_grad():
        for i in range(SIZES.layers):
            small.block(i).attention.out.weight.zero_()
            small.block(i).experts.down.zero_()
    assert look_ahead(small, tokens()) == {1: [1, 1, 1], 2: [1, 1], 3: [1]}
