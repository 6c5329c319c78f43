"""Experts in parts, on the GPU and on the CPU: every division of the work yields the same tokens,
and a schedule that forgets a part of it, or does one twice, is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate, plain_logits
from schedules.errors import BadInput, MoelabError
from schedules.expert import Fiddler, KTransformers
from schedules.policy import make_policy
from tests.runtime.checkpoints import (
    random_prompts,
    save_checkpoint,
    save_switch,
    switch_reference,
)
from tests.runtime.runs import run
from tests.runtime.test_switch import COUNTS_SEQUENCES

DIVISIONS = [  # share of the experts that stay, tokens up to which the CPU computes
    (0.0, 0),  # all come
    (0.0, 99),  # all are the CPU's
    (1.0, 0),  # all are there
    (0.5, 0),
    (0.5, 99),
    (0.4, 2),  # some of each
]
LENGTHS, GEN_LEN = [5, 2, 9, 1, 7], 4


@pytest.fixture(scope="module", params=["mixtral", "qwen2_moe", "dbrx"])
def source(request, tmp_path_factory):
    """Gates in float32 or not, with a shared expert, with LayerNorm and a transposed matrix."""
    return Checkpoint(save_checkpoint(tmp_path_factory.mktemp("model"), request.param))


def fiddler(share, limit, **more):
    n = len(LENGTHS)
    return make_policy({"N": n, "mu": n, "experts_on_gpu": share, "cpu_tokens": limit} | more)


def ops(found):
    """How often each operation was run."""
    return found.timeline.frame["op"].value_counts()


# -- the same tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "limit"), DIVISIONS)
@pytest.mark.parametrize("pinned", [False, True])
def test_every_division_yields_the_same_tokens(source, share, limit, pinned):
    prompts = random_prompts(LENGTHS)
    found = run("fiddler", source, fiddler(share, limit, pinned=pinned), prompts, GEN_LEN)
    assert found.tokens == plain_generate(source, prompts, GEN_LEN)


def test_the_division_is_what_the_policy_says(source):
    """Experts that come, those that stay, and those of the CPU: as many tasks as the gates say."""
    counts = []
    for share, limit in ((0.0, 0), (0.0, 99), (1.0, 0), (0.4, 2)):
        found = ops(run("fiddler", source, fiddler(share, limit), random_prompts(LENGTHS), GEN_LEN))
        names = ("load_expert", "cpu_experts", "some_experts")
        counts.append([int(found.get(name, 0)) for name in names])
    come, cpu, stay, mixed = counts
    assert come[0] == come[2] == cpu[1]
    assert come[1] == cpu[0] == cpu[2] == stay[0] == stay[1] == 0
    assert all(n > 0 for n in (come[0], stay[2], *mixed))


def test_tokens_travel_once_and_no_others(source):
    """What goes to the CPU is the tokens that take one of its experts, in both clocks alike."""
    found = run("fiddler", source, fiddler(0.4, 2), random_prompts(LENGTHS), GEN_LEN)
    spec = source.architecture.spec
    each = spec.hidden_size * 4 + spec.top_k * (8 + 4)
    frame, gates = found.timeline.frame, found.routing
    for task in frame[frame["op"] == "send_tokens"].itertuples():
        rows = gates[(gates["step"] == task.step) & (gates["layer"] == task.layer)]
        ids = rows.filter(like="expert_").to_numpy()
        counts = np.bincount(ids.ravel(), minlength=spec.n_experts)
        sent = task.link_bytes / each
        assert sent == int(sent)
        assert 0 < sent <= min(len(ids), counts.sum())


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
@pytest.mark.parametrize(("share", "limit"), DIVISIONS)
def test_half_precision_and_many_tokens(dtype, relative, share, limit, tmp_path):
    """Prompts long enough that float32 gates fill the memory of ids and weights."""
    source = Checkpoint(save_checkpoint(tmp_path, "mixtral", dtype=dtype))
    prompts = random_prompts([40, 33, 20, 1, 36])
    found = run("fiddler", source, fiddler(share, limit), prompts, 2)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = plain_logits(source, [*prompt, *tokens[:-1]])[len(prompt) - 1 :].float()
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        error = (ours - expected).abs().amax(dim=1) / expected.abs().max()
        assert error.median() <= relative  # where two experts are as probable, rounding decides


@pytest.mark.skipif(not COUNTS_SEQUENCES, reason="this transformers counts overflow otherwise")
@settings(max_examples=10)
@given(data=st.data())
def test_switch_transformers(data, tmp_path_factory):
    """Encoder and decoder, with experts that skip the tokens beyond their capacity."""
    model, source = _switch(tmp_path_factory)
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    name = data.draw(st.sampled_from(["fiddler", "ktransformers"]))
    values = {"N": len(lengths), "mu": len(lengths)}
    if name == "fiddler":
        share, limit = data.draw(st.sampled_from(DIVISIONS))
        values |= {"experts_on_gpu": share, "cpu_tokens": limit}
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run(name, source, make_policy(values), prompts, 3)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        decoder = torch.tensor([[0, *tokens[:-1]]])
        with torch.no_grad():
            wanted = model(torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
        ours = torch.stack([found.logits.seen[number, i] for i in range(len(tokens))])
        assert (ours - wanted).abs().max() <= 1e-4 * wanted.abs().max()


_made = []


def _switch(factory):
    if not _made:
        folder = save_switch(factory.mktemp("switch") / "model", expert_capacity=3)
        _made.append((switch_reference(folder), Checkpoint(folder)))
    return _made[0]


# -- schedules that forget something -----------------------------------------------------------


class ForgetsAnExpert(Fiddler):
    """Leaves out the last of the CPU's experts."""

    def cpu_part(self, spec, tokens, counts, experts, last):
        return super().cpu_part(spec, tokens, counts, experts[:-1] or experts, last)


