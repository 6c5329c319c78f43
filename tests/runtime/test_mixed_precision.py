"""HOBBIT's operations refuse schedules that forget experts; what they compute: `test_hobbit`."""

import pytest

from schedules.errors import MoelabError
from schedules.expert.hobbit import HOBBIT
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts
from tests.runtime.runs import run
from tests.runtime.test_hobbit import checkpoint


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"), "mixtral")


class Forgets(HOBBIT):
    """Computes without the places of its experts."""

    def run(self, spec, tokens, ids, wanted, reads, after):
        super().run(spec, tokens, ids, wanted, reads[:1], after)


class Bare(HOBBIT):
    """Copies no 4-bit experts."""

    def fetch(self, store, block, expert, place):
        if store is self.high:
            super().fetch(store, block, expert, place)


class Careless(HOBBIT):
    """Skips an expert, whoever chose it."""

    def run(self, spec, tokens, ids, wanted, reads, after):
        super().run(spec, tokens, ids, wanted._replace(high=wanted.high[1:]), reads, after)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Forgets, r"computes Span\(.*, which is in no buffer that it reads"),
        (Bare, r"computes Packed\(.*, which is in no buffer that it reads"),
        (Careless, r"lacks expert \d, the first choice of a token"),
    ],
)
def test_a_schedule_that_forgets_experts_is_refused(mixtral, kind, said):
    policy = make_policy({"N": 1, "mu": 1})
    with pytest.raises(MoelabError, match=said):
        run(kind, mixtral, policy, random_prompts([3]), 8)
