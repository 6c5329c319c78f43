"""Packed weights: any schedule, any policy, and the tokens of the model with rounded weights.

The reference has no packed weights: it is the plain model, whose logits are those of transformers
(`test_plain`), with matrices that have been rounded here, in the model's own format.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_logits
from runtime.plain_encoder_decoder import forced_logits
from runtime.quantised import Quantised, modified
from runtime.session import Session
from runtime.weights import WeightSource, layer_weights
from schedules.errors import BadInput
from schedules.layout import EXPERTS
from schedules.modifiers import make_modifiers
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from tests.runtime.checkpoints import random_prompts, save_checkpoint, save_switch
from tests.runtime.runs import ONE_BATCH, OPTIONS, SCHEDULES, policies, run

RELATIVE = 1e-4  # of the largest logit
MOST = {"int4": 7, "int8": 127}
GROUP = 8  # the rows of the tiny models are short, and some are no multiples of 16
FAMILIES = ("mixtral", "qwen2_moe", "dbrx", "olmoe")
SWITCH_SCHEDULES = ("gpu-only", "on-demand", "decoder-resident", "prefetch-all")


@dataclass(frozen=True)
class Rounded:
    """The weights of a model with every row of some matrices rounded group by group."""

    source: WeightSource
    widths: dict[str, str]  # of `experts` and of `dense` matrices

    def __getattr__(self, name):
        return getattr(self.source, name)

    def matrix(self, layer, name, expert=0):
        plain = self.source.matrix(layer, name, expert)
        width = self.widths.get("experts" if name in EXPERTS else "dense")
        if name == "router" or width is None:
            return plain
        groups = plain.float().unflatten(1, (-1, GROUP))
        scales = (groups.abs().amax(dim=2, keepdim=True) / MOST[width]).half().float()
        return ((groups / scales).round() * scales).flatten(1).to(plain.dtype)


def changed(source, **values):
    """The weights as modified, and a reference for them."""
    modifiers = make_modifiers(values | {"group": GROUP})
    arch_source = modified(source, modifiers.applied(source.architecture.spec))
    experts = values.get("experts", values.get("weights"))
    return arch_source, Rounded(source, {"experts": experts, "dense": values.get("weights")})


CHANGES = ({"experts": "int4"}, {"weights": "int8"}, {"weights": "int8", "experts": "int4"})


def ident(values):
    return ", ".join(f"{key}={value}" for key, value in values.items())


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A checkpoint of each family."""
    folder = tmp_path_factory.mktemp("models")
    return {name: Checkpoint(save_checkpoint(folder / name, name)) for name in FAMILIES}


def check(found, reference, prompts, relative=RELATIVE):
    """Logits as the plain model has them on the same tokens, and its greedy choice each time."""
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = plain_logits(reference, [*prompt, *tokens[:-1]])[len(prompt) - 1 :].float()
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - expected).abs().max() <= relative * expected.abs().max()
        if relative == RELATIVE:
            assert tokens == expected.argmax(dim=1).tolist()


# -- the source ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", CHANGES, ids=ident)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_s_rows_are_the_rounded_ones(sources, family, values):
    """Written out in blocks; routers, vectors, embeddings and the head are untouched."""
    source = sources[family]
    packed, reference = changed(source, **values)
    for layer in range(source.architecture.spec.n_layers):
        ours, theirs = layer_weights(packed, layer), layer_weights(reference, layer)
        assert set(ours.matrices) == set(theirs.matrices)
        for name, pieces in theirs.matrices.items():
            rows = pieces[-1].stop
            wanted = torch.cat([part.tensor for part in theirs.rows(name, 0, rows)])
            got = torch.cat([part.tensor.clone() for part in ours.rows(name, 0, rows)])
            assert torch.equal(got, wanted)
            few = torch.cat([part.tensor.clone() for part in ours.rows(name, 1, rows - 2)])
            assert torch.equal(few, wanted[1 : rows - 2])
        for name, vector in theirs.vectors.items():
            assert torch.equal(ours.vectors[name], vector)
    assert torch.equal(packed.embedding(), source.embedding())
    assert torch.equal(packed.head(), source.head())
    assert torch.equal(packed.final_norm(), source.final_norm())


