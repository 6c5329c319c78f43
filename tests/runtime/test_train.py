"""`python -m runtime.train`: what it prints and leaves."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from runtime.checkpoint import Checkpoint
from runtime.predictor_files import predictor_shapes, read_predictor
from runtime.train import main, row
from runtime.training.laboratory import PLANS
from schedules.routing_recorded import recording
from tests.runtime.checkpoints import random_prompts, save_checkpoint


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder, and what was printed."""
    out, printed = tmp_path_factory.mktemp("train") / "made" / "here", io.StringIO()
    with redirect_stdout(printed):
        assert main(["--size", "tiny", "--seed", "1", "--out", str(out)]) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def folder(done: tuple[Path, str]) -> Path:
    return done[0]


def test_it_leaves_figures_and_routing(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["routing-top-1.parquet", "routing-top-2.parquet", "training.json"]
    figures = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert (figures["size"], figures["seed"]) == ("tiny", 1)
    assert set(figures["models"]) == {"top-1", "top-2"}
    assert len(figures["text"]["sha256"]) == 64


@pytest.mark.parametrize("name", ["top-1", "top-2"])
def test_the_simulator_reads_the_routing(folder: Path, name: str) -> None:
    sizes, path = PLANS["tiny"].models[name], folder / f"routing-{name}.parquet"
    found = recording(str(path))
    assert (found.n_experts, found.top_k) == (sizes.experts, sizes.top_k)
    assert found.of(True).layers == tuple(range(sizes.layers))
    assert set(found.of(True).lengths) == {sizes.context // 2}
    columns = ["step", "layer", "micro_batch", "request", "position"]
    experts = [f"expert_{i}" for i in range(sizes.top_k)]
    assert pq.read_schema(path).names == [*columns, *experts, "batch"]


def test_it_prints_a_table(done: tuple[Path, str]) -> None:
    out, printed = done
    figures = json.loads((out / "training.json").read_text(encoding="utf-8"))
    for model in figures["models"].values():
        assert row(("loss, trained", f"{model['loss']['trained']:.3f}")) in printed
    assert printed.count("SiDA's hit rate by layer, top-1") == 2
    assert printed.endswith(f"Written: {out}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "huge"], "there is no size 'huge'; known: small, tiny"),
        (["--size", "tiny", "--seed", "-1"], "the seed is -1, but must be at least 0"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"moelab: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").touch()
    assert main(["--size", "tiny", "--out", str(tmp_path / "taken")]) == 2
    assert "taken' cannot be made: File exists" in capsys.readouterr().err


# -- for a checkpoint ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model and three prompts, as words of the command line."""
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, "mixtral")
    prompts = [json.dumps({"prompt_token_ids": ids}) for ids in random_prompts([5, 2, 7])]
    (folder / "p.jsonl").write_text("\n".join(prompts), encoding="utf-8")
    return ["--checkpoint", str(folder), "--prompts", str(folder / "p.jsonl")]


def test_a_predictor_for_a_checkpoint(
    checkpoint: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*checkpoint, "--gen-len", "2", "--steps", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "a predictor for layers 0 1\n" in printed
    assert "the likeliest expert is named first" in printed
    assert sorted(path.name for path in out.iterdir()) == ["predictor.safetensors", "training.json"]
    spec = Checkpoint(checkpoint[1]).architecture.spec
    found = read_predictor(out / "predictor.safetensors", spec)
    assert found.weights.keys() == predictor_shapes(spec).keys()
    figures = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert (figures["prompts"], figures["gen_len"], figures["steps"]) == (3, 2, 3)
    assert len(figures["taken"]) == len(figures["layers"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gen-len", "0"], "--gen-len is 0, but must be at least 1"),
        (["--steps", "0"], "--steps is 0, but must be at least 1"),
        (["--gen-len", "999"], "has 5 tokens and 999 are to be generated"),
        (["--prompts", "none.jsonl"], "none.jsonl"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_s(
    checkpoint: list[str],
    words: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*checkpoint, *words, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_without_the_other(checkpoint: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(checkpoint[:2]) == 2
    assert "--checkpoint and --prompts go together" in capsys.readouterr().err
