"""Recorded routing: what the model took, in the format of a run, and its statistics."""

import numpy as np
import pytest
import torch

from runtime.training.recording import Routes, routes, routing_frame, skew
from tests.runtime.training.small_models import SIZES, model, tokens


@pytest.mark.parametrize("top_k", [1, 2])
def test_routes_are_what_the_gates_chose(top_k: int) -> None:
    small, texts = model(top_k), tokens(3)
    found = routes(small, texts)
    assert found.shape == (SIZES.layers, 3, SIZES.context, top_k)
    for request in range(3):
        alone = small(texts[request : request + 1])
        for layer in range(SIZES.layers):
            chosen = alone.gate_logits[layer].topk(top_k, dim=-1).indices
            assert torch.equal(torch.from_numpy(found[layer, request]), chosen)


@pytest.mark.parametrize("prompt_len", [1, 3, 5])
def test_rows_are_those_of_a_run(prompt_len: int) -> None:
    """Each token of each layer has one row, in the step that reads it."""
    found = routes(model(2), tokens(3))
    frame = routing_frame(found, prompt_len)
    columns = ["step", "layer", "micro_batch", "request", "position", "expert_0", "expert_1"]
    assert list(frame.columns) == [*columns, "batch"]
    assert len(frame) == SIZES.layers * 3 * SIZES.context
    assert not frame.duplicated(["layer", "request", "position"]).any()
    for row in frame.itertuples():
        assert row.step == (0 if row.position < prompt_len else row.position - prompt_len + 1)
        assert (row.expert_0, row.expert_1) == tuple(found[row.layer, row.request, row.position])
    assert frame["step"].is_monotonic_increasing
    assert set(frame["micro_batch"]) == set(frame["batch"]) == {0}


def hand_worked() -> Routes:
    """One layer, two requests of four tokens, one expert each."""
    return np.array([[[0, 0, 1, 0], [0, 2, 2, 2]]])[..., None]


def test_hand_worked_statistics() -> None:
    found = skew(hand_worked(), experts=5)
    assert found.top_1_share == [4 / 8]
    assert found.distinct == [3]
    assert found.distinct_per_request == [2]
    assert found.distinct_per_step == [(1 + 2 + 2 + 2) / 4]
    assert found.repeated == [3 / 6]


def test_statistics_count_every_choice() -> None:
    both = np.concatenate([hand_worked(), np.full_like(hand_worked(), 4)], axis=-1)
    found = skew(both, experts=5)
    assert found.top_1_share == [8 / 16]
    assert found.distinct == [4]
    assert found.distinct_per_request == [3]
    assert found.repeated == [3 / 6]  # of the likeliest alone
