"""A predictor for a checkpoint: what is recorded, and that it can be learned."""

import pytest
import torch

from runtime.checkpoint import Checkpoint
from runtime.predictor_files import predicted_layers
from runtime.training.fit import Course
from runtime.training.for_checkpoint import (
    Lesson,
    answers,
    fit_predictor,
    padded,
    record,
    train_for,
)
from runtime.training.predictor import new_predictor
from schedules.errors import BadInput
from schedules.policy import make_policy
from tests.runtime.checkpoints import random_prompts, save_checkpoint, save_switch
from tests.runtime.runs import run

GEN_LEN = 3


@pytest.fixture(scope="module", params=["mixtral", "qwen2_moe", "switch"])
def source(request, tmp_path_factory):
    """qwen2_moe has layers without experts, Switch two stacks and here a bias of its routers."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "switch":
        return Checkpoint(save_switch(folder, router_bias=True))
    return Checkpoint(save_checkpoint(folder, request.param))


def test_what_is_recorded_is_what_the_routers_take(source):
    """As in the routing of a run, of prompts and of what it generates."""
    prompts, spec = random_prompts([5, 2, 9]), source.architecture.spec
    policy, names = make_policy({"N": 3, "mu": 3}), [f"expert_{i}" for i in range(spec.top_k)]
    found = run("on-demand", source, policy, prompts, GEN_LEN)
    lessons, layers = record(source, prompts, GEN_LEN), predicted_layers(spec)
    assert len(lessons) == len(prompts)
    for (in_encoder, layer, request), rows in found.routing.groupby(
        [(found.routing["step"] == 0) & spec.is_encoder_decoder, "layer", "request"]
    ):
        taken = rows.sort_values(["step", "position"])[names].to_numpy()
        row = layers.index(layer + (spec.n_layers if in_encoder else 0))
        lesson = lessons[request]
        gates = lesson.gates[lesson.known[:, row], row]
        ours = gates.topk(spec.top_k, dim=-1).indices
        assert ours.tolist() == taken.tolist()


def test_the_embeddings_are_those_of_what_was_read(source):
    """The prompt, then generated tokens but the last; a decoder of two stacks has a start token."""
    prompts = random_prompts([5, 2])
    found = run("gpu-only", source, make_policy({"N": 2, "mu": 1}), prompts, GEN_LEN)
    encoder = source.architecture.encoder_decoder
    for lesson, prompt, tokens in zip(
        record(source, prompts, GEN_LEN), prompts, found.tokens, strict=True
    ):
        start = [] if encoder is None else [encoder.start_token]
        read = [*prompt, *start, *tokens[:-1]]
        assert torch.equal(lesson.embedded, source.embedding()[read].float())
        known = lesson.known.sum(dim=1)
        assert known[0] == known[len(prompt) - 1] > 0
        assert known[-1] > 0


def test_many_prompts_are_run_some_at_a_time(source, monkeypatch):
    prompts = random_prompts([3, 4, 2])
    together = record(source, prompts, 2)
    monkeypatch.setattr("runtime.training.for_checkpoint.TOGETHER", 2)
    apart = record(source, prompts, 2)
    for a, b in zip(together, apart, strict=True):
        assert all(
            torch.allclose(x.float(), y.float(), atol=1e-4) for x, y in zip(a, b, strict=True)
        )


# -- training --------------------------------------------------------------------------------------


def made_up(lengths):
    """Gates of two layers that are linear in the embedding; the second has routed from row 2 on."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(2, 12, 4, generator=generator)
    lessons = []
    for n in lengths:
        embedded = torch.randn(n, 12, generator=generator)
        known = torch.ones(n, 2, dtype=torch.bool)
        known[:2, 1] = False
        gates = torch.einsum("nh,lhe->nle", embedded, matrix)
        lessons.append(Lesson(0.01 * embedded, gates * known[..., None], known))
    return lessons


def test_what_depends_on_the_token_is_learned():
    """Although embeddings are small. A choice at random would be right in a fourth of the cases."""
    lessons = made_up([6, 9, 4, 12])
    predictor, losses = fit_predictor(lessons, 1, Course(40, 4, 5e-3), seed=0)
    batch = padded(lessons)
    with torch.no_grad():
        ours = answers(predictor, batch)[batch.known].argmax(dim=-1)
    hits = (ours == batch.gates[batch.known].argmax(dim=-1)).float().mean()
    assert hits > 0.8
    assert losses[-1] < losses[0]


def test_what_is_added_changes_nothing_and_is_not_known():
    lessons, predictor = made_up([3, 5]), new_predictor(12, 256, 2, 4, seed=0)
    batch = padded(lessons)
    assert batch.known.sum(dim=1).tolist() == [[3, 1], [5, 3]]
    with torch.no_grad():
        alone = answers(predictor, padded(lessons[:1]))
        assert torch.allclose(answers(predictor, batch)[:1, :3], alone, atol=1e-6)


def test_hit_rates_are_of_prompts_that_were_held_out(source):
    """Of 11 prompts, numbers 0 and 10."""
    trained = train_for(source, random_prompts([4] * 11), 2, Course(2, 2, 1e-3), seed=0)
    assert trained.layers == predicted_layers(source.architecture.spec)
    assert len(trained.losses) == 2
    for rates in (trained.taken, trained.top_1, trained.top_3):
        assert len(rates) == len(trained.layers)
        assert all(0 <= rate <= 1 for rate in rates)
    assert all(a <= b for a, b in zip(trained.top_1, trained.top_3, strict=True))


def test_what_cannot_be_trained(source, tmp_path):
    course = Course(1, 1, 1e-3)
    with pytest.raises(BadInput, match="one prompt alone cannot train a predictor"):
        train_for(source, random_prompts([4]), 2, course, 0)
    dense = Checkpoint(save_checkpoint(tmp_path, "llama"))
    with pytest.raises(BadInput, match="has no experts to be predicted"):
        train_for(dense, random_prompts([4, 4]), 2, course, 0)
