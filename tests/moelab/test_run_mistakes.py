"""moelab run, asked what cannot be done: one sentence, exit code 2, no file, no thread."""

import importlib.util
import json
import os
import shutil

import pytest

from tests.moelab.runs import GEN_LEN, HERE, UNFINISHED, files, write_prompts
from tests.runtime.faults import lanes


@pytest.fixture
def run(cli, model, tmp_path):
    """`moelab run WORDS` with MODEL and PROMPTS filled in; `CHECKPOINT` stands for all of it."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    asked = f"--checkpoint MODEL --prompts PROMPTS --gen-len {GEN_LEN} {HERE} --out out"

    def run(words):
        words = words.replace("CHECKPOINT", asked).replace("RANDOM", f"{DRAWN} {HERE} --out out")
        words = words.replace("MODEL", str(model)).replace("PROMPTS", str(prompts))
        end = cli("run", *words.split())
        assert lanes() == []
        return end

    return run


DRAWN = "--random-weights MODEL/config.json -w fixed-5 --gen-len 3 -N 4"


# -- what is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cgopip CHECKPOINT", "unknown schedule 'cgopip', did you mean 'cgopipe'?"),
        (f"cgopipe --prompts PROMPTS --gen-len 3 {HERE} --out out", "give weights: either --check"),
        ("cgopipe CHECKPOINT --random-weights mixtral-8x7b", "give weights: either --checkpoint"),
        (f"cgopipe --checkpoint MODEL --gen-len 3 {HERE} --out out", "give prompts: either --pro"),
        ("cgopipe CHECKPOINT -w mtbench", "give prompts: either --prompts FILE.jsonl or --workl"),
        ("cgopipe CHECKPOINT --layers 1", "--layers shortens models with --random-weights"),
        (
            f"cgopipe --checkpoint MODEL --prompts PROMPTS {HERE} --out out",
            "give --gen-len, the tokens to generate for each prompt of the file",
        ),
        (
            f"cgopipe --checkpoint MODEL -w fixed-5 {HERE} --out out",
            "--workload draws as many prompts as the batch has: give --batch N",
        ),
        ("cgopipe CHECKPOINT --verify --temperature 1", "--verify compares greedy tokens; it ne"),
        ("cgopipe CHECKPOINT --gen-len 0", "gen_len is 0; it must be a whole number of at least 1"),
        ("cgopipe CHECKPOINT --gen-len -2", "gen_len is -2; it must be a whole number of at leas"),
        ("cgopipe RANDOM --gen-len 0", "gen_len is 0; it must be a whole number of at least 1"),
        ("cgopipe RANDOM -w nowhere", "no workload is named 'nowhere'; known: "),
        ("cgopipe RANDOM --layers 0", "0 layers; it must be 1 to"),
        ("cgopipe CHECKPOINT --top-k 5", "top_k = 5 has no effect at temperature 0; give a tempe"),
        ("cgopipe CHECKPOINT --temperature -1", "temperature is -1.0; it must be 0 (the most"),
        ("cgopipe CHECKPOINT --temperature 1 --top-p 2", "top_p is 2.0; it must be above 0 and"),
        ("cgopipe CHECKPOINT --temperature 1 --top-k 0", "top_k is 0; it must be a whole number"),
        (
            "cgopipe CHECKPOINT --seed -1",
            "seed is -1; it must be a whole number from 0 to 2^63 - 1",
        ),
    ],
)
def test_impossible_questions(run, words, said):
    assert said in run(words).mistake


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-N 0", "N = 0: input should be greater than or equal to 1"),
        ("-N -4", "N = -4: input should be greater than or equal to 1"),
        ("-N 100001", "N = 100001; a batch has at most 100,000 sequences"),
        ("-u 0", "mu = 0: input should be greater than or equal to 1"),
        ("-u 8", "micro-batch mu = 8 is larger than the batch N = 5"),
        ("-N 2 -u 3", "micro-batch mu = 3 is larger than the batch N = 2"),
        ("-N 3 -p N=4", "N is given twice, as 4 and as 3"),
        ("-u 1 -p micro_batch=2", "mu is given twice, as 2 and as 1"),
        ("-p r_ww=0.1", "unknown key 'r_ww', did you mean 'r_w'"),
        ("-p r_w", "'r_w' is not of the form KEY=VALUE"),
        ("-p r_w=2", "r_w = '2': input should be less than or equal to 1"),
        ("-p r_c=0.5", "r_c = 0.5 needs A_g = 1"),
        ("-p F_g=0", "schedule 'cgopipe' has no use for F_g = 0; it takes N, mu, A_g, "),
    ],
)
def test_impossible_policies(run, words, said):
    assert said in run(f"cgopipe CHECKPOINT {words}").mistake


def test_a_policy_that_another_schedule_could_follow(run):
    said = run("accelerate CHECKPOINT -u 2").mistake
    assert "schedule 'accelerate' runs the batch as one: mu = 2 must equal N = 5" in said


# -- the machine -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpu-memory 0GiB", "--gpu-memory 0GiB: it must be from 1 to 2^60 bytes"),
        ("--gpu-memory many", "--gpu-memory many: give bytes with a unit, such as 16GiB or 500MB"),
        ("--gpu-memory 16", "--gpu-memory 16: give bytes with a unit, such as 16GiB or 500MB"),
        ("--host-memory -1GB", "--host-memory -1GB: give bytes with a unit, such as 16GiB or 5"),
        ("--link-bandwidth 2GB", "--link-bandwidth 2GB: give bytes per second, such as 2.5GB/s"),
        ("--link-bandwidth 0B/s", "--link-bandwidth 0B/s: it must be from 1 to 2^60 bytes/s"),
        ("--threads 1", "--threads 1: give two whole numbers, such as 1,1"),
        ("--threads 0,1", "--threads 0,1: each must be from 1 to "),
        ("--threads 1,999999", "--threads 1,999999: each must be from 1 to "),
    ],
)
def test_impossible_machines(run, words, said):
    assert said in run(f"cgopipe CHECKPOINT {words}").mistake


def test_cuda_where_there_is_none(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = run("cgopipe CHECKPOINT --device cuda --gpu-memory 1GiB").mistake
    assert said == "--device cuda: PyTorch finds no CUDA device here; use --device cpu"


def test_a_slow_link_is_for_the_host_device(run):
    said = run("cgopipe CHECKPOINT --device cuda --link-bandwidth 1GB/s").mistake
    assert said == "a link can be held to a bandwidth with --device cpu only"


@pytest.mark.parametrize(("schedule", "needed"), [("cgopipe", 0.8), ("gpu-only", 0.8)])
@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.9])
def test_too_little_memory_on_the_gpu(run, schedule, needed, share):
    """Which pool, who needs how much, what there is; whether the schedule's own count or the
    runtime's comes to that."""
    said = run(f"{schedule} CHECKPOINT --gpu-memory {int(needed * share * 2**20)}B").mistake
    assert said.startswith("pool 'gpu' is too small: '")
    assert " needs " in said
    assert " in use, but the " in said
    assert "B" in said