def test_what_is_packed_and_what_is_not(sources):
    packed, _ = changed(sources["qwen2_moe"], experts="int4")
    moe = 1  # every second layer; the others are dense, with one FFN that counts as an expert
    types = {
        name: {part.tensor.dtype for part in pieces}
        for name, pieces in layer_weights(packed, moe).matrices.items()
    }
    assert {name for name, dtypes in types.items() if dtypes == {torch.uint8}} == set(EXPERTS)
    assert packed.matrix(0, "up").dtype == torch.uint8
    every, _ = changed(sources["qwen2_moe"], weights="int8")
    plain = {
        name
        for name, pieces in layer_weights(every, moe).matrices.items()
        if pieces[0].tensor.dtype != torch.uint8
    }
    assert plain == {"router"}


def test_only_choices_are_changed_by_skipping(sources):
    """Nothing is packed, and matrices are the source's own memory."""
    source = sources["mixtral"]
    spec = make_modifiers({"skip": 0.5}).applied(source.architecture.spec)
    packed = modified(source, spec)
    assert isinstance(packed, Quantised)
    assert packed.architecture.spec.skip_below == 0.5
    one, other = packed.matrix(0, "up", 1), source.matrix(0, "up", 1)
    assert one.data_ptr() == other.data_ptr()
    assert layer_weights(packed, 0).unpacker is None


# -- schedules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data())
def test_tokens_and_logits_of_the_model_with_rounded_weights(sources, family, name, data):
    packed, reference = changed(sources[family], **data.draw(st.sampled_from(CHANGES)))
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5))
    policy = data.draw(policies(name, len(lengths)))
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run(name, packed, policy, prompts, data.draw(st.integers(1, 3)))
    check(found, reference, prompts)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype, tmp_path):
    """As the plain model on the same rounded weights, in the same precision."""
    source = Checkpoint(save_checkpoint(tmp_path, "mixtral", dtype=dtype))
    packed, _ = changed(source, weights="int8", experts="int4")
    prompts = random_prompts([3, 9, 1, 7])
    policy = make_policy({"N": 4, "mu": 4 if name in ONE_BATCH else 2})
    found = run(name, packed, policy, prompts, 3)
    check(found, packed, prompts, 0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.parametrize("name", SWITCH_SCHEDULES)
@pytest.mark.parametrize("values", CHANGES, ids=ident)
def test_an_encoder_decoder(name, values, tmp_path):
    """FFNs of two matrices, experts in both stacks, cross-attention."""
    source = Checkpoint(save_switch(tmp_path))
    packed, reference = changed(source, **values)
    prompts = random_prompts([5, 2, 9])
    found = run(name, packed, make_policy({"N": 3, "mu": 3}), prompts, 3)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = forced_logits(reference, prompt, tokens[:-1])
        ours = torch.stack([found.logits.seen[number, i] for i in range(3)])
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()
        assert tokens == expected.argmax(dim=1).tolist()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kv": "int8"}, "the runtime keeps the cache as it is; modifier 'kv' is simulated only"),
        ({"experts": "int4", "fused": True}, "has no fused kernels for packed weights; 'fused' is"),
        ({"keep": 3}, "runs all experts of a model; modifier 'keep' is simulated only"),
        ({"experts": "int4", "group": 48}, "rows of 64 elements cannot be packed in 4 bits with"),
        ({"weights": "int8", "group": 64}, "rows of 64 elements cannot be packed in 8 bits with"),
    ],
)
def test_what_the_runtime_does_not_do(sources, values, said):
    spec = make_modifiers(values).applied(sources["mixtral"].architecture.spec)
    with pytest.raises(BadInput, match=said):
        modified(sources["mixtral"], spec)


def test_several_gpus(sources):
    packed, _ = changed(sources["mixtral"], experts="int4")
    policy = make_policy({"N": 2, "mu": 1})
    with pytest.raises(BadInput, match="packed weights run on one GPU; leave their modifiers out"):
        Session(
            find_schedule("cgopipe"), packed, policy, [[3], [4]], 2, OPTIONS, lambda *_: None, 0, 2
        )
