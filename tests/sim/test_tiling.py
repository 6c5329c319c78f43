"""Phases tiled from a few layers are those that are issued whole, task by task."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schedules.errors import Infeasible
from schedules.graph import RecordingIssuer, Wait
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.schedule import find_schedule, schedules
from schedules.task import Work
from sim.api import Question
from sim.generation import issue_phase
from sim.scenario import place
from sim.tiling import ISSUED, can_tile, tiled

ALIKE = sorted(name for name, kind in schedules().items() if kind.steps_alike)
MODELS = ["mixtral-8x7b", "opt-6.7b", "qwen3-30b-a3b", "switch-base-8"]
REPEAT = {"accelerate", "cgopipe", "fastdecode", "ktransformers", "moe-gen", "zero-inference"}


def issued_whole(schedule, step):
    if step == 0:
        schedule.run_prefill()
    else:
        schedule.run_decode_step(step)
    return schedule.node.issuer.take()


def placed_twice(name, model, layers, policy, gpus=1):
    hardware = "gcp-t4-208g" if gpus == 1 else "gcp-t4x4-32c"
    scenario = Question(model, hardware, "fixed-16", gen_len=5, gpus=gpus).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(layers))
    kind = find_schedule(name)
    mu = policy["N"] if kind.one_batch else policy["mu"]
    known = {key: value for key, value in policy.items() if key in kind.knobs | {"N"}}
    return [place(scenario, kind, make_policy(known | {"mu": mu})) for _ in range(2)]


def check(one, other):
    for step in (0, 1, 3):
        ours, theirs = issue_phase(one, step), issued_whole(other, step)
        assert ours.same_structure(theirs)
        assert [ours.works[i] for i in ours.work] == [theirs.works[i] for i in theirs.work]
        assert (ours.step == step).all()


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("model", MODELS)
def test_every_schedule(name, model):
    try:
        pair = placed_twice(name, model, 12, {"N": 5, "mu": 2})
    except Infeasible as error:
        pytest.skip(str(error))
    check(*pair)
    alike = can_tile(pair[0].node.model.decoder_layers)
    assert (pair[0].node.repeats and alike) == (name in REPEAT and model != "switch-base-8") or (
        name == "ultramem"
    )


@settings(max_examples=10)
@given(
    name=st.sampled_from(["cgopipe", "fastdecode", "zero-inference", "moe-gen"]),
    layers=st.integers(7, 16),
    n=st.integers(1, 9),
    mu=st.integers(1, 4),
    r_w=st.sampled_from([0.0, 0.3]),
    pinned=st.booleans(),
)
def test_policies_and_numbers_of_layers(name, layers, n, mu, r_w, pinned):
    policy = {"N": n, "mu": min(mu, n), "r_w": r_w, "pinned": pinned}
    try:
        pair = placed_twice(name, "mixtral-8x7b", layers, policy)
    except Infeasible:
        assume(False)
    check(*pair)


def test_several_gpus():
    check(*placed_twice("cgopipe", "mixtral-8x7b", 10, {"N": 4, "mu": 2}, gpus=4))


def test_which_models_can():
    assert can_tile(load_model("mixtral-8x7b").decoder_layers)
    assert not can_tile(load_model("mixtral-8x7b").with_layers(ISSUED).decoder_layers)
    assert not can_tile(load_model("mixtral-8x7b").with_layers(ISSUED + 1).decoder_layers)
    assert not can_tile(load_model("switch-base-8").decoder_layers)  # every second has experts


# -- graphs by hand --------------------------------------------------------------------------------


def layers_of(odd=None, layers=ISSUED):
    """Load and compute for each layer; `odd` changes the work of one of them."""
    issuer = RecordingIssuer(["h2d", "gpu"], {"gpu": 2})
    slots = [issuer.buffer(f"weights[{i}]", "gpu", 1) for i in range(2)]
    work, other = Work(device="gpu", calls=1), Work(device="gpu", calls=2)
    for layer in range(layers):
        issuer.task("load", "h2d", [], [slots[layer % 2]], work, layer)
        done = issuer.task(
            "compute", "gpu", [slots[layer % 2]], [], other if layer == odd else work, layer
        )
        if layer % 2:
            issuer.wait(done)
    issuer.barrier()
    return issuer.take()


def test_by_hand_with_waits():
    graph = tiled(layers_of(), 14)
    expected = layers_of(layers=14)
    assert graph.same_structure(expected)
    assert Wait(0, 28, (27,)) in graph.waits


@pytest.mark.parametrize("odd", [2, 3, 4])
def test_a_layer_that_differs_in_the_middle_is_seen(odd):
    graph = tiled(layers_of(odd), 14)
    assert graph is None or np.array_equal(graph.work, layers_of(odd, 14).work)


def test_more_layers_than_asked_for_are_no_period():
    assert tiled(layers_of(layers=ISSUED + 2), 14) is None