def test_the_amounts_of_too_little_memory(run):
    said = run("gpu-only CHECKPOINT --gpu-memory 100kB").mistake
    assert said.startswith("pool 'gpu' is too small: 'expert weights' needs 0.590 MB beside 0")
    assert "but the pool holds 0.100 MB" in said


def test_too_little_host_memory(run):
    said = run("cgopipe CHECKPOINT --host-memory 600kB").mistake
    assert said.startswith("pool 'cpu' is too small: '")
    said = run("cgopipe RANDOM --host-memory 600kB").mistake
    assert said.startswith("random weights of tiny need 0.773 MB of host memory, of which th")


def test_memory_is_counted_before_weights_are_read(run, monkeypatch):
    """Reading 90 GB to look for NaN takes minutes."""

    def read(*_):
        raise AssertionError("the weights were read")

    monkeypatch.setattr("runtime.inputs.check_finite", read)
    monkeypatch.setattr("runtime.inputs.RandomWeights", read)
    for source in ("CHECKPOINT", "RANDOM"):
        assert "too small" in run(f"cgopipe {source} --gpu-memory 100kB").mistake


def test_a_batch_of_long_prompts_is_counted_before_the_first_runs(run, tmp_path):
    """The cache of the second batch does not fit; nothing is computed for the first."""
    prompts = [[5], [5], [5] * 200, [5] * 200]
    text = "".join(json.dumps({"prompt_token_ids": ids}) + "\n" for ids in prompts)
    (tmp_path / "prompts.jsonl").write_text(text)
    size = "--gpu-memory 900kB"
    assert run(f"gpu-only CHECKPOINT -N 2 {size}").mistake.startswith("pool 'gpu' is too small")
    (tmp_path / "prompts.jsonl").write_text("".join(text.splitlines(keepends=True)[:2]))
    assert run(f"gpu-only CHECKPOINT -N 2 {size}").code == 0


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "prompts.jsonl holds no prompts; it must hold at least one"),
        ("{", "prompts.jsonl, line 1: not JSON ("),
        ("[1, 2]", "prompts.jsonl, line 1: [1, 2] is not an object with prompt (text) or"),
        ('{"prompt": "hello"}', "line 1: the folder 'MODEL' holds no tokenizer; give prompt_token"),
        ('{"prompt_token_ids": []}', "prompt_token_ids is []; it must be a list of token ids, not"),
        ('{"prompt_token_ids": [1, 160]}', "line 1: token 1 of the prompt is 160; it must be a"),
        ('{"prompt_token_ids": [1.5]}', "line 1: token 0 of the prompt is 1.5; it must be a whole"),
        (
            json.dumps({"prompt_token_ids": [5] * 253}),
            "line 1: the prompt has 253 tokens and 4 are to be generated, 257 positions; model "
            "'tiny' has 256",
        ),
    ],
)
def test_prompts_that_cannot_be_used(run, tmp_path, model, text, said):
    (tmp_path / "prompts.jsonl").write_text(text)
    assert said.replace("MODEL", str(model)) in run("cgopipe CHECKPOINT").mistake


