"""The file of a predictor: what is in it, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from runtime.predictor import check_predictor
from runtime.predictor_files import (
    predicted_layers,
    predictor_identity,
    predictor_shapes,
    random_predictor,
    read_predictor,
    write_predictor,
)
from schedules.batching import MicroBatch
from schedules.errors import BadInput
from schedules.expert.sida import SiDA
from schedules.expert.sida_predictor import HashFunction
from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.schedule import find_schedule


@pytest.fixture(scope="module")
def model():
    """Mixtral's first two layers: 4096 wide, 8 experts."""
    return load_model("mixtral-8x7b").with_layers(2)


@pytest.fixture(scope="module")
def weights(model):
    return random_predictor(model, 3).weights


@pytest.mark.parametrize("name", ["mixtral-8x7b", "switch-base-128", "opt-6.7b"])
def test_the_simulator_counts_the_same_numbers(name):
    spec = load_model(name)
    layers = [s for s in (*spec.encoder_layers, *spec.decoder_layers) if s.is_moe]
    counted = HashFunction(LayerWork(spec, Routing(), Kernels()), layers)
    shapes = predictor_shapes(spec)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == counted.parameters
    assert counted.read_prompts(MicroBatch(0, (2,))).dtype == "float32"


def test_layers_have_the_numbers_of_the_model():
    """Switch-Base: every second of 12 decoder layers, then of 12 encoder layers."""
    assert predicted_layers(load_model("switch-base-8")) == list(range(1, 24, 2))


def test_written_and_read(model, weights, tmp_path):
    path = tmp_path / "predictor.safetensors"
    write_predictor(weights, path)
    found = read_predictor(path, model).weights
    assert found.keys() == weights.keys() == predictor_shapes(model).keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_random_ones_follow_the_seed(model, weights):
    again, other = (random_predictor(model, seed).weights for seed in (3, 4))
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert not torch.equal(other["heads.1.weight"], weights["heads.1.weight"])


def test_identity(tmp_path):
    first, copy, other = (tmp_path / name for name in "abc")
    for path, text in ((first, b"x"), (copy, b"x"), (other, b"y")):
        path.write_bytes(text)
    assert predictor_identity(first) == predictor_identity(copy) != predictor_identity(other)
    with pytest.raises(BadInput, match="d' cannot be read: No such file"):
        predictor_identity(tmp_path / "d")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("heads.1.bias", None, "has no heads.1.bias, which mixtral-8x7b.* needs"),
        ("heads.2.bias", torch.zeros(8), "has heads.2.bias, for which mixtral-8x7b.* has no use"),
        (
            "compression.weight",
            torch.zeros(64, 64),
            r"compression.weight has shape \[64, 64\]; for .* it must be \[256, 4096\]",
        ),
        ("residual.bias", torch.full((256,), torch.nan), "residual.bias holds what is no finite"),
        ("residual.bias", torch.zeros(256, dtype=torch.int64), "residual.bias holds what is no"),
    ],
)
def test_another_model_s_predictor(model, weights, tmp_path, name, tensor, complaint):
    changed = {key: value for key, value in weights.items() if key != name}
    path = tmp_path / "p.safetensors"
    save_file(changed if tensor is None else changed | {name: tensor}, path)
    with pytest.raises(BadInput, match=complaint):
        read_predictor(path, model)


def test_no_file_and_a_broken_one(model, tmp_path):
    with pytest.raises(BadInput, match=r"'.*none' cannot be read: "):
        read_predictor(tmp_path / "none", model)
    (tmp_path / "broken").write_bytes(b"no safetensors")
    with pytest.raises(BadInput, match="broken' cannot be read: "):
        read_predictor(tmp_path / "broken", model)


def test_who_needs_one(model):
    found = random_predictor(model, 0)
    check_predictor(SiDA, found)
    check_predictor(find_schedule("on-demand"), None)
    with pytest.raises(BadInput, match="'sida' needs a trained predictor"):
        check_predictor(SiDA, None)
    with pytest.raises(BadInput, match="'on-demand' has no use for a predictor"):
        check_predictor(find_schedule("on-demand"), found)
