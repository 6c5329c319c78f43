"""Pre-gates: whose input decides for whom, and level 0 changes nothing."""

import copy

import pytest
import torch

from runtime.training.fit import Course, evaluate, fit
from runtime.training.look_ahead import look_ahead, share_named
from runtime.training.pre_gates import fine_tune, pre_gates, source
from runtime.training.text import Text, random_windows, windows
from schedules.errors import BadInput
from tests.runtime.training.small_models import SIZES, model, tokens

COURSE = Course(steps=4, rows=4, learning_rate=1e-2)
IDS = torch.arange(300) * 7 % SIZES.vocabulary
TEXT = Text(IDS, IDS[:50], SIZES.vocabulary, 300, "")


@pytest.mark.parametrize("level", range(SIZES.layers))
def test_each_block_has_one_gate_and_the_last_have_none(level: int) -> None:
    """The first `level` blocks keep theirs; block n names the experts of block n + level."""
    named = [source(block, level) for block in range(SIZES.layers)]
    assert named[:level] == list(range(level))
    assert named[level:] == list(range(SIZES.layers - level))
    if level:
        assert set(range(SIZES.layers - level, SIZES.layers)) & set(named[level:]) == set()


@pytest.mark.parametrize("top_k", [1, 2])
def test_level_0_is_the_original(top_k: int) -> None:
    small = model(top_k)
    assert torch.equal(small(tokens(), pre_gates(small, 0)).logits, small(tokens()).logits)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_experts_are_known_a_level_before(level: int) -> None:
    """The gates of block n + level read the input of block n, in the model that they change."""
    small = model(2)
    done = small(tokens(), pre_gates(small, level))
    for block in range(level, SIZES.layers):
        early = small.block(block).gate(done.gate_inputs[block - level])
        assert torch.equal(done.experts[block], early.topk(2).indices)
    assert not torch.equal(done.logits, small(tokens()).logits)


def test_untrained_pre_gates_agree_where_look_ahead_does() -> None:
    """Up to block 1 the hidden states are the original's, so the first share is the same."""
    small = model(2)
    taken, named = small(tokens()).experts[1], small(tokens(), pre_gates(small, 1)).experts[1]
    assert share_named(named, taken) == look_ahead(small, tokens())[1][0]


def test_fine_tuning_level_0_is_training_on() -> None:
    small = model()
    found = fine_tune(small, TEXT, 0, COURSE, seed=5)
    further = copy.deepcopy(small)
    fit(further, random_windows(TEXT.training, SIZES.context, COURSE.rows, 5), COURSE)
    rows = windows(TEXT.held_out, SIZES.context)
    assert (found.before, found.after) == (evaluate(small, rows), evaluate(further, rows))


@pytest.mark.parametrize("level", [1, 3])
def test_fine_tuning_lowers_the_loss_and_leaves_the_original(level: int) -> None:
    small = model()
    kept = copy.deepcopy(small.state_dict())
    found = fine_tune(small, TEXT, level, Course(20, 8, 1e-2), seed=0)
    assert found.level == level
    assert found.after < found.before
    assert all(torch.equal(value, kept[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("level", [-1, 4])
def test_level_is_below_the_number_of_layers(level: int) -> None:
    with pytest.raises(BadInput, match=f"level {level} is not from 0 to 3, for 4 layers"):
        pre_gates(model(), level)
