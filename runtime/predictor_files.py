"""Weights of SiDA's predictor: their names and shapes, the file that holds them, random ones.

The file is a safetensors file in float32 with, for a model of width h with E experts and H = 256:

====================================================  ==============
`compression.weight`, `.bias`                         (H, h), (H,)
`lstm.weight_ih_l0`, `.weight_hh_l0`, and of `l1`     (4 H, H)
`lstm.bias_ih_l0`, `.bias_hh_l0`, and of `l1`         (4 H,)
`residual.weight`, `.bias`                            (H, H), (H,)
`heads.N.weight`, `.bias`                             (E, H), (E,)
====================================================  ==============

There is a head for each layer with experts; N is its number: decoder layers from 0, then the
encoder's (see `schedules.layout`). The gates of the LSTM follow one another as torch has them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.files import replaced
from runtime.predictor import PredictorNetwork
from runtime.random_weights import STD
from schedules.errors import BadInput
from schedules.expert.sida_predictor import LSTM_LAYERS, WIDTH
from schedules.model import ModelSpec


def predicted_layers(model: ModelSpec) -> list[int]:
    """The numbers of the layers with experts."""
    return sorted(s.number for s in (*model.decoder_layers, *model.encoder_layers) if s.is_moe)


def predictor_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """All weights by name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    linear("compression", WIDTH, model.hidden_size)
    for kind in (f"{side}_l{i}" for i in range(LSTM_LAYERS) for side in ("ih", "hh")):
        shapes[f"lstm.weight_{kind}"] = (4 * WIDTH, WIDTH)
        shapes[f"lstm.bias_{kind}"] = (4 * WIDTH,)
    linear("residual", WIDTH, WIDTH)
    for number in predicted_layers(model):
        linear(f"heads.{number}", model.n_experts, WIDTH)
    return shapes


def random_predictor(model: ModelSpec, seed: int) -> PredictorNetwork:
    """Random weights under which choices differ from token to token; biases are 0.

    Embeddings with a deviation of `STD`, as models begin with, are compressed to numbers about 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.zeros(shape)
        values = torch.randn(shape, generator=generator) * shape[1] ** -0.5
        return values / STD if name.startswith("compression") else values

    shapes = predictor_shapes(model)
    return PredictorNetwork({name: drawn(name, shape) for name, shape in shapes.items()})


def numbered(weights: Mapping[str, Tensor], numbers: Sequence[int]) -> dict[str, Tensor]:
    """Weights of `runtime.training.predictor`, whose heads count from 0, with the layers' numbers.

    >>> list(numbered({"heads.0.bias": torch.zeros(8), "residual.bias": torch.zeros(4)}, [3]))
    ['heads.3.bias', 'residual.bias']
    """

    def name(key: str) -> str:
        part, _, rest = key.partition(".")
        head, _, kind = rest.partition(".")
        return f"heads.{numbers[int(head)]}.{kind}" if part == "heads" else key

    return {name(key): tensor for key, tensor in weights.items()}


def write_predictor(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the file; it is there whole or not at all."""
    made = {name: tensor.detach().float().contiguous() for name, tensor in weights.items()}
    with replaced(path) as partial:
        save_file(made, partial)


def read_predictor(path: Path, model: ModelSpec) -> PredictorNetwork:
    """The predictor of a file. Raises `BadInput` for a file that is none, or not this model's."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"the predictor '{path}' cannot be read: {error}") from None
    _check(path, weights, model)
    return PredictorNetwork({name: tensor.float() for name, tensor in weights.items()})


def predictor_identity(path: Path) -> str:
    """SHA-256 of the file. Raises `BadInput` when it cannot be read."""
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise BadInput(f"the predictor '{path}' cannot be read: {error.strerror}") from None


def _check(path: Path, weights: Mapping[str, Tensor], model: ModelSpec) -> None:
    """Every tensor is there, has its shape and is finite, and there is no other."""
    shapes = predictor_shapes(model)
    for name, shape in shapes.items():
        tensor = weights.get(name)
        if tensor is None:
            raise BadInput(f"the predictor '{path}' has no {name}, which {model.name} needs")
        if tuple(tensor.shape) != shape:
            raise BadInput(
                f"the predictor '{path}': {name} has shape {list(tensor.shape)}; for {model.name} "
                f"it must be {list(shape)}"
            )
        if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise BadInput(f"the predictor '{path}': {name} holds what is no finite number")
    for name in weights:
        if name not in shapes:
            raise BadInput(f"the predictor '{path}' has {name}, for which {model.name} has no use")