def test_prompts_that_are_not_there(run, tmp_path):
    (tmp_path / "prompts.jsonl").unlink()
    assert run("cgopipe CHECKPOINT").mistake.endswith("prompts.jsonl: there is no such file")


def test_a_workload_longer_than_the_context(run):
    said = run("cgopipe RANDOM -w fixed-400").mistake
    assert said.startswith("prompt 1 of workload 'fixed-400': the prompt has 400 tokens and 3 are")


# -- models ----------------------------------------------------------------------------------------


def changed_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("t5", 'model_type is "t5"; known: dbrx, '),
        ("deepseek_v3", "model_type is \"deepseek_v3\", did you mean 'deepseek_v2'?"),
    ],
)
def test_families_that_nobody_knows(run, model, tmp_path, family, said):
    folder = shutil.copytree(model, tmp_path / "other")
    changed_config(folder, model_type=family)
    assert said in run(f"cgopipe RANDOM --random-weights {folder}/config.json").mistake
    assert said in run(f"cgopipe CHECKPOINT --checkpoint {folder}").mistake


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mixtral-8x7", "no model is named 'mixtral-8x7', did you mean 'mixtral-8x7b'"),
        (
            "nowhere/config.json",
            "there is no file or folder 'nowhere/config.json'; give a config.j",
        ),
        (
            "deepseek-v2-lite",  # multi-head latent attention
            "deepseek-v2-lite: the runtime has no family 'deepseek_v2'; known: dbrx, llama, ",
        ),
        ("opt-6.7b", "opt-6.7b: the runtime has no family 'opt'; known: dbrx, llama, "),
        (
            "mixtral-8x7b",
            "random weights of mixtral-8x7b need 93.41 GB of host memory, of which there are "
            "1.07 GB; take fewer --layers, or raise --host-memory",
        ),
    ],
)
def test_models_that_random_weights_cannot_have(run, name, said):
    assert said in run(f"cgopipe RANDOM --gpu-memory 100GiB --random-weights {name}").mistake


# -- checkpoints -----------------------------------------------------------------------------------

LAYER = "model.layers.1.self_attn.q_proj.weight"


