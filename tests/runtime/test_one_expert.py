"""One expert after another is the same as all at once."""

import pytest
import torch

from runtime.functions import experts
from runtime.functions.norms import norm
from runtime.functions.one_expert import add_expert
from runtime.random_weights import RandomWeights
from runtime.weights import layer_weights
from runtime.workspace import Workspace
from schedules.model_presets import load_model

TOKENS, TOP_K = 9, 2


@pytest.fixture(scope="module")
def weights():
    spec = load_model("mixtral-8x7b").with_layers(1)
    changes = {"dtype": "float32", "hidden_size": 48, "expert_ffn_size": 40, "head_dim": 12}
    return RandomWeights(spec.model_copy(update=changes), std=0.3)


@pytest.mark.parametrize("room", [1 << 20, 1 << 10])
@pytest.mark.parametrize("normed_before", [True, False])
def test_all_experts_one_by_one(weights, room, normed_before):
    """Also where the workspace has room for two or three tokens at a time."""
    arch, w = weights.architecture, layer_weights(weights, 0)
    scale = 0.5 + torch.rand(48)
    hidden = torch.randn(TOKENS, 48)
    normed = torch.empty_like(hidden)
    norm(arch, hidden, scale, normed)
    ids = torch.rand(TOKENS, 8).argsort(dim=1)[:, :TOP_K].contiguous()
    gates = torch.rand(TOKENS, TOP_K)
    wanted, found = torch.ones_like(hidden), torch.ones_like(hidden)
    experts(arch, w, normed, ids, gates, wanted, Workspace.of_size(1 << 20))
    source, own = (normed, None) if normed_before else (hidden, scale)
    for expert in range(8):
        tokens, place = torch.where(ids == expert)
        weigh = gates[tokens, place].unsqueeze(1)
        ws = Workspace.of_size(room)
        add_expert(arch, w, expert, source, tokens, weigh, found, ws, own)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, torch.ones_like(found), atol=0.1)
