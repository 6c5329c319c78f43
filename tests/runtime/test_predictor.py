"""The predictor goes on from what it has read: as the network that is trained does at once."""

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime.predictor
from runtime.predictor import Past, PredictorNetwork, choose
from runtime.training.predictor import new_predictor
from schedules.choices import SKIPPED
from schedules.expert.sida_predictor import LSTM_LAYERS, WIDTH

EMBEDDED, EXPERTS, LAYERS = 24, 5, 3


@pytest.fixture(scope="module")
def trained():
    """With torch's first weights, biases included, three times as large."""
    model = new_predictor(EMBEDDED, WIDTH, LAYERS, EXPERTS, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


def past_of(lengths):
    ends = list(accumulate(lengths))
    states = torch.full((2, LSTM_LAYERS, len(lengths), WIDTH), torch.nan)
    return Past(torch.full((ends[-1], WIDTH), torch.nan), [0, *ends[:-1]], states)


def read(network, parts, generator):
    """The embeddings of n sequences, of which each part has so many tokens, and their logits."""
    lengths = torch.tensor(parts).sum(dim=0).tolist()
    sequences = [torch.randn(n, EMBEDDED, generator=generator) for n in lengths]
    past, before = past_of(lengths), [0] * len(lengths)
    found = [[] for _ in sequences]
    for counts in parts:
        new = [s[n : n + c] for s, n, c in zip(sequences, before, counts, strict=True)]
        mixed = network.read(torch.cat(new), counts, before, past)
        logits = torch.stack([network.logits(layer, mixed) for layer in range(LAYERS)])
        for made, some in zip(found, logits.split(counts, dim=1), strict=True):
            made.append(some)
        before = [n + c for n, c in zip(before, counts, strict=True)]
    return sequences, [torch.cat(made, dim=1) for made in found]


@st.composite
def parts(draw):
    """Prompts of any lengths, then a few parts with one or more tokens of every sequence."""
    prompts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    some = st.lists(st.integers(1, 3), min_size=len(prompts), max_size=len(prompts))
    return [prompts, *draw(st.lists(some, max_size=4))]


@settings(max_examples=25)
@given(parts=parts(), seed=st.integers(0, 99))
@torch.no_grad()
def test_reading_in_parts_is_reading_at_once(trained, parts, seed):
    network = PredictorNetwork(trained.state_dict())
    sequences, found = read(network, parts, torch.Generator().manual_seed(seed))
    for sequence, ours in zip(sequences, found, strict=True):
        assert torch.allclose(ours, trained(sequence[None]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_in_chunks(trained, monkeypatch):
    """Scores of one query at a time, as for prompts of thousands of tokens of a few."""
    network = PredictorNetwork(trained.state_dict())
    monkeypatch.setattr(runtime.predictor, "SCORES", 1)
    ((sequence,), (chunked,)) = read(network, [[9]], torch.Generator().manual_seed(0))
    assert torch.allclose(chunked, trained(sequence[None]), atol=1e-5)


@torch.no_grad()
def test_embeddings_in_half_precision_are_read_in_float32(trained):
    network, rows = PredictorNetwork(trained.state_dict()), torch.randn(4, EMBEDDED).bfloat16()
    halves = network.read(rows, [4], [0], past_of([4]))
    assert halves.dtype == torch.float32
    assert torch.equal(halves, network.read(rows.float(), [4], [0], past_of([4])))


# -- choices ---------------------------------------------------------------------------------------


def arch(top_k, gate_norm=None, dtype=torch.float32, skip_below=0.0):
    spec = SimpleNamespace(top_k=top_k, skip_below=skip_below)
    return SimpleNamespace(spec=spec, gate_norm=gate_norm, dtype=dtype)


LOGITS = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 2.0]]).log()  # probabilities 3/4, 1/4; 1/2, 1/2


def test_one_expert_weighs_its_probability():
    ids, weights = choose(arch(1), LOGITS[:1])
    assert (ids.tolist(), weights.tolist()) == ([[1]], [[pytest.approx(0.75)]])


def test_several_are_normalised_where_the_router_does():
    logits = torch.tensor([[1.0, 5.0, 2.0]]).log()
    ids, weights = choose(arch(2), logits)
    assert ids.tolist() == [[1, 2]]
    assert weights[0].tolist() == pytest.approx([5 / 8, 2 / 8])
    assert choose(arch(2, 1.0), logits)[1][0].tolist() == pytest.approx([5 / 7, 2 / 7])


def test_choices_of_little_weight_are_skipped_where_the_model_skips_them():
    """2 is below half of 5, and not below a third."""
    logits = torch.tensor([[1.0, 5.0, 2.0]]).log()
    ids, weights = choose(arch(2, 1.0, skip_below=0.5), logits)
    assert ids.tolist() == [[1, SKIPPED]]
    assert weights[0].tolist() == pytest.approx([1, 0])
    assert choose(arch(2, 1.0, skip_below=1 / 3), logits)[0].tolist() == [[1, 2]]


def test_weights_have_the_model_s_format():
    assert choose(arch(2, dtype=torch.bfloat16), LOGITS)[1].dtype == torch.bfloat16
