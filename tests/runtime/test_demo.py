"""The demo: a small model with its tokenizer and prompts, which every schedule can run."""

import json
from pathlib import Path

import pytest

from moelab.replaying import replay_run
from moelab.run_folder import RunFolder
from runtime.demo import LONGEST, SHORTEST, documentation, excerpts, main, write_demo
from runtime.device import DeviceOptions
from runtime.run import Output, Question, run
from runtime.tokenizer import load_tokenizer
from schedules.errors import BadInput
from schedules.model_presets import load_model
from sim.replay import replay

TINY = {"prompts": 5, "layers": 2, "hidden_size": 32, "expert_size": 48, "vocabulary": 400}
OPTIONS = DeviceOptions("cpu", 1 << 27, 1 << 30, 1e8, gpu_threads=1, cpu_threads=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo"), **TINY)


def prompts(folder: Path) -> list[str]:
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def test_the_model_is_what_was_asked_for(demo: Path) -> None:
    spec = load_model(demo / "model")
    assert (spec.family, spec.dtype, spec.n_layers, spec.n_experts) == ("mixtral", "float32", 2, 8)
    assert (spec.hidden_size, spec.expert_ffn_size, spec.vocab_size) == (32, 48, 400)
    assert max(len(text.split()) for text in prompts(demo)) + 20 < spec.max_context


def test_prompts_are_texts_of_unequal_lengths(demo: Path) -> None:
    words = [len(text.split()) for text in prompts(demo)]
    assert len(set(words)) == len(words) == 5
    assert all(SHORTEST <= n <= LONGEST for n in words)
    assert len(set(prompts(demo))) == 5


def test_there_are_enough_texts_for_the_demo() -> None:
    texts = excerpts(list(documentation()), 32)
    assert len(set(texts)) == 32


def test_the_tokenizer_gives_every_text_back(demo: Path) -> None:
    tokenizer = load_tokenizer(demo / "model")
    for text in [*prompts(demo), "naïve – 漢字 \N{SNOWMAN}\n\ttabs"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_seed_gives_the_same_files(demo: Path, tmp_path: Path) -> None:
    again = write_demo(tmp_path / "again", **TINY)
    other = write_demo(tmp_path / "other", **TINY, seed=1)
    for name in ("prompts.jsonl", "model/tokenizer.json", "model/model.safetensors"):
        assert (again / name).read_bytes() == (demo / name).read_bytes()
    weights = "model/model.safetensors"
    assert (other / weights).read_bytes() != (demo / weights).read_bytes()


@pytest.mark.parametrize(
    "sizes", [{"hidden_size": 40}, {"vocabulary": 200}, {"prompts": 0}, {"experts": 1}]
)
def test_sizes_that_cannot_be(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="a demo model needs a hidden size that 16 divides"):
        write_demo(tmp_path / "demo", **TINY | sizes)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_went_wrong(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    assert main([]) == 2
    assert main([str(tmp_path / "file")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "usage: python -m runtime.demo FOLDER",
        f"moelab: cannot write '{tmp_path / 'file'}': File exists",
    ]


@pytest.fixture(scope="module", params=["cgopipe", "flexgen", "zero-inference", "on-demand"])
def ran(request: pytest.FixtureRequest, demo: Path, tmp_path_factory) -> Path:
    """A run of the demo's model, in two batches."""
    out = tmp_path_factory.mktemp("runs") / request.param
    asked = Question(
        schedule=request.param,
        checkpoint=demo / "model",
        prompts=demo / "prompts.jsonl",
        gen_len=4,
        batch=3,
        micro_batch=3 if request.param in ("zero-inference", "on-demand") else 2,
        ignore_eos=True,
    )
    outcome = run(asked, OPTIONS, Output(out, verify=True, progress=False))
    assert outcome is not None
    assert outcome.verification is not None
    assert outcome.verification.ok, outcome.verification.sentence
    return out


def test_a_real_run_is_replayed_task_by_task(ran: Path) -> None:
    """All tasks are found again, with the durations that were measured."""
    result = json.loads((ran / "result.json").read_text())
    presets = result["provenance"]["presets"]
    assert presets["kernels"] == {
        "experts": "loop",
        "cpu_attention": "native",
        "cpu_experts": "loop",
        "logits": "last",
        "gathers": False,
        "tile_rows": 64,
        "small_tile_rows": 16,
    }
    assert presets["host_memory_pinned"] is (result["schedule"] != "cgopipe")
    assert result["measured"]["issue_s_per_task"] > 0
    found = replay_run(ran)
    assert found.to_dict()["tasks"] == result["tasks"]
    busy_s = {
        stream: sum(part.busy_s[stream] for _, part in found.batches) for stream in result["busy_s"]
    }
    assert busy_s == pytest.approx(result["busy_s"], rel=1e-6)


def test_a_simulation_that_issues_at_once_is_not_slower_than_what_was_measured(ran: Path) -> None:
    """Every task of it starts as early as its stream, its dependencies and the waits allow."""
    folder = RunFolder.read(ran)
    for batch in folder.batches():
        measured = folder.part(batch)
        span_s = measured.frame["end_s"].max()
        assert 0 < replay(measured, folder.place(batch)).makespan_s <= span_s + 1e-6