def rewrite(folder, change):
    """The same file after `change` of its tensors."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def overwrite(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def remove(folder):
    (folder / "model.safetensors").unlink()


def lose_config(folder):
    (folder / "config.json").unlink()


def put_nan(folder):
    def change(tensors):
        tensors[LAYER][3, 4] = float("nan")

    rewrite(folder, change)


def put_infinity(folder):
    def change(tensors):
        tensors[LAYER][0, 0] = float("-inf")

    rewrite(folder, change)


def lose_tensor(folder):
    rewrite(folder, lambda tensors: tensors.pop(LAYER))


def cut_tensor(folder):
    def change(tensors):
        tensors[LAYER] = tensors[LAYER][:-1].clone()

    rewrite(folder, change)


def quantise(folder):
    def change(tensors):
        tensors[LAYER] = tensors[LAYER].char()

    rewrite(folder, change)


def more_layers(folder):
    changed_config(folder, num_hidden_layers=5)


def larger_vocabulary(folder):
    changed_config(folder, vocab_size=200)


def another_activation(folder):
    changed_config(folder, hidden_act="gelu")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "other/model.safetensors is truncated, or no safetensors file ("),
        (overwrite, "other/model.safetensors is truncated, or no safetensors file ("),
        (empty, "other/model.safetensors is truncated, or no safetensors file ("),
        (remove, "other has no weights; it must hold model.safetensors, or model.safetensors.inde"),
        (lose_config, "other/config.json: there is no such file"),
        (put_nan, f"other/model.safetensors: {LAYER} holds values that are not finite (NaN or inf"),
        (put_infinity, f"other/model.safetensors: {LAYER} holds values that are not finite (NaN o"),
        (lose_tensor, f"other: tensor {LAYER} is missing"),
        (cut_tensor, f"{LAYER} has shape [63, 64]; by config.json it must be [64, 64]"),
        (quantise, f"{LAYER} is stored as I8; weights must be F16, BF16 or F32, not quantised"),
        (more_layers, "tensor model.layers.2.self_attn.q_proj.weight is missing"),
        (larger_vocabulary, "has shape [160, 64]; by config.json it must be [200, 64]"),
        (another_activation, "hidden_act is 'gelu'; it must be 'silu', the only supported one"),
    ],
)
def test_damaged_checkpoints(run, model, tmp_path, damage, said):
    folder = shutil.copytree(model, tmp_path / "other")
    damage(folder)
    assert said in run(f"cgopipe CHECKPOINT --checkpoint {folder}").mistake


@pytest.mark.parametrize("name", ["nowhere", "prompts.jsonl"])
def test_a_checkpoint_that_is_no_folder(run, name):
    said = run(f"cgopipe CHECKPOINT --checkpoint {name}").mistake
    assert said == f"{name} is not a folder; give one with config.json and safetensors"


# -- the folder of the results ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("prompts.jsonl", "prompts.jsonl' is a file; results need a folder"),
        ("prompts.jsonl/a/b", "prompts.jsonl' is a file; results need a folder"),
        ("x" * 300, "cannot be used: File name too long"),
        ("CIRCLE", "circle' cannot be used: Too many levels of symbolic links"),
        ("/dev/null", "'/dev/null' is a file; results need a folder"),
    ],
)
def test_a_folder_that_is_none(run, tmp_path_factory, out, said):
    circle = tmp_path_factory.mktemp("links") / "circle"
    circle.symlink_to(circle)
    out = out.replace("CIRCLE", str(circle))
    assert said in run(f"cgopipe CHECKPOINT --out {out}").mistake


@pytest.mark.parametrize("out", ["closed", "closed/a/b"])
def test_a_folder_that_cannot_be_written(run, tmp_path, monkeypatch, out):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    real = os.access

    def access(path, mode):  # the superuser may write everywhere
        return real(path, mode) and not (mode & os.W_OK and os.fspath(path).endswith("closed"))

    monkeypatch.setattr(os, "access", access)
    said = run(f"cgopipe CHECKPOINT --out {out}").mistake
    assert "closed' is not writable; give another one for the results" in said


def test_the_results_of_another_run(run):
    assert run("cgopipe CHECKPOINT").code == 0
    held = "(tokens.jsonl, result.json, timeline.parquet, routing.parquet)"
    said = run("cgopipe CHECKPOINT").mistake
    assert said == (
        f"'out' holds the results of a finished run {held} and they would be overwritten; give "
        "another folder"
    )
    assert "there is nothing to resume" in run("cgopipe CHECKPOINT --resume").mistake


def test_a_folder_that_is_made_in_vain_goes_again(run):
    """With those above it, as far as they are new."""
    said = run("cgopipe CHECKPOINT --out a/b/c --gpu-memory 800KiB").mistake  # met when it opens
    assert "the budget is" in said


def test_results_that_would_overwrite_one_another(run):
    assert run("cgopipe CHECKPOINT --json out").mistake.startswith("'out' was asked for twice")
    assert "the folder 'no' does not exist" in run("cgopipe CHECKPOINT --json no/r.json").mistake


# -- the installation ------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [["torch"], ["transformers", "safetensors"]])
def test_without_the_libraries(run, monkeypatch, missing):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else real(name)
    )
    assert run("cgopipe CHECKPOINT").mistake == (
        f"moelab run needs {', '.join(missing)}: install the extra, as in "
        "pip install 'moelab[runtime]'"
    )


def test_a_library_that_does_not_load(run, monkeypatch):
    real = importlib.import_module

    def load(name):
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file\nand more")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", load)
    assert run("cgopipe CHECKPOINT").mistake == (
        "moelab run needs torch, which cannot be loaded: libcudart.so.12: cannot open shared "
        "object file"
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "many"}, "the variable WORLD_SIZE is 'many'; start several processes with"),
        ({"WORLD_SIZE": "0"}, "the variable WORLD_SIZE is '0'; start several processes with torc"),
        ({"WORLD_SIZE": "2"}, "the 2 processes of WORLD_SIZE do not meet: Error initializing torc"),
    ],
)
def test_processes_that_were_not_started_with_torchrun(run, monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    end = run("cgopipe CHECKPOINT")
    assert end.code in (1, 2)
    assert said in end.err
    assert end.err.count("\n") == 1
    assert end.before == end.after


def test_where_a_mistake_was_met(run, monkeypatch):
    monkeypatch.setenv("MOELAB_TRACEBACK", "1")
    end = run("cgopipe CHECKPOINT --gen-len 0")
    assert end.code == 2
    assert end.err.startswith("Traceback (most recent call last)")
    assert end.err.endswith("moelab: gen_len is 0; it must be a whole number of at least 1\n")


def test_nothing_was_written_by_any_of_these(run):
    """What `mistake` compares is not empty, and a run does write."""
    assert run("cgopipe CHECKPOINT").written > {"out/"}
    assert UNFINISHED not in files("out")