class ComputesTwice(Fiddler):
    """Computes on the CPU what the GPU has computed."""

    def on_gpu(self, spec, counts, experts, place):
        super().on_gpu(spec, counts, experts, place)
        return super().on_gpu(spec, counts, experts, place)


class NeverFetches(KTransformers):
    """Adds what an earlier layer has left on the GPU."""

    def fetch(self, spec, tokens, turn=0):
        return self.returned[turn]


class NeverSends(KTransformers):
    """Lets the CPU compute what is there."""

    def send(self, spec, tokens, turn=0, what=()):
        pass


class FetchesTooEarly(Fiddler):
    """Brings the outputs back when the first expert has been computed."""

    def send(self, spec, tokens, turn=0, what=()):
        super().send(spec, tokens, turn, what)
        self.fetched = False

    def on_cpu(self, op, spec, distinct, rows, turns=(0, 0), what=()):
        done = super().on_cpu(op, spec, distinct, rows, turns, what)
        if not self.fetched:
            super().fetch(spec, rows)
            self.fetched = True
        return done

    def fetch(self, spec, tokens, turn=0):
        return self.returned[0]


class OtherTokens(Fiddler):
    """Sends the tokens of one expert, and computes all."""

    def send(self, spec, tokens, turn=0, what=()):
        super().send(spec, tokens, turn, what[:1])


class ForgetsTheShared(Fiddler):
    """Leaves out the shared experts."""

    def shared(self, spec, tokens):
        return []


class NeverAsks(Fiddler):
    """Takes some experts for those that the gate has chosen."""

    def named_ids(self, spec, tokens, routed, op="gate"):
        self.compute(op, spec, [self.x], [routed], self.node.work.gate(spec, tokens))
        return np.tile([0, 1], (int(tokens), 1))


class NotThere(Fiddler):
    """Computes an expert that it has not brought."""

    def load(self, spec, expert, place):
        pass


@pytest.mark.parametrize(
    ("kind", "share", "limit", "message"),
    [
        (ForgetsAnExpert, 0.0, 99, "lacks the outputs of expert"),
        (FetchesTooEarly, 0.0, 99, "lacks the outputs of expert"),
        (ComputesTwice, 1.0, 0, "adds outputs of an expert a second time"),
        (NeverFetches, None, None, r"reads buffer 'returned\[0\]', which holds nothing of that"),
        (NeverSends, None, None, r"reads buffer 'sent\[0\]', which holds nothing of that layer"),
        (OtherTokens, 0.0, 99, "but the tokens in 'sent.* are those of"),
        (NeverAsks, 1.0, 0, "has not asked what the gate of that layer has chosen"),
        (NeverAsks, 0.0, 99, "has not asked what the gate of that layer has chosen"),
        (NotThere, 0.0, 0, "are not on the device"),
    ],
)
def test_refused(tmp_path, kind, share, limit, message):
    source = Checkpoint(save_checkpoint(tmp_path, "mixtral"))
    policy = fiddler(share, limit)
    with pytest.raises(MoelabError, match=message):
        run(kind, source, policy, random_prompts(LENGTHS), 2)


def test_shared_experts_are_not_forgotten(tmp_path):
    source = Checkpoint(save_checkpoint(tmp_path, "qwen2_moe"))
    with pytest.raises(MoelabError, match="lacks the outputs of the shared experts"):
        run(ForgetsTheShared, source, fiddler(0.0, 0), random_prompts(LENGTHS), 2)


def test_deferral_is_simulated_only(tmp_path):
    source = Checkpoint(save_checkpoint(tmp_path, "mixtral"))
    policy = make_policy({"N": 1, "mu": 1, "deferred": 1})
    with pytest.raises(BadInput, match=r"simulated only; the runtime takes deferred = 0"):
        run("ktransformers", source, policy, random_prompts([3]), 2)
