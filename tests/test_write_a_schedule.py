"""docs/write-a-schedule.md: its schedule, as the page prints it, on both clocks.

That its commands print what it shows is checked with all pages, in `test_docs`.
"""

import importlib
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import plain_encoder_decoder
from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate
from schedules.model_presets import load_model, model_names
from schedules.policy import make_policy
from schedules.schedule import find_schedule, schedules
from sim import simulate
from sim.hardware import load_hardware
from tests.runtime import test_switch_session, test_two_clocks
from tests.runtime.checkpoints import random_prompts, save_checkpoint, save_switch
from tests.runtime.runs import policies, run
from tests.test_docs import ROOT, fences, install_entry_points

PAGE = ROOT / "docs" / "write-a-schedule.md"
FILES = {fence.note: fence.text for fence in fences(PAGE) if fence.mark == "file"}
A_FEW_BLOCKS = {
    "mixtral": {"num_hidden_layers": 5},
    "qwen2_moe": {"num_hidden_layers": 10},  # with dense layers and a shared expert
    "switch_transformers": {"num_decoder_layers": 8, "num_sparse_decoder_layers": 4},
}
"""Each has four or five blocks of experts, so that no room is one block's alone."""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """The page's package, installed; it is gone afterwards."""
    folder = tmp_path_factory.mktemp("package")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for name, text in FILES.items():
            Path(name).write_text(text, encoding="utf-8")
        install_entry_points()
        yield folder
        for name in FILES:
            patch.delitem("sys.modules", Path(name).stem, raising=False)
    schedules.cache_clear()


@pytest.fixture(scope="module", params=A_FEW_BLOCKS)
def source(request, tmp_path_factory):
    """Tiny checkpoints."""
    folder, changes = tmp_path_factory.mktemp("model"), A_FEW_BLOCKS[request.param]
    if request.param == "switch_transformers":
        return Checkpoint(save_switch(folder, **changes))
    return Checkpoint(save_checkpoint(folder, request.param, **changes))


# -- the page --------------------------------------------------------------------------------------


def test_the_file_has_fewer_than_sixty_lines():
    assert 20 < len(FILES["again.py"].splitlines()) < 60


def test_it_is_found_through_its_entry_point(package):
    kind = find_schedule("again")
    assert kind.__module__ == "again"
    assert Path(importlib.import_module("again").__file__).parent == package
    project = tomllib.loads(FILES["pyproject.toml"])
    assert project["project"]["entry-points"]["moelab.schedules"] == {"again": "again:Again"}
    assert project["tool"]["setuptools"]["py-modules"] == ["again"]


def test_the_test_on_the_page_passes():
    module = importlib.import_module("test_again")
    tests = [name for name in vars(module) if name.startswith("test_")]
    assert len(tests) == 3
    for name in tests:
        getattr(module, name)()


# -- the simulator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", model_names())
def test_it_is_simulated_for_every_model(model):
    """It copies no less than on-demand; without experts both copy nothing and take as long."""
    machine = load_hardware("a100-80g-epyc64").with_rate("gpu.memory", 100)
    machine = machine.with_rate("cpu.memory", 10)  # room for all
    again, asked = (
        simulate(name, model, machine, "fixed-8", 3, 1, 1) for name in ("again", "on-demand")
    )
    moved = [one.moved_bytes_per_token.get("load_expert", 0.0) for one in (again, asked)]
    assert moved[0] >= moved[1]
    assert (moved[1] > 0) == any(layer.is_moe for layer in load_model(model).decoder_layers)
    assert 0 <= again.facts["hit_rate"] < 1
    if moved[0] == 0:
        assert again.makespan_s == pytest.approx(asked.makespan_s)


# -- the runtime -----------------------------------------------------------------------------------


def is_switch(source):
    return source.architecture.spec.is_encoder_decoder


def expected_tokens(source, prompts, gen_len):
    """Those of a plain model; `test_plain` and `test_switch` compare these with transformers."""
    generate = plain_encoder_decoder.generate if is_switch(source) else plain_generate
    return generate(source, prompts, gen_len)


def simulated(source, policy, lengths, gen_len, found):
    """The tasks that the simulator records, with the routing of a run, and its peak memory."""
    clock = test_switch_session if is_switch(source) else test_two_clocks
    answer = found.routing if is_switch(source) else found
    spec = source.architecture.spec
    return clock.simulated("again", spec, policy, tuple(lengths), gen_len, answer)


@settings(max_examples=8)
@given(data=st.data())
def test_both_clocks_see_the_same_tasks_and_the_tokens_are_the_models(source, data):
    """Operations, streams, dependencies, waits, amounts of work, memory; and what is generated."""
    lengths = data.draw(st.lists(st.integers(1, 13), min_size=1, max_size=4))
    gen_len = data.draw(st.integers(1, 5))
    policy = data.draw(policies("again", len(lengths)))
    prompts = random_prompts(lengths, seed=sum(lengths))
    found = run("again", source, policy, prompts, gen_len)
    assert found.tokens == expected_tokens(source, prompts, gen_len)
    expected, peak = simulated(source, policy, lengths, gen_len, found)
    assert len(found.graphs) == len(expected)
    for ours, theirs in zip(found.graphs, expected, strict=True):
        assert ours.same_structure(theirs)
        assert [ours.works[i] for i in ours.work] == [theirs.works[i] for i in theirs.work]
    assert found.predicted_bytes["gpu"] == peak["gpu"]


def test_guesses_are_right_and_wrong(source):
    """Or the tokens above would show little: some copies are made ahead and used, some in vain."""
    policy = make_policy({"N": 1, "mu": 1})
    found = run("again", source, policy, random_prompts([9]), 12)
    rows = found.routing[found.routing["step"] > 1]
    right = wrong = 0
    for step, layer in {(row.step, row.layer) for row in rows.itertuples()}:
        named = rows[(rows["step"] == step) & (rows["layer"] == layer)].filter(like="expert_")
        distinct = len(np.unique(named.to_numpy()))
        ahead, late = copies(found.timeline.frame, step, layer)
        right += distinct - late
        wrong += ahead + late - distinct
    assert right > 0
    assert wrong > 0


def copies(frame, step, layer):
    """Copies of a layer's experts before its gate, and behind it."""
    here = frame[(frame["step"] == step) & (frame["layer"] == layer)]
    (gate,) = here[here["op"] == "gate"]["task"]
    loads = here[here["op"] == "load_expert"]["task"]
    return int((loads < gate).sum()), int((loads > gate).sum())
