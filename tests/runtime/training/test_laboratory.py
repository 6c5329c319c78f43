"""The whole laboratory at its tiny size: complete, in its course, and the same twice."""

import json
from typing import Any

import pandas as pd
import pytest
import torch

from runtime.training.laboratory import PLANS, one_thread, run_plan
from schedules.errors import BadInput

Run = tuple[dict[str, Any], dict[str, pd.DataFrame]]


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    return run_plan("tiny", 3), run_plan("tiny", 3)


def without_seconds(figures: dict[str, Any]) -> dict[str, Any]:
    models = {
        name: {key: value for key, value in model.items() if key != "seconds"}
        for name, model in figures["models"].items()
    }
    return figures | {"models": models}


def test_same_seed_same_bits(runs: tuple[Run, Run]) -> None:
    (first, routing), (again, routing_again) = runs
    assert json.dumps(without_seconds(first)) == json.dumps(without_seconds(again))
    for name, frame in routing.items():
        pd.testing.assert_frame_equal(frame, routing_again[name])


def test_losses_fall(runs: tuple[Run, Run]) -> None:
    for model in runs[0][0]["models"].values():
        assert model["loss"]["trained"] < 0.8 * model["loss"]["untrained"]
        assert model["training_loss"]["last"] < model["training_loss"]["first"]
        assert model["sida"]["training"][1] < model["sida"]["training"][0]


def test_pre_gates_start_from_the_trained_model(runs: tuple[Run, Run]) -> None:
    for model in runs[0][0]["models"].values():
        assert [tuned["level"] for tuned in model["pre_gates"]] == [0, 1, 2, 3]
        assert model["pre_gates"][0]["before"] == model["loss"]["trained"]
        assert all(tuned["after"] < tuned["before"] for tuned in model["pre_gates"])


def test_figures_have_a_value_per_layer(runs: tuple[Run, Run]) -> None:
    for name, model in runs[0][0]["models"].items():
        layers = PLANS["tiny"].models[name].layers
        lists = [model["sida"][key] for key in ("top_1", "top_3", "taken", "by_token")]
        assert {len(found) for found in [*lists, *model["skew"].values()]} == {layers}
        assert {d: len(found) for d, found in model["look_ahead"].items()} == {
            str(d): layers - d for d in (1, 2, 3)
        }


def test_recorded_routing_is_that_of_the_plan(runs: tuple[Run, Run]) -> None:
    plan = PLANS["tiny"]
    for name, frame in runs[0][1].items():
        sizes = plan.models[name]
        assert len(frame) == plan.requests * sizes.context * sizes.layers
        assert frame["request"].nunique() == plan.requests
        assert frame["step"].max() == sizes.context // 2
        counts = frame.groupby("layer")["expert_0"].nunique()
        assert (counts <= sizes.experts).all()


def test_another_seed_gives_another_model(runs: tuple[Run, Run]) -> None:
    other = run_plan("tiny", 4)[0]
    assert other["text"] == runs[0][0]["text"]
    assert other["models"]["top-1"]["loss"] != runs[0][0]["models"]["top-1"]["loss"]


def test_a_size_is_named() -> None:
    with pytest.raises(BadInput, match=r"there is no size 'smal', did you mean 'small'\?"):
        run_plan("smal", 0)


def test_threads_are_given_back() -> None:
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
