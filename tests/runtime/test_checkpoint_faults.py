"""Broken checkpoints: one sentence with the file and the tensor."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.checkpoint import Checkpoint
from schedules.errors import BadInput
from tests.runtime.checkpoints import save_checkpoint

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint in one file and the same in shards, not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    save_checkpoint(folder / "single", "mixtral")
    save_checkpoint(folder / "sharded", "mixtral", sharded=True)
    return folder


@pytest.fixture
def single(saved, tmp_path):
    return shutil.copytree(saved / "single", tmp_path / "single")


@pytest.fixture
def sharded(saved, tmp_path):
    return shutil.copytree(saved / "sharded", tmp_path / "sharded")


def refused(folder):
    """What is said of the folder: one line."""
    with pytest.raises(BadInput) as error:
        Checkpoint(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder, make):
    """Applies `make` to the tensors of the single file."""
    tensors = load_file(folder / FILE)
    make(tensors)
    save_file(tensors, folder / FILE)


def change_index(folder, make):
    index = json.loads((folder / INDEX).read_text())
    make(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_no_weights(single):
    (single / FILE).unlink()
    assert refused(single) == (
        f"{single} has no weights; it must hold {FILE}, or {INDEX} and its shards"
    )
    (single / "pytorch_model.bin").touch()
    assert refused(single).startswith(f"{single} has its weights in pytorch_model.bin; ")


@pytest.mark.parametrize("size", [0, 5, 100, -1, -1000])
def test_a_truncated_file(size, single):
    content = (single / FILE).read_bytes()
    (single / FILE).write_bytes(content[:size])
    assert refused(single).startswith(f"{single / FILE} is truncated, or no safetensors file (")


@pytest.mark.parametrize("header", [b"\xff" * 8, b"\x10" + b"\0" * 7 + b"not json, is it?"])
def test_a_broken_header(header, single):
    content = (single / FILE).read_bytes()
    (single / FILE).write_bytes(header + content[len(header) :])
    assert refused(single).startswith(f"{single / FILE} is truncated, or no safetensors file (")


def test_a_truncated_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    assert refused(sharded).startswith(f"{shard} is truncated, or no safetensors file (")


def test_a_missing_tensor(single):
    name = "model.layers.1.self_attn.k_proj.weight"
    change(single, lambda tensors: tensors.pop(name))
    assert refused(single) == f"{single}: tensor {name} is missing"


def test_a_missing_expert(single):
    name = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    change(single, lambda tensors: tensors.pop(name))
    assert refused(single) == f"{single}: tensor {name} is missing"


def test_a_missing_head(single):
    change(single, lambda tensors: tensors.pop("lm_head.weight"))
    assert refused(single) == f"{single}: tensor lm_head.weight is missing"


def test_a_wrong_shape(single):
    name = "model.layers.0.block_sparse_moe.experts.2.w1.weight"

    def cut(tensors):
        tensors[name] = tensors[name][:-1].contiguous()

    change(single, cut)
    assert refused(single) == (
        f"{single / FILE}: {name} has shape [95, 64]; by config.json it must be [96, 64]"
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float64, torch.float8_e4m3fn])
def test_a_quantised_or_odd_dtype(dtype, single):
    name = "model.layers.1.self_attn.o_proj.weight"

    def convert(tensors):
        tensors[name] = tensors[name].to(dtype)

    change(single, convert)
    sentence = refused(single)
    assert sentence.startswith(f"{single / FILE}: {name} is stored as ")
    assert sentence.endswith("; weights must be F16, BF16 or F32, not quantised")


def test_a_missing_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[0]
    shard.unlink()
    assert refused(sharded) == (
        f"{sharded / INDEX}: it lists '{shard.name}', which is not in this folder"
    )


def test_an_index_that_points_to_the_wrong_shard(sharded):
    names = sorted(p.name for p in sharded.glob("*.safetensors"))
    tensor = "model.embed_tokens.weight"

    def move(index):
        here = index["weight_map"][tensor]
        index["weight_map"][tensor] = next(name for name in names if name != here)

    change_index(sharded, move)
    assert refused(sharded).startswith(f"{sharded / INDEX}: it places {tensor} in model-0")
    assert refused(sharded).endswith("which does not have it")


@pytest.mark.parametrize("name", ["../sharded/model.safetensors", "/etc/hostname", "..", ""])
def test_an_index_that_leaves_the_folder(name, sharded):
    change_index(sharded, lambda index: index["weight_map"].update({"lm_head.weight": name}))
    assert refused(sharded) == f"{sharded / INDEX}: it lists {name!r}, which is not in this folder"


@pytest.mark.parametrize("index", ["", "{", "[]", "{}", '{"weight_map": {}}', "[" * 10**5])
def test_a_broken_index(index, sharded):
    (sharded / INDEX).write_text(index)
    assert refused(sharded).startswith(str(sharded / INDEX))


def test_an_index_with_wrong_values(sharded):
    change_index(sharded, lambda index: index["weight_map"].update({"lm_head.weight": 3}))
    assert refused(sharded) == (
        f"{sharded / INDEX}: the file of lm_head.weight is 3; it must be a name"
    )
