"""Verification by a run's own decisions, which experts ran in 4 bits and which were skipped."""

import pytest

from runtime.batches import Batch
from runtime.checkpoint import Checkpoint
from runtime.journal import Finished
from runtime.verify_decided import Decided, verify_decided
from schedules.errors import BadInput
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts, save_switch
from tests.runtime.runs import run
from tests.runtime.test_hobbit import checkpoint


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"), "mixtral")


def finished(found):
    return [Finished(i, tuple(tokens), "length") for i, tokens in enumerate(found.tokens)]


def judge(found, source, prompts, tokens, gen_len=5, first=0):
    """What verification says of a run, by its decisions."""
    decided = Decided()
    decided.note(Batch(0, first, tuple(map(tuple, prompts))), found.schedule)
    return verify_decided(decided, source, prompts, tokens, gen_len, ())


def test_verification_takes_the_decisions_of_the_run(mixtral):
    prompts = random_prompts([3, 2], seed=1)
    found = run("hobbit", mixtral, make_policy({"N": 2, "mu": 2}), prompts, 5)
    right = judge(found, mixtral, prompts, finished(found))
    assert right.ok
    assert right.sentence == (
        "all 10 tokens of 2 sequences equal those of the plain model changed alike (float32, CPU)"
    )
    first = finished(found)[0]
    wrong = Finished(0, ((first.token_ids[0] + 1) % 160, *first.token_ids[1:]), "length")
    assert not judge(found, mixtral, prompts, [wrong]).ok


def test_verification_of_switch_transformers(tmp_path):
    source, prompts = Checkpoint(save_switch(tmp_path)), random_prompts([3, 9])
    found = run("hobbit", source, make_policy({"N": 2, "mu": 2}), prompts, 5)
    assert judge(found, source, prompts, finished(found)).ok


def test_decisions_of_an_earlier_call_are_not_known(mixtral):
    prompts = random_prompts([3, 2], seed=1)
    found = run("hobbit", mixtral, make_policy({"N": 2, "mu": 2}), prompts, 5)
    with pytest.raises(BadInput, match="sequence 0, which was finished by an earlier call"):
        judge(found, mixtral, prompts, finished(found), first=2)
