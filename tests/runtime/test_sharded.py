"""Shards: what the ranks compute adds up to what one rank computes."""

import pytest
import torch

from runtime.architecture import Architecture
from runtime.functions import head
from runtime.random_weights import RandomWeights
from runtime.sharded import Sharded
from runtime.weights import layer_weights
from runtime.workspace import Workspace
from schedules.errors import BadInput
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from tests.runtime.checkpoints import FAMILIES
from tests.runtime.layer_runs import hidden_states, one_rank, run_layer

SPLIT = [family for family in FAMILIES if family != "olmoe"]


def random_model(family):
    """Random weights of a tiny model in float32; norms and biases differ from 1 and 0."""
    config = {"model_type": family, "torch_dtype": "float32"} | FAMILIES[family]
    source = RandomWeights(ModelSpec.from_hf_config(config), std=0.2)
    generator = torch.Generator().manual_seed(5)
    for vector in source._vectors.values():
        vector.add_(0.3 * torch.randn(vector.shape, generator=generator))
    return source


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("family", SPLIT)
def test_sums_over_ranks_are_the_whole(family, world):
    """Two KV heads: with 4 ranks, two ranks share each of them."""
    source = random_model(family)
    arch = source.architecture
    for layer in range(arch.spec.n_layers):
        hidden = hidden_states(arch, seed=layer)
        shards = [Sharded(source, rank, world) for rank in range(world)]
        ranks = [(shard.architecture, layer_weights(shard, layer)) for shard in shards]
        chosen: list[list[torch.Tensor]] = [[], []]
        whole = run_layer(one_rank(source, layer), hidden, ids=chosen[0])
        parts = run_layer(ranks, hidden, ids=chosen[1])
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
        assert (whole - hidden).abs().max() > 0.1
        for ids in chosen[1]:
            assert torch.equal(ids, chosen[0][0])


@pytest.mark.parametrize("family", SPLIT)
def test_ranks_hold_every_element_once(family):
    source, world = random_model(family), 2
    shards = [Sharded(source, rank, world) for rank in range(world)]
    for name in ("q", "k", "v", "o", "gate", "up", "down"):
        parts = [shard.matrix(0, name) for shard in shards]
        whole = source.matrix(0, name)
        by_columns = parts[0].shape[0] == whole.shape[0]
        assert torch.equal(torch.cat(parts, dim=int(by_columns)), whole)
        assert all(part.untyped_storage().data_ptr() for part in parts)
        assert parts[0].data_ptr() == whole.data_ptr()  # a view, not a copy


@pytest.mark.parametrize("family", ["mixtral", "qwen3"])
def test_logits_of_the_ranks_are_side_by_side(family):
    source = random_model(family)
    arch, rows = source.architecture, hidden_states(source.architecture)
    ws, parts = Workspace.of_size(2**20), []
    for shard in (source, *(Sharded(source, rank, 4) for rank in range(4))):
        table = shard.head()
        logits = torch.empty(len(rows), len(table))
        head(shard.architecture, table, shard.final_norm(), rows, logits, ws)
        parts.append(logits)
    assert parts[1].shape[1] == arch.spec.vocab_size // 4
    torch.testing.assert_close(torch.cat(parts[1:], dim=1), parts[0])
    embedding = Sharded(source, 1, 2).embedding()
    assert embedding.data_ptr() == source.embedding().data_ptr()


@pytest.mark.parametrize(
    ("name", "rank", "world", "sentence"),
    [
        ("mixtral-8x7b", 2, 2, "rank 2 of 2"),
        ("mixtral-8x7b", -1, 2, "rank -1 of 2"),
        ("mixtral-8x7b", 0, 0, "rank 0 of 0"),
        ("mixtral-8x7b", 0, 3, "32 heads, which 3 GPUs"),
        ("qwen3-30b-a3b", 0, 64, "32 heads, which 64 GPUs"),
    ],
)
def test_what_cannot_be_split(name, rank, world, sentence):
    with pytest.raises(BadInput, match=sentence):
        Architecture.from_spec(load_model(name)).sharded(rank, world)


def test_a_norm_over_all_heads_cannot_be_split():
    source = random_model("olmoe")
    Sharded(source, 0, 1)
    with pytest.raises(BadInput, match="norm over all heads"):
        Sharded(source, 0, 2)
