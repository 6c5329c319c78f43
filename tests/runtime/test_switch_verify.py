"""`verify` with a model that has an encoder: both references, right tokens and a wrong one."""

import pytest

from runtime.checkpoint import Checkpoint
from runtime.journal import Finished
from runtime.plain_encoder_decoder import generate
from runtime.verify import plain_reference, transformers_reference, verify
from tests.runtime.checkpoints import random_prompts, save_switch

PROMPTS = random_prompts([5, 12, 1])
GEN_LEN = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Experts of the decoder would overflow if its tokens were read in one pass."""
    changes = {"expert_capacity": 2, "num_experts": 2, "tie_word_embeddings": False}
    return save_switch(tmp_path_factory.mktemp("model"), **changes)


@pytest.mark.parametrize("name", ["transformers", "plain"])
def test_right_tokens_and_a_wrong_one(folder, name):
    source = Checkpoint(folder)
    made = (
        transformers_reference(folder, "float32")
        if name == "transformers"
        else plain_reference(source)
    )
    tokens = generate(source, PROMPTS, GEN_LEN)
    for wrong in (None, 0, 3):
        told = [list(answer) for answer in tokens]
        if wrong is not None:
            told[1][wrong] = (told[1][wrong] + 1) % source.architecture.spec.vocab_size
        finished = [Finished(i, tuple(answer), "length") for i, answer in enumerate(told)]
        found = verify(made, PROMPTS, finished, GEN_LEN, (), "float32")
        assert found.ok == (wrong is None)
        if wrong is not None:
            first = found.differences[0]
            assert (first.index, first.position, first.reference) == (1, wrong, tokens[1][wrong])
