"""Choices that are skipped: transformers with a patched router, and every schedule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.changes import change_of
from runtime.checkpoint import Checkpoint
from runtime.functions import grouped, route
from runtime.plain import plain_generate, plain_logits
from runtime.predictor_files import random_predictor
from runtime.quantised import modified
from runtime.weights import layer_weights
from runtime.workspace import Workspace
from schedules.choices import SKIPPED
from schedules.modifiers import make_modifiers
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from tests.runtime.checkpoints import (
    random_prompts,
    reference,
    reference_logits,
    save_checkpoint,
)
from tests.runtime.layer_runs import hidden_states, one_rank, run_layer
from tests.runtime.runs import ONE_BATCH, SCHEDULES, policies, run

RELATIVE = 1e-4  # of the largest logit
SHARE = 0.5
FAMILIES = ("mixtral", "qwen2_moe", "olmoe")  # two experts a token; three, of which one has shared


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: save_checkpoint(folder / name, name) for name in FAMILIES}


def changed(folder, **values):
    source = Checkpoint(folder)
    spec = make_modifiers({"skip": SHARE} | values).applied(source.architecture.spec)
    return modified(source, spec)


# -- transformers, whose router is patched here ----------------------------------------------------


@pytest.fixture(scope="module")
def patched(folders):
    """Transformers' Mixtral in which a token drops its second expert below the share.

    The model and, for each layer, the tokens of its latest pass that have dropped it.
    """
    model, seen = reference(folders["mixtral"]), {}
    for name, module in model.named_modules():
        if name.endswith((".gate", ".router")):
            layer = int(next(part for part in name.split(".") if part.isdigit()))
            module.register_forward_hook(_dropping(seen, layer))
    return model, seen


def _dropping(seen, layer):
    def drop(module, inputs, output):
        logits = output[0] if isinstance(output, tuple) else output
        logits = logits.reshape(-1, logits.shape[-1])
        best, ids = logits.topk(2, dim=1)
        dropped = (best[:, 1] - best[:, 0]).exp() < SHARE  # the ratio of their probabilities
        seen[layer] = torch.where(dropped.unsqueeze(1) & torch.tensor([[False, True]]), -1, ids)
        if not isinstance(output, tuple):  # a gate that yields logits alone
            alone = torch.full_like(logits, -torch.inf).scatter(1, ids[:, :1], best[:, :1])
            return torch.where(dropped.unsqueeze(1), alone, logits)
        scores = output[1].clone()
        scores[dropped] = torch.tensor([1.0, 0.0])
        return (output[0], scores, *output[2:])

    return drop


def test_the_plain_model_skips_as_the_patched_one(folders, patched):
    """And about as many of the second choices as meant, neither none nor all."""
    model, seen = patched
    source = changed(folders["mixtral"])
    for ids in random_prompts([40, 1, 17]):
        expected = reference_logits(model, ids)
        ours = plain_logits(source, ids)
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()
    reference_logits(model, random_prompts([200])[0])
    shares = [float((ids[:, 1] == SKIPPED).float().mean()) for ids in seen.values()]
    assert all(0.2 < share < 0.8 for share in shares)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_skip_as_the_patched_one(folders, patched, name):
    """Logits, tokens, and the experts that are recorded, skipped ones with theirs."""
    model, seen = patched
    prompts = random_prompts([5, 2, 9, 13], seed=3)
    policy = make_policy({"N": 4, "mu": 4 if name in ONE_BATCH else 2})
    found = run(name, changed(folders["mixtral"]), policy, prompts, 3)
    for request, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = reference_logits(model, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        ours = torch.stack([found.logits.seen[request, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()
        assert tokens == expected.argmax(dim=1).tolist()
        rows = found.routing[found.routing["request"] == request].sort_values("position")
        for layer, ids in seen.items():
            mine = rows[rows["layer"] == layer][["expert_0", "expert_1"]].to_numpy()
            assert mine.tolist() == ids.tolist()


# -- the router ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_gates_of_what_is_left_make_up_for_the_rest(folders, family, share):
    """In proportion: the sum of a token's gates stays, and the first expert is never skipped."""
    source, layer = changed(folders[family], skip=share), 1
    arch, weights = source.architecture, layer_weights(source, layer)
    plain = Checkpoint(folders[family]).architecture
    hidden = torch.randn(50, arch.hidden_size, generator=torch.Generator().manual_seed(0))
    ws = Workspace.of_size(2**22)
    before, after = route(plain, weights, hidden, ws), route(arch, weights, hidden, ws)
    kept = before.gates >= share * before.gates[:, :1]
    assert kept[:, 0].all()
    assert not kept.all()
    assert torch.equal(after.ids, torch.where(kept, before.ids, SKIPPED))
    left = torch.where(kept, before.gates, 0)
    left *= before.gates.sum(1, keepdim=True) / left.sum(1, keepdim=True)
    torch.testing.assert_close(after.gates, left)


