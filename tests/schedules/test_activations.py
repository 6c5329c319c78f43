"""Buffers beside weights and cache: the workspace, by hand."""

from unittest.mock import patch

import pytest

from schedules.batch import CGOPipe, GPUOnly, ZeROInference
from tests.schedules.test_layout import model
from tests.strategies import WatchedIssuer


def workspace(lab, kind, **changes) -> int:
    with patch("sim.scenario.RecordingIssuer", WatchedIssuer):
        issuer = lab.build(kind, **changes).node.issuer
    (found,) = (b for b in issuer.buffers if b.kind == "workspace")
    return found.bytes


@pytest.mark.parametrize("kind", [CGOPipe, GPUOnly])
def test_logits_are_those_of_the_micro_batch_with_the_most_sequences(lab, kind):
    """Prompts of 50, and of 1, 1 and 1 tokens: the first has the widest layers, 50 tokens.

    The head has three positions of 100,000 logits, and normed hidden states of 50 x 12, 4 B each.
    """
    changes = {"n": 4, "mu": 3, "prompts": (50, 1, 1, 1), "model": model(vocab_size=100_000)}
    assert workspace(lab, kind, **changes) == 4 * (3 * 100_000 + 50 * 12)


def test_layers_are_those_of_the_widest_micro_batch(lab):
    """50 tokens with two choices of gate, up, product (3 x 8) and output (12), two hidden states.

    The dense layer 0 is wider: 3 x 28 + 12 for its one choice.
    """
    changes = {"n": 4, "mu": 3, "prompts": (50, 1, 1, 1), "model": model(), "layers": 3}
    assert workspace(lab, GPUOnly, **changes) == 4 * 50 * (3 * 28 + 12 + 2 * 12)
    narrow = model(first_dense_layers=0)
    assert workspace(lab, GPUOnly, **(changes | {"model": narrow})) == 4 * 50 * (
        2 * (3 * 8 + 12) + 2 * 12
    )


@pytest.mark.parametrize(("tied", "room"), [(False, 40 * 12), (True, 0)])
def test_zero_s_logits_use_the_embedding_s_place_unless_the_head_is_the_embedding(lab, tied, room):
    """40 logits of 4 + 4 B and 12 normed elements for 50 tokens; the embedding has 40 x 12."""
    spec = model(tied_embeddings=tied, vocab_size=40, head_dim=1, dense_ffn_size=1)
    spec = spec.model_copy(update={"expert_ffn_size": 1, "n_kv_heads": 1})
    changes = {"n": 1, "mu": 1, "prompts": (50,), "model": spec}
    assert workspace(lab, ZeROInference, **changes) == 50 * (40 * 8 + 12 * 4) - room * 4
