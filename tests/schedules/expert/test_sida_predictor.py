"""SiDA's predictor: its sizes and work, counted by hand."""

import pytest

from schedules.batching import MicroBatch
from schedules.expert.sida_predictor import HashFunction
from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model_presets import load_model
from schedules.routing import Routing


@pytest.fixture
def predictor() -> HashFunction:
    """Switch-Base-128: h = 768, 128 experts, six layers of each stack, 4 B."""
    model = load_model("switch-base-128")
    layers = [s for s in (*model.encoder_layers, *model.decoder_layers) if s.is_moe]
    return HashFunction(LayerWork(model, Routing(), Kernels()), layers)


COMPRESSION = 768 * 256 + 256
LSTM = 4 * 256 * 512 + 2 * 4 * 256  # a layer: four gates of input and state, two biases
RESIDUAL = 256 * 256 + 256
HEAD = 256 * 128 + 128


def test_parameters(predictor):
    assert predictor.trunk_parameters == COMPRESSION + 2 * LSTM + RESIDUAL
    assert predictor.parameters == predictor.trunk_parameters + 12 * HEAD == 1_710_080
    assert predictor.weight_bytes == (1_710_080 + 32_128 * 768) * 4


def test_a_prompt(predictor):
    """Two prompts of 3 and 5 tokens: five steps, in four of which the recurrence is read again."""
    work = predictor.read_prompts(MicroBatch(0, (3, 5)))
    dense = 2 * (768 * 256 + 2 * 4 * 256 * 512 + 256 * 256)
    assert work.flops == {"gemm": 8 * dense, "attention": (9 + 25) * 2 * 2 * 256}
    weights = COMPRESSION + 2 * LSTM + RESIDUAL + 4 * 2 * 4 * 256 * 256
    assert work.bytes == {"cpu": 4 * (weights + 8 * (768 + 512) + 8 * 256)}
    assert (work.device, work.dtype, work.calls) == ("cpu", "float32", 1)


def test_a_token_of_each_sequence(predictor):
    """Two tokens, which look at ten that were read before, themselves included."""
    work = predictor.read_tokens(2, 10)
    dense = 2 * (768 * 256 + 2 * 4 * 256 * 512 + 256 * 256)
    assert work.flops == {"gemm": 2 * dense, "attention": 10 * 1_024}
    weights = COMPRESSION + 2 * LSTM + RESIDUAL
    assert work.bytes == {"cpu": 4 * (weights + 2 * (768 + 512) + 10 * 256)}


def test_a_head(predictor):
    """Ids of 8 B and factors of 4 B come out."""
    work = predictor.head(predictor.layers[0], 3)
    assert work.flops == {"gemm": 3 * 2 * 256 * 128}
    assert work.bytes == {"cpu": 4 * (HEAD + 3 * 256) + 3 * (8 + 4)}


def test_state_and_table(predictor):
    """LSTM outputs of ten tokens; state and cell of two sequences and two layers; six newest."""
    assert predictor.state_bytes(10, 2, 6) == 4 * 256 * (10 + 2 * 2 * 2 + 6)
    assert predictor.table_bytes(10) == 12 * 10 * (8 + 4)


def test_of_a_model_in_half_precision():
    """Mixtral: embeddings of 4096 and factors have 2 B, all else has 4 B."""
    model = load_model("mixtral-8x7b")
    half = HashFunction(LayerWork(model, Routing(), Kernels()), model.decoder_layers)
    trunk = 4_096 * 256 + 256 + 2 * LSTM + RESIDUAL
    assert half.weight_bytes == 4 * half.parameters + 2 * model.embedding_parameters
    work = half.read_tokens(2, 10)
    assert work.bytes == {"cpu": 4 * (trunk + 2 * 512 + 10 * 256) + 2 * 2 * 4_096}
    head = half.head(model.decoder_layers[0], 3)
    assert head.bytes == {"cpu": 4 * (256 * 8 + 8 + 3 * 256) + 3 * 2 * (8 + 2)}
    assert (work.dtype, head.dtype) == ("float32", "float32")


def test_the_same_work_is_the_same_object(predictor):
    assert predictor.read_tokens(2, 10) is predictor.read_tokens(2, 10)
    layer = predictor.layers[0]
    assert predictor.head(layer, 2) is predictor.head(layer, 2)
