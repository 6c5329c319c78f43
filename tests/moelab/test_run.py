"""moelab run: from the words of the command line to the files of a folder."""

import json
import shutil
from importlib.metadata import version

import pandas as pd
import pytest

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate
from schedules.result_keys import KEYS, MEASURED
from schedules.timeline import COLUMNS, Timeline
from tests.moelab.runs import (
    GEN_LEN,
    HERE,
    PROMPTS,
    RESULTS,
    files,
    lines,
    result,
    tokens,
    write_prompts,
)
from tests.runtime.runs import SCHEDULES


@pytest.fixture(scope="module")
def expected(model):
    """Greedy tokens of the plain model."""
    return plain_generate(Checkpoint(model), PROMPTS, GEN_LEN)


@pytest.fixture
def run(cli, model, tmp_path):
    """`moelab run SCHEDULE` on the tiny checkpoint, with its prompts; later options win."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")

    def run(schedule, *more, out="out"):
        asked = ["--checkpoint", model, "--prompts", prompts, "--gen-len", GEN_LEN, "--ignore-eos"]
        return cli("run", schedule, *asked, *HERE.split(), "--out", out, *more)

    return run


@pytest.fixture
def random_run(cli, model):
    """The same with random weights of that model's sizes, and random prompts."""

    def run(*more, out="out"):
        asked = ["--random-weights", model / "config.json", "-w", "random-5-4", "-N", 3]
        return cli("run", "cgopipe", *asked, *HERE.split(), "--out", out, *more)

    return run


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch", [5, 2])
def test_every_schedule_yields_the_tokens_of_the_model(run, expected, schedule, batch):
    end = run(schedule, "--batch", batch)
    assert (end.code, end.err) == (0, "")
    assert end.written == {"out/", *(f"out/{name}" for name in RESULTS)}
    assert [line["token_ids"] for line in lines("out")] == expected


def test_tokens(run):
    run("cgopipe")
    found = lines("out")
    assert [list(line) for line in found] == [
        ["index", "prompt_token_ids", "token_ids", "text"] for _ in PROMPTS
    ]
    assert [line["index"] for line in found] == [0, 1, 2, 3, 4]
    assert [line["prompt_token_ids"] for line in found] == PROMPTS
    assert [line["text"] for line in found] == [None] * 5


def test_the_result_has_the_keys_of_a_simulated_one_and_where_it_comes_from(run):
    run("cgopipe", "--seed", 7, "-p", "r_w=0.5")
    found = result("out")
    assert tuple(found) == (*KEYS, MEASURED)
    assert found["policy"] == found["provenance"]["question"]["policy"]
    assert (found["policy"]["N"], found["policy"]["mu"], found["policy"]["r_w"]) == (5, 2, 0.5)
    assert found["provenance"]["version"] == version("moelab")
    assert found["provenance"]["seed"] == 7
    assert found["provenance"]["presets"]["prompt_lengths"] == [3, 9, 1, 7, 5]
    assert found["measured"]["generated_tokens"] == 5 * GEN_LEN
    for pool, capacity in found["capacity_bytes"].items():
        assert found["peak_memory_bytes"][pool] <= capacity
    assert found["capacity_bytes"]["gpu"] == 8 * 2**20
    assert found["makespan_s"] >= found["lower_bound_s"] > 0


def test_the_timeline_and_the_routing_open(run):
    run("cgopipe", "-N", 3)
    timeline = Timeline.from_parquet("out/timeline.parquet")
    assert list(timeline.frame.columns) == [*COLUMNS, "batch"]
    assert len(timeline.frame) == result("out")["tasks"]
    assert set(timeline.frame["step"]) == set(range(GEN_LEN))
    routing = pd.read_parquet("out/routing.parquet")
    assert set(routing["request"]) == {0, 1, 2, 3, 4}
    assert len(routing) == 2 * (sum(map(len, PROMPTS)) + 5 * (GEN_LEN - 1))  # layers x tokens


def test_a_model_without_experts_has_no_routing(cli, tmp_path):
    from tests.runtime.checkpoints import save_checkpoint

    folder = save_checkpoint(tmp_path / "dense", "llama")
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    asked = ["--checkpoint", folder, "--prompts", prompts, "--gen-len", 2, "--out", "out"]
    assert cli("run", "flexgen", *asked, *HERE.split()).code == 0
    assert files("out") == RESULTS - {"routing.parquet"}


