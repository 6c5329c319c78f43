"""What the executor does to the process that it runs in."""

import pytest
import torch

from runtime.checkpoint import Checkpoint
from runtime.session import Session
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from tests.runtime.checkpoints import save_checkpoint
from tests.runtime.runs import OPTIONS, Logits


@pytest.fixture
def source(tmp_path):
    """A tiny Mixtral."""
    return Checkpoint(save_checkpoint(tmp_path, "mixtral"))


def test_the_issuing_thread_computes_alone_and_gives_its_threads_back(source):
    """More threads than one would take the cores of the lanes."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        policy = make_policy({"N": 2, "mu": 1})
        kind = find_schedule("cgopipe")
        with Session(kind, source, policy, [[1], [2]], 2, OPTIONS, Logits()):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