@pytest.mark.parametrize("family", FAMILIES)
def test_grouped_products_add_nothing_for_what_is_skipped(folders, family, monkeypatch):
    """PyTorch's grouped GEMM runs on the CPU too, where it is not used."""
    if not grouped.is_right(torch.float32, torch.device("cpu")):
        pytest.skip("this PyTorch has no grouped GEMM for CPUs")
    source = changed(folders[family])
    ranks, hidden = one_rank(source, 1, "cpu"), hidden_states(source.architecture)
    ids = []
    wanted = run_layer(ranks, hidden, ids=ids)
    assert (ids[0] == SKIPPED).any()
    monkeypatch.setattr(grouped, "has_grouped_gemm", lambda dtype, device: True)
    torch.testing.assert_close(run_layer(ranks, hidden), wanted, rtol=1e-4, atol=1e-4)


def test_a_share_of_nothing_skips_nothing(folders):
    source = Checkpoint(folders["mixtral"])
    prompts = random_prompts([4, 7])
    tiny = changed(folders["mixtral"], skip=1e-30)
    assert plain_generate(tiny, prompts, 5) == plain_generate(source, prompts, 5)


def test_a_share_of_all_is_a_model_of_one_expert(folders, tmp_path):
    """A token's first expert has all the weight, as in a Mixtral that takes one."""
    one = Checkpoint(save_checkpoint(tmp_path, "mixtral", num_experts_per_tok=1))
    ids = random_prompts([30])[0]
    expected = plain_logits(one, ids)
    ours = plain_logits(changed(folders["mixtral"], skip=1.0), ids)
    assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()


# -- every schedule, also with packed weights ------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=1)
@given(data=st.data())
def test_tokens_and_logits_of_the_plain_model(folders, family, name, data):
    values = data.draw(st.sampled_from([{}, {"weights": "int8", "experts": "int4", "group": 8}]))
    source = changed(folders[family], **values)
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5))
    policy = data.draw(policies(name, len(lengths)))
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run(name, source, policy, prompts, 3)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = plain_logits(source, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()
        assert tokens == expected.argmax(dim=1).tolist()


@pytest.mark.parametrize("name", ["pre-gated", "sida"])
@pytest.mark.parametrize("values", [{}, {"weights": "int8", "experts": "int4", "group": 8}])
def test_methods_that_change_the_function(folders, name, values):
    """Tokens of the plain model that is changed alike; and some choices are skipped there too."""
    source = changed(folders["mixtral"], **values)
    prompts, kind = random_prompts([5, 2, 9, 13], seed=3), find_schedule(name)
    policy = make_policy({"N": 4, "mu": 4})
    found = run(name, source, policy, prompts, 4)
    predictor = random_predictor(source.architecture.spec, seed=0)
    change = change_of(kind, policy, predictor if kind.change == "predicted" else None)
    assert found.tokens == plain_generate(source, prompts, 4, change=change)
    assert (found.routing["expert_1"] == SKIPPED).any()