def test_what_is_printed(run):
    end = run("cgopipe")
    printed = " ".join(end.out.split())
    assert "schedule tokens/s" in printed
    assert "Memory of gpu: " in printed
    assert " 8.0 MiB allowed" in printed
    assert f"0 {' '.join(map(str, tokens('out')[0]))}" in printed
    assert printed.endswith("/out")


def test_results_as_json(run):
    end = run("cgopipe", "--json", "-")
    assert end.err == ""
    assert end.json == result("out")
    end = run("cgopipe", "--json", "r.json", out="second")
    assert json.loads(end.after["r.json"]) == result("second")
    assert "Written: " in end.out


def test_other_files_of_the_folder_stay(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert run("cgopipe").code == 0
    assert files("out") == {*RESULTS, "notes.txt"}


def test_the_profiler_sees_the_workers(run):
    end = run("cgopipe", "--profile")
    assert (end.code, end.err) == (0, "")
    events = json.loads(end.after["out/profile.json"])["traceEvents"]
    operations = {(e.get("name"), e.get("tid")) for e in events if e.get("ph") == "X"}
    assert len({tid for name, tid in operations if str(name).startswith("aten::")}) > 1
    assert ("aten::copy_") in {name for name, _ in operations}


# -- prompts and sampling --------------------------------------------------------------------------


def test_text_in_and_out(cli, model, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    folder = shutil.copytree(model, tmp_path / "with-words")
    words = {f"w{i}": i for i in range(160)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "w5 w9 w3"}\n\n{"prompt_token_ids": [7, 7]}\n')
    asked = ["--checkpoint", folder, "--prompts", prompts, "--gen-len", 3, "--out", "out"]
    end = cli("run", "cgopipe", *asked, *HERE.split())
    assert (end.code, end.err) == (0, "")
    found = lines("out")
    assert [line["prompt_token_ids"] for line in found] == [[5, 9, 3], [7, 7]]
    for line in found:
        assert line["text"] == " ".join(f"w{i}" for i in line["token_ids"])
    assert found[0]["text"] in end.out


def test_a_sequence_ends_with_its_end_token(cli, model, expected, tmp_path):
    folder = shutil.copytree(model, tmp_path / "ends")
    end_token = expected[0][1]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end_token}))
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    asked = ["--checkpoint", folder, "--prompts", prompts, "--gen-len", GEN_LEN, *HERE.split()]
    assert cli("run", "cgopipe", *asked, "--out", "out").code == 0

    def cut(ids):
        return ids[: ids.index(end_token) + 1] if end_token in ids else ids

    assert tokens("out") == [cut(ids) for ids in expected]
    assert result("out")["measured"]["stopped_sequences"] >= 1
    assert cli("run", "cgopipe", *asked, "--ignore-eos", "--out", "all").code == 0
    assert tokens("all") == expected


def test_random_weights_and_a_workload(random_run):
    assert random_run().code == 0
    assert [len(line["prompt_token_ids"]) for line in lines("out")] == [5, 5, 5]
    assert [len(ids) for ids in tokens("out")] == [4, 4, 4]
    found = result("out")
    assert (found["workload"], found["measured"]["sequences"]) == ("random-5-4", 3)
    question = found["provenance"]["question"]
    assert question["checkpoint"].startswith("random weights of tiny, 2 layers, seed 0")


def test_the_seed_decides(random_run):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert random_run("--seed", seed, out=name).code == 0
    assert lines("a") == lines("b")
    assert lines("c")[0]["prompt_token_ids"] != lines("a")[0]["prompt_token_ids"]


def test_layers_and_lengths_can_be_given(random_run):
    assert random_run("--layers", 1, "--gen-len", 2, "--json", "-").json["model"] == "tiny-1l"
    assert [len(ids) for ids in tokens("out")] == [2, 2, 2]
    assert set(Timeline.from_parquet("out/timeline.parquet").frame["layer"]) <= {-1, 0}


@pytest.mark.slow
def test_random_weights_of_a_preset(cli):
    """0.5 GB, two layers of each stack."""
    words = "--random-weights switch-base-8 --layers 2 -w fixed-5 --gen-len 2 -N 4 --out out"
    machine = "--device cpu --gpu-memory 4GiB --host-memory 8GiB"
    end = cli("run", "on-demand", *words.split(), *machine.split())
    assert (end.code, end.err) == (0, "")
    assert result("out")["model"] == "switch-base-8-2l"


