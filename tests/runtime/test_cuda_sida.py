"""SiDA on a CUDA device: the predictor on the CPU, its choices on the device."""

import pytest
import torch

from runtime.changes_sida import Predicted
from runtime.checkpoint import Checkpoint
from runtime.device import CUDA_RESERVE_BYTES, DeviceOptions
from runtime.predictor_files import random_predictor
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts, save_checkpoint, save_switch
from tests.runtime.runs import run
from tests.runtime.test_sida import logits_of, plain_tokens

CUDA = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="needs a CUDA device")]

OPTIONS = DeviceOptions("cuda", CUDA_RESERVE_BYTES + (256 << 20), 4 << 30)
GEN_LEN = 4
RELATIVE = 1e-3  # of the largest logit: the reference is computed on the CPU


@pytest.fixture(scope="module", params=["mixtral", "switch"])
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    if request.param == "switch":
        return Checkpoint(save_switch(folder))
    return Checkpoint(save_checkpoint(folder, request.param))


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("values", [{}, {"per_layer": True}, {"cache_ratio": 0.4}])
def test_tokens_and_logits_of_the_changed_model(source, pinned, values):
    predictor = random_predictor(source.architecture.spec, seed=1)
    policy = make_policy({"N": 5, "mu": 2, "pinned": pinned} | values)
    prompts = random_prompts([3, 9, 1, 7, 9])
    found = run("sida", source, policy, prompts, GEN_LEN, OPTIONS, predictor=predictor)
    assert found.tokens == plain_tokens(source, prompts, GEN_LEN, Predicted(predictor))
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = logits_of(source, prompt, tokens, Predicted(predictor))
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()
