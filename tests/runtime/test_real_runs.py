"""The whole way with real sessions: prompts, batches, tokens, files, verification."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.batches import Batch, policy_for
from runtime.device import DeviceOptions
from runtime.environment import provenance
from runtime.files import RunFiles
from runtime.generate import Interrupted, SessionLike, generate
from runtime.journal import Finished, Journal
from runtime.outcome import Asked, measured_result
from runtime.prompts import Prompts, draw_prompts
from runtime.random_weights import RandomWeights
from runtime.sampling import make_sampler
from runtime.sampling_settings import Sampling
from runtime.session import Session
from runtime.tokenizer import load_tokenizer
from runtime.verify import plain_reference, verify
from schedules.lengths import Listed
from schedules.model import ModelSpec
from schedules.policy import make_policy
from schedules.result_keys import KEYS
from schedules.schedule import find_schedule
from schedules.timeline import Timeline
from schedules.workload import Workload

GEN_LEN = 5
MODEL = ModelSpec(
    name="tiny",
    family="mixtral",
    dtype="float32",
    n_layers=2,
    hidden_size=32,
    vocab_size=101,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    n_experts=4,
    top_k=2,
    expert_ffn_size=48,
    ffn_matrices=3,
    tied_embeddings=False,
    max_context=64,
    source="made up",
)
OPTIONS = DeviceOptions("cpu", 1 << 26, 1 << 28, gpu_threads=1, cpu_threads=1)


class Stopping(Session):
    """Ctrl-C in the second decode step of the second batch."""

    def decode_step(self):
        if self.n_prompts == 2 and len(self.graphs) == 2 and Stopping.batches == 2:
            raise KeyboardInterrupt
        return super().decode_step()

    def prefill(self):
        Stopping.batches += 1
        return super().prefill()

    batches = 0


GREEDY, WARM = Sampling(), Sampling(0.9, 40, 0.95, seed=3)


@pytest.fixture(scope="module")
def source() -> RandomWeights:
    return RandomWeights(MODEL, seed=1, std=0.3)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    lengths = Listed(lengths=(4, 9, 1, 6, 4))
    quiz = Workload(
        name="quiz", prompt_lengths=lengths, gen_len=GEN_LEN, padded=False, source="made up"
    )
    return draw_prompts(quiz, 5, MODEL.vocab_size)


def run(
    out: Path,
    source: RandomWeights,
    prompts: Prompts,
    n: int = 5,
    sampling: Sampling = GREEDY,
    name: str = "cgopipe",
    resume: bool = False,
    session: type[Session] = Session,
) -> list[dict[str, Any]]:
    """What the command does, in short; the lines of tokens.jsonl."""
    kind = find_schedule(name)
    policy = make_policy({"N": n, "mu": n if kind.one_batch else 2})

    def open_session(batch: Batch) -> SessionLike:
        sampler = make_sampler(sampling, batch.indices, GEN_LEN)
        own = policy_for(policy, kind, batch)
        return session(kind, source, own, batch.prompts, GEN_LEN, OPTIONS, sampler)

    question = {"n_prompts": len(prompts), "policy": policy.model_dump()}
    with Journal(out, question, resume) as journal:
        files = RunFiles(journal, f"{name}, tiny")
        found = generate(
            open_session,
            prompts.token_ids,
            GEN_LEN,
            policy.N,
            (),
            journal,
            keep=files.keep,
            routing=True,
        )
        asked = Asked(name, MODEL.name, "this CPU", prompts.name, policy.model_dump())
        origin = provenance(sampling.seed, {}, "cpu", question)
        result = measured_result(asked, files.records(), found.sequences, origin)
        files.write(found.sequences, prompts.token_ids, load_tokenizer(None), result)
    return [json.loads(line) for line in (out / "tokens.jsonl").read_text().splitlines()]


def ids(lines: list[dict[str, Any]]) -> list[list[int]]:
    return [line["token_ids"] for line in lines]


@pytest.mark.parametrize("name", ["cgopipe", "flexgen", "zero-inference"])
def test_the_tokens_are_those_of_the_plain_model(tmp_path: Path, source, prompts, name) -> None:
    lines = run(tmp_path / "run", source, prompts, 2, name=name)
    sequences = [Finished(x["index"], tuple(x["token_ids"]), "length") for x in lines]
    found = verify(plain_reference(source), prompts.token_ids, sequences, GEN_LEN, (), "float32")
    assert found.ok, found.sentence
    assert found.tokens == 5 * GEN_LEN
    assert len({tuple(x) for x in ids(lines)}) > 1  # not all the same
    assert [x["prompt_token_ids"] for x in lines] == [list(p) for p in prompts.token_ids]


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_the_batch_size_changes_no_token(tmp_path: Path, source, prompts, sampling) -> None:
    one, two = (run(tmp_path / str(n), source, prompts, n, sampling) for n in (5, 2))
    assert one == two


def test_sampling_is_not_greedy_and_repeats(tmp_path: Path, source, prompts) -> None:
    runs = [
        ids(run(tmp_path / str(i), source, prompts, 3, sampling))
        for i, sampling in enumerate([WARM, WARM, GREEDY])
    ]
    assert runs[0] == runs[1] != runs[2]


def test_results_follow_from_the_timeline(tmp_path: Path, source, prompts) -> None:
    run(tmp_path / "run", source, prompts, 2)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    timeline = Timeline.from_parquet(tmp_path / "run" / "timeline.parquet")
    frame = timeline.frame
    assert tuple(result) == (*KEYS, "measured")
    assert result["tasks"] == len(frame)
    assert set(frame["batch"]) == {0, 1, 2}
    assert set(frame["step"]) == set(range(GEN_LEN))
    busy = (frame["end_s"] - frame["start_s"]).groupby(frame["stream"]).sum().to_dict()
    issuing_s = result["busy_s"].pop("host")  # in no task
    assert result["busy_s"] == pytest.approx(dict.fromkeys(result["busy_s"], 0.0) | busy)
    assert 0 < issuing_s < result["makespan_s"]
    for _, lane in frame.groupby("stream"):  # one task at a time, over all batches
        lane = lane.sort_values("start_s")
        assert (lane["start_s"].to_numpy()[1:] >= lane["end_s"].to_numpy()[:-1] - 1e-9).all()
    assert result["throughput_tok_s"] == pytest.approx(5 * GEN_LEN / result["makespan_s"])
    assert 0 < result["utilization"]["gpu"] <= 1
    assert result["peak_memory_bytes"].keys() == result["capacity_bytes"].keys()
    assert result["bound_ratio"] >= 1
    assert (tmp_path / "run" / "routing.parquet").is_file()


def test_a_resumed_run_ends_with_the_same_files(tmp_path: Path, source, prompts) -> None:
    whole = run(tmp_path / "whole", source, prompts, 2, WARM)
    with pytest.raises(Interrupted, match="with 2 of 5 sequences finished"):
        run(tmp_path / "torn", source, prompts, 2, WARM, session=Stopping)
    resumed = run(tmp_path / "torn", source, prompts, 2, WARM, resume=True)
    assert resumed == whole
    result = json.loads((tmp_path / "torn" / "result.json").read_text())
    assert result["measured"]["measured_sequences"] == 5
    assert len(result["measured"]["batches"]) == 3