def test_sampling_repeats_and_does_not_depend_on_the_batch(run):
    warm = ["--temperature", 1.5, "--top-k", 50, "--top-p", 0.99]
    for name, more in {"a": [], "b": [], "c": ["-N", 2], "d": ["--seed", 1]}.items():
        assert run("cgopipe", *warm, *more, out=name).code == 0
    run("cgopipe", out="greedy")
    assert tokens("a") == tokens("b") == tokens("c")
    assert tokens("a") != tokens("d")
    assert tokens("a") != tokens("greedy")


# -- the policy and the machine --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "words", "n", "mu"),
    [
        ("cgopipe", "", 5, 2),
        ("cgopipe", "-N 2", 2, 1),
        ("cgopipe", "-N 4 -u 3", 4, 3),
        ("cgopipe", "-p N=4 mu=3", 4, 3),
        ("cgopipe", "-p batch=4 micro_batch_size=3", 4, 3),
        ("cgopipe", "-N 100", 5, 2),  # at most all prompts
        ("cgopipe", "-N 100 -u 50", 5, 5),
        ("accelerate", "", 5, 5),
        ("accelerate", "-N 3", 3, 3),
    ],
)
def test_batches_and_micro_batches(run, schedule, words, n, mu):
    end = run(schedule, *words.split(), "--json", "-")
    assert end.err == ""
    assert (end.json["policy"]["N"], end.json["policy"]["mu"]) == (n, mu)
    assert len(end.json["measured"]["batches"]) == -(-5 // n)


def test_a_number_format(run):
    found = run("cgopipe", "--dtype", "bfloat16", "--json", "-").json
    assert found["provenance"]["presets"]["dtype"] == "bfloat16"
    assert (
        found["peak_memory_bytes"]["gpu"]
        < run("cgopipe", "--json", "-", out="second").json["peak_memory_bytes"]["gpu"]
    )


def test_a_link_can_be_held_to_a_bandwidth(run, expected):
    """Copies then take at least their bytes over that rate."""
    rate = 50e6
    found = run("cgopipe", "--link-bandwidth", "50MB/s", "--json", "-").json
    assert found["provenance"]["presets"]["link_bytes_per_s"] == rate
    assert tokens("out") == expected
    frame = Timeline.from_parquet("out/timeline.parquet").frame
    loads = frame[frame["op"] == "load_weights"]
    took_s = loads["end_s"] - loads["start_s"]
    assert loads["link_bytes"].sum() > 0
    assert (took_s >= 0.9 * loads["link_bytes"] / rate).all()


# -- verification ----------------------------------------------------------------------------------


def test_verification(run, random_run):
    end = run("cgopipe", "--verify")
    assert (end.code, end.err) == (0, "")
    assert "Verified: all 20 tokens of 5 sequences equal those of transformers" in end.out
    found = json.loads(end.after["out/verification.json"])
    assert (found["ok"], found["tokens"], found["differing"]) == (True, 20, 0)
    end = random_run("--verify", out="random")
    assert (end.code, end.err) == (0, "")
    assert "equal those of the plain model" in end.out


def test_a_run_that_another_model_contradicts(run, monkeypatch):
    """Exit code 1; the files stay, so that one can look."""
    import runtime.run
    from runtime.verify import Reference

    right = runtime.run.transformers_reference

    def wrong(folder, dtype):
        reference = right(folder, dtype)
        return Reference("another model", lambda ids, n: reference.logits(ids, n).roll(1, dims=-1))

    monkeypatch.setattr(runtime.run, "transformers_reference", wrong)
    end = run("cgopipe", "--verify")
    assert end.code == 1
    assert end.err == (
        "moelab: the tokens are not those of the reference model; see verification.json\n"
    )
    assert files("out") == {*RESULTS, "verification.json"}
    assert not json.loads(end.after["out/verification.json"])["ok"]


def test_a_reference_that_cannot_be_loaded(run, monkeypatch):
    import transformers

    def broken(*_, **__):
        raise OSError("no such luck.\nmore")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", broken)
    end = run("cgopipe", "--verify")
    assert end.code == 2
    assert "cannot be verified, transformers says: no such luck\n" in end.err
    assert files("out") == RESULTS
