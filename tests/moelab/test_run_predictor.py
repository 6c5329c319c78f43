"""moelab run --predictor: the trained network that names the experts."""

import json
from pathlib import Path

import pytest

from runtime.architecture import Architecture
from runtime.predictor_files import random_predictor, write_predictor
from tests.moelab.runs import GEN_LEN, HERE, files, lines, result, write_prompts


@pytest.fixture
def run(cli, model, tmp_path):
    """`moelab run sida` on the tiny checkpoint."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")

    def run(*more, out="out"):
        asked = ["--checkpoint", model, "--prompts", prompts, "--gen-len", GEN_LEN, "--ignore-eos"]
        return cli("run", "sida", *asked, *HERE.split(), "--out", out, *more)

    return run


@pytest.fixture
def predictor(model, tmp_path):
    """The file of a predictor for the tiny checkpoint, by seed."""

    def predictor(seed):
        path = tmp_path / f"predictor-{seed}.safetensors"
        write_predictor(random_predictor(Architecture.from_folder(model).spec, seed).weights, path)
        return path

    return predictor


def test_a_run_that_is_verified(run, predictor):
    """By the plain model changed alike, not by transformers; and nobody knows who was right."""
    end = run("--predictor", predictor(1), "--micro-batch", 2, "--verify")
    assert (end.code, end.err) == (0, "")
    found = json.loads(Path("out/verification.json").read_text(encoding="utf-8"))
    assert (found["ok"], found["differing"], found["tokens"]) == (True, 0, 5 * GEN_LEN)
    assert found["reference"].startswith("the plain model changed alike")
    assert set(result("out")["facts"]) == {"hit_rate"}


def test_another_predictor_is_another_function_and_another_run(run, predictor):
    run("--predictor", predictor(1))
    run("--predictor", predictor(2), out="other")
    assert lines("out") != lines("other")
    asked = [result(out)["provenance"]["question"]["predictor"] for out in ("out", "other")]
    assert asked[0] != asked[1]
    assert all(identity.startswith("sha256:") for identity in asked)


def test_a_checkpoint_needs_one(run):
    end = run()
    assert (end.code, end.mistake) == (
        2,
        "schedule 'sida' needs a trained predictor: give --predictor FILE",
    )


def test_random_weights_have_a_random_one(cli, model):
    words = ["--random-weights", model / "config.json", "-w", "fixed-5", "--gen-len", 3, "-N", 3]
    end = cli("run", "sida", *words, *HERE.split(), "--out", "out", "--verify")
    assert (end.code, end.err) == (0, "")


def test_one_for_another_model(run, model, tmp_path):
    path = tmp_path / "none.safetensors"
    end = run("--predictor", path)
    assert end.code == 2
    assert "none.safetensors' cannot be read" in end.err
    weights = random_predictor(Architecture.from_folder(model).spec, 0).weights
    write_predictor({**weights, "residual.bias": weights["residual.bias"][:3]}, path)
    assert "residual.bias has shape [3]; for " in run("--predictor", path).err
    assert files(tmp_path) >= {"none.safetensors"}
    assert "out" not in files(tmp_path)
