"""Law 4: any schedule, any policy: the tokens of the reference implementation.

Every family has a tiny random checkpoint saved by transformers; prompts have unequal lengths, and
hypothesis draws micro-batches, pages (their number is that of the micro-batches), static shares of
weights, cache and hidden states, where attention runs, and pinning.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_logits
from schedules.policy import make_policy
from tests.runtime.checkpoints import (
    FAMILIES,
    random_prompts,
    reference,
    reference_logits,
    save_checkpoint,
)
from tests.runtime.runs import ONE_BATCH, SCHEDULES, policies, run

RELATIVE = 1e-4  # of the largest logit


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A checkpoint of each family, and the reference's model of it."""
    folder = save_checkpoint(tmp_path_factory.mktemp("models") / request.param, request.param)
    return Checkpoint(folder), reference(folder)


def check(found, model, prompts):
    """Logits as the reference has them on the same tokens, and its greedy choice each time."""
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = reference_logits(model, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()
        assert tokens == expected.argmax(dim=1).tolist()


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=3)
@given(data=st.data())
def test_tokens_and_logits_of_the_reference(family, name, data):
    source, model = family
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5))
    gen_len = data.draw(st.integers(1, 4))
    policy = data.draw(policies(name, len(lengths)))
    prompts = random_prompts(lengths, seed=sum(lengths))
    check(run(name, source, policy, prompts, gen_len), model, prompts)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_half_precision(name, dtype, relative, tmp_path):
    """As the plain model in the same precision: ten or so roundings of 2^-11 or 2^-8."""
    source = Checkpoint(save_checkpoint(tmp_path, "mixtral", dtype=dtype))
    prompts = random_prompts([3, 9, 1, 7])
    policy = make_policy({"N": 4, "mu": 4 if name in ONE_BATCH else 2})
    found = run(name, source, policy, prompts, 4)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = plain_logits(source, [*prompt, *tokens[:-1]])[len(prompt) - 1 :].float()
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= relative * expected.abs().max()


def test_routing_is_recorded(family):
    """The recorded experts of prompts and generated tokens are those of the reference."""
    source, model = family
    spec = source.architecture.spec
    prompts = random_prompts([5, 2, 9])
    found = run("cgopipe", source, make_policy({"N": 3, "mu": 2}), prompts, 3)
    frame = found.routing
    layers = [layer.index for layer in spec.decoder_layers if layer.is_moe]
    assert len(frame) == len(layers) * (5 + 2 + 9 + 2 * 3)
    if not layers:
        return
    names = [f"expert_{i}" for i in range(spec.top_k)]
    expected = _reference_experts(model, prompts, found.tokens, spec.top_k)
    for (layer, request), rows in frame.groupby(["layer", "request"]):
        ours = rows.sort_values("position")[names].to_numpy()
        theirs = expected[layer, request][: len(ours)]
        assert [set(a) for a in ours.tolist()] == [set(b) for b in theirs.tolist()]


def _reference_experts(model, prompts, tokens, top_k):
    """The experts that transformers' gates name, by layer and prompt."""
    found = {}
    for request, (prompt, made) in enumerate(zip(prompts, tokens, strict=True)):
        hooks, seen = [], {}
        for name, module in model.named_modules():
            if name.endswith((".gate", ".router")) and "shared" not in name:
                layer = int(next(part for part in name.split(".") if part.isdigit()))
                hooks.append(module.register_forward_hook(_keep(seen, layer, top_k)))
        reference_logits(model, [*prompt, *made[:-1]])
        for hook in hooks:
            hook.remove()
        found |= {(layer, request): ids for layer, ids in seen.items()}
    return found


def _keep(seen, layer, top_k):
    def keep(module, inputs, output):
        logits = output[0] if isinstance(output, tuple) else output
        seen[layer] = logits.reshape(-1, logits.shape[-1]).topk(top_k, dim=1).indices

    return keep
