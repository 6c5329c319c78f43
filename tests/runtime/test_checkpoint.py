"""Weights of a checkpoint: the right ones, where they lie in the files, in the run's dtype."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.architecture_shapes import matrix_shapes, vector_sizes
from runtime.checkpoint import Checkpoint, check_finite, is_finite
from runtime.plain import plain_logits
from runtime.random_weights import RandomWeights
from runtime.sharded import Sharded
from runtime.weights import layer_weights
from schedules.errors import BadInput
from schedules.model_presets import load_model
from tests.runtime.checkpoints import FAMILIES, random_prompts, save_checkpoint

PROMPT = random_prompts([9])[0]


def everything(source):
    """All tensors of a source by what they are."""
    arch = source.architecture
    made = {"embedding": source.embedding(), "head": source.head(), "norm": source.final_norm()}
    for layer in range(arch.spec.n_layers):
        for name, shape in matrix_shapes(arch, layer).items():
            for expert in range(shape.stack):
                made[layer, name, expert] = source.matrix(layer, name, expert)
        for name in vector_sizes(arch, layer):
            made[layer, name] = source.vector(layer, name)
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_every_form_of_a_checkpoint_holds_the_same_weights(family, tmp_path):
    usual = Checkpoint(save_checkpoint(tmp_path / "usual", family))
    forms = [save_checkpoint(tmp_path / "sharded", family, sharded=True)]
    forms.append(save_checkpoint(tmp_path / "fused", family, fused=True))
    assert len(list(forms[0].glob("*.safetensors"))) > 1
    wanted = everything(usual)
    for folder in forms:
        got = everything(Checkpoint(folder))
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_and_vectors_are_the_architecture_s(family, tmp_path):
    source = Checkpoint(save_checkpoint(tmp_path, family))
    arch, named = source.architecture, 0
    for layer in range(arch.spec.n_layers):
        for name, shape in matrix_shapes(arch, layer).items():
            for expert in range(shape.stack):
                assert source.matrix(layer, name, expert).shape == shape[1:]
        sizes = vector_sizes(arch, layer)
        for name in ("attn_norm", "q_norm", "q_bias", "o_bias", "shared_expert_gate"):
            vector = source.vector(layer, name)
            assert (None if vector is None else vector.shape) == (
                (sizes[name],) if name in sizes else None
            )
            named += vector is not None
    assert named >= arch.spec.n_layers
    tied = source.head().data_ptr() == source.embedding().data_ptr()
    assert tied == arch.spec.tied_embeddings


def test_the_output_head_of_a_tied_model_may_be_stored_too(tmp_path):
    folder = save_checkpoint(tmp_path, "llama", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    source = Checkpoint(folder)
    assert source.head() is source.embedding()


def mapped_file(tensor):
    """The file that the memory of a tensor is mapped from, by the system's own table."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(edge, 16) for edge in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < stop:
            return line.split()[-1]
    return None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's memory map")
@pytest.mark.parametrize("form", [{}, {"sharded": True}, {"fused": True}])
@pytest.mark.parametrize("family", ["mixtral", "dbrx", "qwen2_moe"])
def test_weights_are_the_files_memory(family, form, tmp_path):
    source = Checkpoint(save_checkpoint(tmp_path, family, **form))
    whole, shard = everything(source), everything(Sharded(source, 1, 2))
    for tensor in (*whole.values(), *shard.values()):
        assert mapped_file(tensor).startswith(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's counters")
def test_reading_everything_takes_no_memory_of_its_own(tmp_path):
    def anonymous_bytes():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    large = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8000}
    folder = save_checkpoint(tmp_path, "mixtral", fused=True, **large)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 100e6
    before = anonymous_bytes()
    source = Checkpoint(folder)
    check_finite(source)
    assert anonymous_bytes() - before < size / 5


def test_neighbouring_experts_are_one_piece(tmp_path):
    fused = layer_weights(Checkpoint(save_checkpoint(tmp_path / "a", "mixtral", fused=True)), 0)
    dbrx = layer_weights(Checkpoint(save_checkpoint(tmp_path / "b", "dbrx")), 0)
    apart = layer_weights(Checkpoint(save_checkpoint(tmp_path / "c", "mixtral")), 0)
    assert [len(fused.matrices[n]) for n in ("gate", "up", "down")] == [4, 4, 1]
    assert [len(dbrx.matrices[n]) for n in ("gate", "up", "down", "q")] == [1, 1, 1, 1]
    assert len(apart.matrices["gate"]) == 4
    copied = layer_weights(Checkpoint(tmp_path / "a"), 0, "cpu")
    assert [len(copied.matrices[n]) for n in ("gate", "up", "down")] == [1, 1, 1]
    views = torch.cat([p.tensor for p in fused.matrices["up"]])
    assert torch.equal(copied.matrices["up"][0].tensor, views)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_another_dtype_is_converted(dtype, tmp_path):
    folder = save_checkpoint(tmp_path, "qwen2_moe", dtype=torch.bfloat16)
    stored, source = Checkpoint(folder), Checkpoint(folder, dtype)
    assert stored.architecture.spec.dtype == "bfloat16"
    wanted = getattr(torch, dtype)
    assert source.architecture.dtype == wanted
    got = everything(source)
    for key, tensor in everything(stored).items():
        assert got[key].dtype == wanted
        assert torch.equal(got[key], tensor.to(wanted))


def test_what_float16_cannot_hold_is_not_cut_off(tmp_path):
    folder = save_checkpoint(tmp_path, "llama", dtype=torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 4] = 70_000.0
    save_file(tensors, folder / "model.safetensors")
    Checkpoint(folder, "float32")
    with pytest.raises(BadInput, match=f"{name} has values above 65504.* run it in bfloat16"):
        Checkpoint(folder, "float16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_found(value, tmp_path):
    folder = save_checkpoint(tmp_path, "qwen3_moe", dtype=torch.bfloat16)
    source = Checkpoint(folder)
    check_finite(source)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.2.mlp.experts.5.down_proj.weight"
    tensors[name][-1, -1] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadInput, match=rf"model\.safetensors: {name} holds values"):
        check_finite(Checkpoint(folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_tensors(dtype):
    largest = torch.finfo(dtype).max
    for size in (1, 63, 1000):
        tensor = torch.full((size,), largest, dtype=dtype)
        assert is_finite(tensor)
        for value in (float("nan"), float("inf"), -float("inf")):
            for at in {0, size // 2, size - 1}:
                broken = tensor.clone()
                broken[at] = value
                assert not is_finite(broken)


def test_other_sources_are_checked_too():
    tiny = {"n_layers": 2, "hidden_size": 16, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8}
    tiny |= {"vocab_size": 32, "expert_ffn_size": 8}
    source = RandomWeights(load_model("mixtral-8x7b").model_copy(update=tiny))
    check_finite(source)
    source.matrix(1, "up", 3)[0, 0] = float("nan")
    with pytest.raises(BadInput, match="up of layer 1 holds values"):
        check_finite(source)


def test_extra_tensors_are_ignored(tmp_path):
    folder = save_checkpoint(tmp_path, "llama")
    before = plain_logits(Checkpoint(folder), PROMPT)
    tensors = load_file(folder / "model.safetensors")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8, dtype=torch.int8)}
    save_file(tensors | extra, folder / "model.safetensors")
    assert torch.equal(plain_logits(Checkpoint(folder), PROMPT), before)
