"""Questions by name, by path and by object are the same questions."""

import json
from inspect import signature
from pathlib import Path

import pytest

from schedules.errors import BadInput
from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.workload import Workload
from schedules.workload_presets import load_workload
from sim import Question, compare, simulate

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "torch_dtype": "float16",
}


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_instead_of_names(tmp_path, kind):
    (tmp_path / "box.toml").write_text(
        'based_on = "gcp-t4-24c"\nname = "box"\ndescription = "as the preset"\n'
    )
    (tmp_path / "w.csv").write_text("prompt_len\n10\n30\n")
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    found = simulate(
        "cgopipe",
        kind(tmp_path),
        kind(tmp_path / "box.toml"),
        kind(tmp_path / "w.csv"),
        gen_len=2,
        batch=4,
        micro_batch=2,
        padded=False,
    )
    lengths = Listed(lengths=(10, 30))
    workload = Workload(name="w", prompt_lengths=lengths, gen_len=2, padded=False, source="-")
    expected = simulate("cgopipe", *S1[:2], workload, batch=4, micro_batch=2)
    assert found.makespan_s == expected.makespan_s
    assert found.scenario.hardware.name == "box"
    assert found.scenario.model.parameters == load_model(S1[0]).parameters


def test_changes_to_a_workload_object():
    """A generation length beside an object counts, as it does beside a name."""
    workload = load_workload("mtbench")
    found = simulate("cgopipe", *S1[:2], workload, 3, 8, 2, padded=False)
    by_name = simulate("cgopipe", *S1, 3, 8, 2, padded=False)
    assert found.scenario.workload.gen_len == 3
    assert found.scenario.workload.padded is False
    assert found.to_dict() == by_name.to_dict()
    assert load_workload("mtbench") == workload


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen_len": 0}, "gen_len is 0"),
        ({"gen_len": 2.5}, r"gen_len is 2\.5"),
        ({"gen_len": float("nan")}, "gen_len is nan"),
        ({"padded": "yes"}, "workload mtbench: padded is 'yes'"),
        ({"seed": -1}, "seed is -1; it must be >= 0"),
    ],
)
def test_impossible_changes(changes, message):
    with pytest.raises(BadInput, match=message):
        Question(*S1[:2], load_workload("mtbench"), **changes).scenario()


def test_what_is_fixed_of_the_policy():
    asked = Question(*S1, batch=8, micro_batch=2, policy={"weights_on_gpu": 0.1})
    assert asked.given() == {"N": 8, "mu": 2, "r_w": 0.1}
    assert Question(*S1).given() == {}


def test_an_unknown_engine():
    with pytest.raises(BadInput, match="'simp', did you mean 'simpy'"):
        Question(*S1, engine="simp").scenario()


@pytest.mark.parametrize(("answer", "first"), [(simulate, "schedule"), (compare, "names")])
def test_the_front_door_takes_the_values_of_a_question(answer, first):
    found = signature(answer)
    assert list(found.parameters) == [first, *signature(Question).parameters]
    assert found.parameters["routing"].default == "uniform"


def test_all_values_by_name():
    named = dict(zip(("model", "hardware", "workload"), S1, strict=True))
    found = simulate(schedule="cgopipe", gen_len=2, batch=4, micro_batch=2, **named)
    assert found.to_dict() == simulate("cgopipe", *S1, 2, 4, 2).to_dict()


def test_a_value_that_no_question_has():
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'gen_length'"):
        simulate("cgopipe", *S1, gen_length=3)
