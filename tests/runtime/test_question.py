"""The question of a run: what makes two runs the same."""

import json
from pathlib import Path

import pytest

from runtime.prompts import Prompts
from runtime.question import first_difference, folder_identity, question, random_identity
from runtime.sampling_settings import Sampling
from schedules.errors import BadInput
from schedules.policy import make_policy

BASE = {
    "schedule": "cgopipe",
    "policy": make_policy({"N": 4, "mu": 2}),
    "checkpoint": random_identity("mixtral-8x7b", 2, 0),
    "prompts": Prompts(((1, 2), (3,)), "p.jsonl", ("a", "b")),
    "gen_len": 8,
    "sampling": Sampling(),
    "eos_token_ids": (2, 1),
    "dtype": "float16",
    "device": "cpu",
    "n_gpus": 1,
    "modifiers": {},
    "predictor": None,
}
OTHER = {
    "schedule": ("flexgen", "schedule was cgopipe, now it is flexgen"),
    "policy": (make_policy({"N": 4, "mu": 4}), "policy mu was 2, now it is 4"),
    "checkpoint": (random_identity("mixtral-8x7b", 2, 1), "the checkpoint is not the same"),
    "prompts": (Prompts(((1, 2), (4,)), "p.jsonl", ("a", "b")), "the prompts are not the same"),
    "gen_len": (9, "gen_len was 8, now it is 9"),
    "sampling": (Sampling(1.0), "sampling temperature was 0.0, now it is 1.0"),
    "eos_token_ids": ((), r"eos_token_ids was [1, 2], now it is []"),
    "dtype": ("float32", "dtype was float16, now it is float32"),
    "device": ("cuda", "device was cpu, now it is cuda"),
    "n_gpus": (2, "n_gpus was 1, now it is 2"),
    "modifiers": ({"skip": 0.5}, "modifiers skip was None, now it is 0.5"),
    "predictor": ("sha256:0f", "the predictor is not the same"),
}


def test_the_same_question_survives_json() -> None:
    asked = question(**BASE)
    assert first_difference(asked, json.loads(json.dumps(asked))) is None
    assert first_difference(question(**BASE | {"eos_token_ids": (1, 2)}), asked) is None
    assert asked["n_prompts"] == 2


@pytest.mark.parametrize("key", OTHER)
def test_every_part_matters_and_is_named(key: str) -> None:
    value, clause = OTHER[key]
    before = json.loads(json.dumps(question(**BASE)))
    now = json.loads(json.dumps(question(**BASE | {key: value})))
    assert first_difference(now, before) == clause


def test_every_argument_is_tried_above() -> None:
    assert OTHER.keys() == BASE.keys()


def test_a_key_that_only_one_of_them_has() -> None:
    assert first_difference({"a": 1}, {}) == "a was None, now it is 1"
    assert first_difference({}, {"a": 1}) == "a was 1, now it is None"


# -- checkpoints -----------------------------------------------------------------------------------


def checkpoint(folder: Path, config: str = "{}", weights: bytes = b"w" * 3_000_000) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model-1.safetensors").write_bytes(weights)
    (folder / "model-2.safetensors").write_bytes(b"small")
    return folder


def test_a_copy_of_a_checkpoint_is_the_same(tmp_path: Path) -> None:
    first, copy = (folder_identity(checkpoint(tmp_path / name)) for name in "ab")
    assert first == copy
    assert first.startswith("sha256:")


def test_other_weights_are_another_checkpoint(tmp_path: Path) -> None:
    tuned = bytearray(b"w" * 3_000_000)
    tuned[2_990_000:] = b"x" * 10_000
    identities = [
        folder_identity(checkpoint(tmp_path / "a")),
        folder_identity(checkpoint(tmp_path / "b", config='{"rope_theta": 1}')),
        folder_identity(checkpoint(tmp_path / "c", weights=bytes(tuned))),
        folder_identity(checkpoint(tmp_path / "d", weights=b"w" * 3_000_001)),
    ]
    (checkpoint(tmp_path / "e") / "model-2.safetensors").rename(
        tmp_path / "e" / "model-3.safetensors"
    )
    identities.append(folder_identity(tmp_path / "e"))
    assert len(set(identities)) == 5


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json' cannot be read: No such file"):
        folder_identity(tmp_path)
