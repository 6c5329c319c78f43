"""Random weights: reproducible, all different, of the right size, and harmless in float16."""

import pytest
import torch

from runtime.architecture import Architecture
from runtime.architecture_shapes import matrix_shapes
from runtime.plain import plain_generate, plain_logits
from runtime.random_weights import BLOCK, RandomWeights
from schedules.errors import BadInput
from schedules.model import ModelSpec
from schedules.model_presets import load_model
from tests.runtime.checkpoints import FAMILIES, random_prompts
from tests.runtime.test_checkpoint import everything

TINY = {"n_layers": 2, "hidden_size": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
TINY |= {"vocab_size": 160, "expert_ffn_size": 96}


def tiny(name="mixtral-8x7b", **changes):
    return load_model(name).model_copy(update=TINY | changes)


def of_family(family):
    return ModelSpec.from_hf_config({"model_type": family} | FAMILIES[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_generates(family):
    source = RandomWeights(of_family(family), std=0.1)
    tokens = plain_generate(source, random_prompts([4, 6]), 5)
    assert [len(t) for t in tokens] == [5, 5]
    assert tokens[0] != tokens[1]


def test_the_seed_decides_everything():
    first, same, other = (everything(RandomWeights(tiny(), seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    drawn = [key for key in first if "norm" not in str(key)]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_no_two_matrices_and_no_two_rows_are_equal():
    made = everything(RandomWeights(tiny()))
    rows = [r for t in made.values() if t.dim() == 2 and t.shape[1] == 64 for r in t]
    head_is_embedding = made["head"].data_ptr() == made["embedding"].data_ptr()
    assert not head_is_embedding
    assert len({tuple(row[:8].tolist()) for row in rows}) == len(rows)


def test_rows_of_a_matrix_above_the_block_differ():
    spec = tiny(n_layers=1, vocab_size=20_000, hidden_size=256, dtype="bfloat16")
    table = RandomWeights(spec).embedding()
    assert table.numel() > 5 * BLOCK
    assert len({tuple(row[:8].tolist()) for row in table}) == len(table)
    assert table.float().std() == pytest.approx(0.02, rel=0.01)
    assert table.float().mean() == pytest.approx(0, abs=1e-4)
    rank = torch.linalg.matrix_rank(table[:256].double())
    assert rank == 256


def test_shared_layers_are_the_same_memory_and_kinds_stay_apart():
    spec = of_family("qwen2_moe")  # layers without, with, without and without experts
    apart, shared = RandomWeights(spec), RandomWeights(spec, shared=True)
    assert apart.matrix(0, "q").data_ptr() != apart.matrix(2, "q").data_ptr()
    owners = [shared.matrix(layer, "q").data_ptr() for layer in range(4)]
    assert owners[0] == owners[2] == owners[3] != owners[1]
    assert shared.matrix(1, "router").shape == (6, 64)
    assert shared.vector(1, "shared_expert_gate") is not None
    assert shared.vector(3, "shared_expert_gate") is None
    assert torch.equal(shared.matrix(3, "up"), shared.matrix(0, "up"))


def test_experts_lie_side_by_side():
    source = RandomWeights(tiny())
    for name, shape in matrix_shapes(source.architecture, 0).items():
        at = [source.matrix(0, name, e).data_ptr() for e in range(shape.stack)]
        size = shape.rows * shape.cols * source.architecture.dtype.itemsize
        assert at == [at[0] + e * size for e in range(shape.stack)]


def test_activations_stay_within_float16():
    spec = tiny(n_layers=12, hidden_size=1024, n_heads=8, n_kv_heads=2, head_dim=128)
    spec = spec.model_copy(update={"expert_ffn_size": 3584, "n_experts": 2, "vocab_size": 1000})
    spec = spec.model_copy(update={"dtype": "bfloat16"})  # float16 is slow on CPUs
    logits = plain_logits(RandomWeights(spec, shared=True), random_prompts([8])[0])
    assert logits.isfinite().all()
    assert logits.abs().max() < 1000


def test_an_architecture_keeps_its_ways():
    arch = Architecture.from_spec(tiny())
    assert RandomWeights(arch).architecture is arch
    with pytest.raises(BadInput, match="wrap them in Sharded"):
        RandomWeights(arch.sharded(0, 2))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "one"])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(BadInput, match="the seed of random weights is"):
        RandomWeights(tiny(), seed)
