"""Sessions with Switch Transformers: the tokens of the reference, the tasks of the simulator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint import Checkpoint
from runtime.device import DeviceOptions
from runtime.plain_encoder_decoder import forced_logits, generate
from runtime.session import KERNELS, Session
from schedules.errors import BadInput
from schedules.lengths import Listed
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from schedules.workload import Workload
from sim.hardware import load_hardware
from sim.scenario import Scenario, place
from tests.runtime.checkpoints import random_prompts, save_switch
from tests.runtime.runs import Logits, policies, run

NAMES = ("gpu-only", "on-demand", "decoder-resident", "prefetch-all")
RELATIVE = 1e-4  # of the largest logit


@pytest.fixture(scope="module", params=["tied", "not tied, small capacity"])
def source(request, tmp_path_factory):
    """More encoder layers than decoder layers, and the other way round."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "tied":
        return Checkpoint(save_switch(folder))
    changes = {"tie_word_embeddings": False, "expert_capacity": 2, "router_bias": True}
    changes |= {"num_layers": 2, "num_decoder_layers": 4}
    changes |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 2}
    return Checkpoint(save_switch(folder, **changes))


def draw(data, name):
    """Prompt lengths, gen_len and a policy."""
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=5))
    return lengths, data.draw(st.integers(1, 4)), data.draw(policies(name, len(lengths)))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(data=st.data())
def test_tokens_and_logits_are_those_of_the_plain_model(source, name, data):
    """Which are those of transformers: `test_switch`."""
    lengths, gen_len, policy = draw(data, name)
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run(name, source, policy, prompts, gen_len)
    assert found.tokens == generate(source, prompts, gen_len)
    for number, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        expected = forced_logits(source, prompt, tokens[:-1])
        ours = torch.stack([found.logits.seen[number, i] for i in range(gen_len)])
        assert (ours - expected).abs().max() <= RELATIVE * expected.abs().max()


# -- two clocks ------------------------------------------------------------------------------------


def simulated(name, spec, policy, lengths, gen_len, routing):
    """The graphs of the encoder and of each decode step, as the simulator records them."""
    workload = Workload(
        name="test",
        prompt_lengths=Listed(lengths=lengths),
        gen_len=gen_len,
        padded=False,
        source="",
    )
    scenario = Scenario(spec, load_hardware("gcp-t4-24c"), workload, kernels=KERNELS)
    schedule = place(scenario, find_schedule(name), policy)
    issuer = schedule.node.issuer

    def trace(gate):
        rows = routing[(routing["step"] == gate.step) & (routing["layer"] == gate.layer)]
        rows = rows[rows["micro_batch"] == gate.micro_batch]
        return rows.filter(like="expert_").to_numpy().astype(np.int64)

    issuer._trace = trace
    schedule.run_prefill()
    graphs = [issuer.take()]
    for step in range(1, gen_len + 1):
        schedule.run_decode_step(step)
        graphs.append(issuer.take())
    return graphs, issuer.peak_bytes


@pytest.mark.parametrize("name", [*NAMES, "sida"])
@settings(max_examples=6)
@given(data=st.data())
def test_both_clocks_see_the_same_tasks(source, name, data):
    lengths, gen_len, policy = draw(data, name)
    found = run(name, source, policy, random_prompts(lengths), gen_len)
    spec = source.architecture.spec
    expected, peak = simulated(name, spec, policy, tuple(lengths), gen_len, found.routing)
    assert len(found.graphs) == len(expected) == gen_len + 1
    for ours, theirs in zip(found.graphs, expected, strict=True):
        assert ours.same_structure(theirs)
        assert np.array_equal(ours.step, theirs.step)
        assert [ours.works[i] for i in ours.work] == [theirs.works[i] for i in theirs.work]
    assert found.predicted_bytes["gpu"] == peak["gpu"]


# -- routing, and what is refused ------------------------------------------------------------------


def test_the_routing_of_the_encoder_is_that_of_step_0(source):
    prompts, spec = random_prompts([5, 2, 9]), source.architecture.spec
    frame = run("on-demand", source, make_policy({"N": 3, "mu": 3}), prompts, 2).routing
    encoder, decoder = (
        [layer.index for layer in layers if layer.is_moe]
        for layers in (spec.encoder_layers, spec.decoder_layers)
    )
    assert sorted(frame[frame["step"] == 0]["layer"].unique()) == encoder
    assert sorted(frame[frame["step"] > 0]["layer"].unique()) == decoder
    assert len(frame) == 16 * len(encoder) + 2 * 3 * len(decoder)
    assert frame[frame["step"] == 2]["position"].unique().tolist() == [1]
    assert frame[frame["request"] == 2]["position"].max() == 8


def test_the_sampler_is_told_which_token_it_makes(source):
    logits = run("gpu-only", source, make_policy({"N": 2, "mu": 1}), random_prompts([4, 2]), 3)
    assert sorted(logits.logits.seen) == [(n, position) for n in range(2) for position in range(3)]


@pytest.mark.parametrize("name", ["cgopipe", "fastdecode", "flexgen", "accelerate"])
def test_schedules_without_the_cache_on_the_gpu_are_refused(source, name):
    one = find_schedule(name).one_batch
    policy = make_policy({"N": 2, "mu": 2 if one else 1})
    with pytest.raises(BadInput, match=f"has an encoder, .* '{name}' is none"):
        run(name, source, policy, random_prompts([4, 2]), 1)


def test_several_gpus_are_refused(source):
    policy, options = make_policy({"N": 1, "mu": 1}), DeviceOptions("cpu", 1 << 27, 1 << 30)
    with pytest.raises(BadInput, match="has an encoder; the runtime has it on one GPU only"):
        Session(find_schedule("gpu-only"), source, policy, [[3]], 1, options, Logits(), 0, world=2)
