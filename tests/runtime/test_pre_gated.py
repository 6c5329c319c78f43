"""Pre-gated MoE changes the function: its tokens are those of a plain model changed alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.changes import GatesAhead
from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate, plain_logits
from schedules.errors import BadInput
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts, save_checkpoint
from tests.runtime.runs import policies, run

MOE = ("mixtral", "qwen2_moe", "olmoe")  # qwen2_moe: with a shared expert


@pytest.fixture(scope="module", params=MOE)
def source(request, tmp_path_factory):
    """A tiny checkpoint of each family."""
    return Checkpoint(save_checkpoint(tmp_path_factory.mktemp("model"), request.param))


def blocks(source):
    return sum(layer.is_moe for layer in source.architecture.spec.decoder_layers)


@settings(max_examples=8)
@given(data=st.data())
def test_tokens_and_logits_of_the_changed_model(source, data):
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5))
    gen_len = data.draw(st.integers(1, 4))
    policy = data.draw(policies("pre-gated", len(lengths), levels=max(1, blocks(source) - 1)))
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run("pre-gated", source, policy, prompts, gen_len)
    assert found.tokens == plain_generate(source, prompts, gen_len, change=GatesAhead(policy.level))
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        ids = [*prompt, *tokens[:-1]]
        expected = plain_logits(source, ids, GatesAhead(policy.level))[len(prompt) - 1 :]
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_it_is_another_function(source):
    """Or the test above would show nothing."""
    (ids,) = random_prompts([12])
    if blocks(source) > 1:
        assert not torch.equal(plain_logits(source, ids), plain_logits(source, ids, GatesAhead(1)))


def test_looking_ahead_further_than_the_model_goes(source):
    policy = make_policy({"N": 1, "mu": 1, "level": 3})
    if blocks(source) <= 3:
        with pytest.raises(BadInput, match="a pre-gate can look ahead by less than that"):
            run("pre-gated", source, policy, random_prompts([3]), 2)
