"""The plain form of HOBBIT, token by token and choice by choice."""

import pytest
import torch

from runtime.changes import change_of
from runtime.changes_hobbit import MixedPrecision, through_4_bits
from runtime.checkpoint import Checkpoint
from runtime.functions import route
from runtime.plain import Plain, plain_logits
from schedules.errors import BadInput
from schedules.expert.hobbit import HOBBIT
from schedules.expert.hobbit_stores import Wanted
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts, save_checkpoint

GROUP = 16  # divides rows of 64 and of 96 elements an even number of times


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    shape = {"num_local_experts": 6, "num_experts_per_tok": 3}
    return Checkpoint(save_checkpoint(tmp_path_factory.mktemp("model"), "mixtral", **shape))


def test_four_bits_by_hand():
    """Whole numbers from -7 to 7 times a scale: 1 for the first eight, 0.5 for the others."""
    row = [7.0, -7, 3.4, 3.6, 0, -0.4, 1, -1, 3.5, -3.5, 1.3, 0.2, 0.3, 0, 0, 1]
    expected = [7.0, -7, 3, 4, 0, 0, 1, -1, 3.5, -3.5, 1.5, 0, 0.5, 0, 0, 1]
    assert through_4_bits(torch.tensor([row]), 8).tolist() == [expected]


def expert(source, layer, number, low, x):
    """down(silu(gate x) * (up x)), of matrices as they are or as they are after 4 bits."""
    matrices = [source.matrix(layer, name, number) for name in ("gate", "up", "down")]
    gate, up, down = (through_4_bits(m, GROUP) for m in matrices) if low else matrices
    return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))


@torch.inference_mode()
def test_a_block_choice_by_choice(source):
    """Experts 0 and 2 as they are, 1 and 5 in 4 bits, 3 and 4 skipped; weights stay."""
    layer, prompts = 1, random_prompts([9])
    wanted = Wanted([0, 2], [1, 5])
    plain = Plain(source, [9], 0, MixedPrecision({(0, 0): wanted, (0, layer): wanted}))
    plain.change.begin(plain, torch.tensor(prompts[0]), torch.arange(9))
    hidden = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    normed, ids, gates = (
        part.clone() for part in route(plain.arch, plain.layers[layer], hidden, plain.workspace)
    )
    expected = hidden.clone()
    for row, (x, chosen, weights) in enumerate(zip(normed, ids.tolist(), gates, strict=True)):
        for number, weight in zip(chosen, weights, strict=True):
            if number in (0, 1, 2, 5):
                expected[row] += weight * expert(source, layer, number, number in (1, 5), x)
    assert {*ids.ravel().tolist()} == {*range(6)}
    plain.change.ffn(plain, layer, hidden)
    assert (hidden - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_steps_of_a_sequence_that_is_read_at_once(source):
    """What a later step skips does not touch the tokens before it."""
    ids = random_prompts([7])[0]
    every = Wanted([*range(6)], [])
    decisions = {(step, layer): every for step in range(4) for layer in range(2)}
    same = plain_logits(source, ids, MixedPrecision(decisions, prompt_tokens=4))
    assert (same - plain_logits(source, ids)).abs().max() <= 1e-5 * same.abs().max()
    other = {**decisions, (2, 0): Wanted([], [0, 1, 2])}
    changed = plain_logits(source, ids, MixedPrecision(other, prompt_tokens=4))
    assert torch.equal(changed[:5], same[:5])  # four of the prompt, and the one of step 1
    assert not torch.isclose(changed[5], same[5], rtol=1e-3).all()


def test_a_policy_says_too_little():
    """What the caches held is known after a run alone."""
    with pytest.raises(BadInput, match="give the decisions of a run"):
        change_of(HOBBIT, make_policy({"N": 1, "mu": 1}))
