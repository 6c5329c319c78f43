"""Whatever is wrong ends in one sentence: exit code 2, nothing on standard output, no file."""

import json
from importlib import import_module

import pytest

from schedules.errors import MoelabError

NUMBERS = "--gen-len 2 -N 8 -u 2"
QUESTION = f"-m mixtral-8x7b -H gcp-t4-24c -w mtbench {NUMBERS}"


def sentence(end):
    """The only line of an error message, without the program's name."""
    assert end.code == 2
    assert end.out == ""
    assert end.before == end.after
    assert "Traceback" not in end.err
    assert end.err.endswith("\n")
    assert end.err.count("\n") == 1
    assert end.err.startswith("moelab: ")
    return end.err.removeprefix("moelab: ").strip()


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("cgopip QUESTION", "unknown schedule 'cgopip', did you mean 'cgopipe'?"),
        ("CGOPipe QUESTION", "unknown schedule 'CGOPipe', did you mean 'cgopipe'?"),
        ("zzz QUESTION", "unknown schedule 'zzz'; known: accelerate, cgopipe, "),
        (
            "cgopipe QUESTION -m mixtral",
            "no model is named 'mixtral', did you mean 'mixtral-8x7b' ",
        ),
        ("cgopipe QUESTION -m zzz", "no model is named 'zzz'; known: dbrx, "),
        ("cgopipe QUESTION -m zzz.json", "there is no file or folder 'zzz.json'; "),
        (
            "cgopipe QUESTION -m no/mixtral-8x7",
            "no/mixtral-8x7'; give a config.json or a name, did ",
        ),
        ("cgopipe QUESTION -m .", "config.json: there is no such file"),
        ("cgopipe QUESTION -H gcp-t4", "no hardware is named 'gcp-t4', did you mean 'gcp-t4-24c' "),
        ("cgopipe QUESTION -H zzz", "no hardware is named 'zzz'; known: a100-80g-epyc64, "),
        ("cgopipe QUESTION -H zzz.toml", "zzz.toml: there is no such file"),
        (
            "cgopipe QUESTION -w mt-bench",
            "no workload is named 'mt-bench', did you mean 'mtbench'?",
        ),
        ("cgopipe QUESTION -w zzz", "no workload is named 'zzz'; known: fixed-512, "),
        ("cgopipe QUESTION -w zzz.csv", "zzz.csv: there is no such file"),
        (
            "cgopipe QUESTION -w fixed-",
            "no workload is named 'fixed-'; write it with tokens as in ",
        ),
        ("cgopipe QUESTION -w fixed-x", "no workload is named 'fixed-x'; write it with tokens as "),
        (
            "cgopipe QUESTION -w fixed-nan",
            "no workload is named 'fixed-nan'; write it with tokens ",
        ),
        (
            "cgopipe QUESTION -w random-5",
            "no workload is named 'random-5'; write it with tokens as ",
        ),
        ("cgopipe QUESTION -p r_ww=0.1", "policy: unknown key 'r_ww', did you mean 'r_w'"),
        ("cgopipe QUESTION -p weights=1", "policy: unknown key 'weights'"),
    ],
)
@pytest.mark.parametrize("json", [[], ["--json", "-"], ["--json", "r.json"]])
def test_unknown_names(cli, question, said, json):
    arguments = question.replace("QUESTION", QUESTION).split()
    assert said in sentence(cli("simulate", *arguments, *json))
    assert said in sentence(cli("compare", "flexgen", *arguments, *json))


# -- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("cgopipe -N 4 -u 8", "micro-batch mu = 8 is larger than the batch N = 4"),
        ("cgopipe -p N=4 mu=8", "micro-batch mu = 8 is larger than the batch N = 4"),
        ("cgopipe -p r_w=1.5", "r_w = '1.5': input should be less than or equal to 1"),
        ("cgopipe -p r_w=-0.5", "r_w = '-0.5': input should be greater than or equal to 0"),
        ("cgopipe -p r_w=nan", "r_w = 'nan': input should be a finite number"),
        ("cgopipe -p r_w=inf", "r_w = 'inf': input should be a finite number"),
        ("cgopipe -p r_w=all", "r_w = 'all': input should be a valid number"),
        ("cgopipe -p r_c=2 A_g=1", "r_c = '2': input should be less than or equal to 1"),
        ("flexgen -p r_h=-1", "r_h = '-1': input should be greater than or equal to 0"),
        ("cgopipe -p A_g=2", "A_g = '2': input should be less than or equal to 1"),
        ("cgopipe -p A_g=-1", "A_g = '-1': input should be greater than or equal to 0"),
        ("cgopipe -p A_g=0.5", "A_g = '0.5': input should be a valid integer"),
        ("cgopipe -p pinned=maybe", "pinned = 'maybe': input should be a valid boolean"),
        ("cgopipe -N 8 -u 2 -p r_c=0.5", "r_c = 0.5 needs A_g = 1"),
        ("cgopipe -p r_c=0.5 A_g=0", "r_c = 0.5 needs A_g = 1"),
        ("cgopipe -p F_g=0", "schedule 'cgopipe' has no use for F_g = 0; it takes N, mu, A_g, "),
        ("flexgen -p A_g=1", "'flexgen' has no use for A_g = 1; it takes N, mu, pinned, r_c, "),
        ("flexgen-cpu -p r_c=1", "schedule 'flexgen-cpu' has no use for r_c = 1.0"),
        ("fastdecode -p A_g=1", "schedule 'fastdecode' has no use for A_g = 1"),
        ("accelerate -p pinned=1", "schedule 'accelerate' has no use for pinned = True"),
        ("gpu-only -p r_w=0.5", "schedule 'gpu-only' has no use for r_w = 0.5; it takes N, mu"),
        ("zero-inference -p r_w=0.5", "'zero-inference' has no use for r_w = 0.5; it takes N, mu"),
        ("zero-inference -N 8 -u 4", "mu = 4 must equal N = 8"),
        ("accelerate -N 8 -u 4", "mu = 4 must equal N = 8"),
        ("cgopipe -p r_w", "'r_w' is not of the form KEY=VALUE, as in r_w=0.1"),
        ("cgopipe -p r_w=", "'r_w=' is not of the form KEY=VALUE"),
        ("cgopipe -p =0.1", "'=0.1' is not of the form KEY=VALUE"),
        ("cgopipe -p r_w=0.1 A_g=", "'A_g=' is not of the form KEY=VALUE"),
        ("cgopipe -N 8 -p N=4", "N is given twice, as 4 and as 8"),
        ("cgopipe -p mu=4 micro_batch=2", "mu is given twice, as 4 and as 2"),
        ("cgopipe -p r_w=0.1 weights_on_gpu=0.2", "r_w is given twice, as 0.1 and as 0.2"),
    ],
)
def test_impossible_policies(cli, question, said):
    name, *words = question.split()
    scenario = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 2"
    found = sentence(cli("simulate", name, *scenario.split(), *words))
    assert said in found
    assert found.startswith(("policy: ", "schedule "))


def test_a_value_that_no_schedule_has_a_use_for(cli):
    end = cli("compare", "zero-inference", "flexgen", *QUESTION.split(), "-p", "A_g=1")
    assert sentence(end) == "policy: none of the schedules has a use for A_g"


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["simulate", "cgopipe"], ["compare", "cgopipe", "flexgen"]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gen-len 0", "gen_len is 0; it must be a whole number of at least 1"),
        ("--gen-len -1", "gen_len is -1; it must be a whole number of at least 1"),
        ("--gen-len 99999999999999999999", "gen_len is 99999999999999999999; it must be at most"),
        ("--batch 0", "N = 0: input should be greater than or equal to 1"),
        ("--batch -4", "N = -4: input should be greater than or equal to 1"),
        ("--micro-batch 0", "mu = 0: input should be greater than or equal to 1"),
        ("--micro-batch -3", "mu = -3: input should be greater than or equal to 1"),
        ("-N 1000000000", "N = 1000000000; a batch has at most 100,000 sequences"),
        ("-N 99999999999999999999 -u 1", "a batch has at most 100,000 sequences"),
        ("-N 50000 -u 1", "N = 50000 and mu = 1 make 50,000 micro-batches; a batch has at most"),
        ("--gpus 0", "0 GPUs were asked for; hardware 'gcp-t4-24c' has 1"),
        ("--gpus -1", "-1 GPUs were asked for; hardware 'gcp-t4-24c' has 1"),
        ("--gpus 9", "9 GPUs were asked for; hardware 'gcp-t4-24c' has 1"),
        ("--seed -1", "seed is -1; it must be >= 0"),
        ("-w fixed-0", "the prompt length is 0; it must be a whole number of at least 1"),
        ("-w random-5-0", "gen_len is 0; it must be a whole number of at least 1"),
        ("-w fixed--5", "no workload is named 'fixed--5'"),
        ("-w fixed-9999999999", "the prompt length is 9999999999; it must be at most"),
    ],
)
def test_impossible_numbers(cli, command, words, said):
    scenario = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench"
    assert said in sentence(cli(*command, *scenario.split(), *words.split()))


def test_micro_batch_alone_is_named_as_what_was_given(cli):
    scenario = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --micro-batch -3"
    assert sentence(cli("simulate", "cgopipe", *scenario.split())).startswith("policy: mu = -3")


def test_more_positions_than_the_model_has(cli):
    said = sentence(
        cli("simulate", "cgopipe", *QUESTION.split(), "-m", "opt-6.7b", "-w", "fixed-4096")
    )
    assert "needs 4098 positions (longest prompt 4096 + 2 generated)" in said
    assert "model 'opt-6.7b' has 2048" in said


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", ["", "-N 4 -u 4"])
def test_a_model_that_does_not_fit(cli, numbers):
    """The pool, what was needed, what there is, who holds most."""
    words = f"-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 2 {numbers}"
    said = sentence(cli("simulate", "gpu-only", *words.split()))
    assert said.startswith("pool 'gpu' is too small: 'expert weights' needs 90.19 GB")
    assert "the pool holds 15.50 GB" in said
    assert "largest holders:" in said


def test_a_cache_that_does_not_fit(cli):
    words = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 2 -N 5000 -u 50"
    said = sentence(cli("simulate", "cgopipe", *words.split()))
    assert said.startswith("pool 'cpu' is too small: 'KV")
    assert "largest holders: KV " in said or "largest holders: expert weights " in said
    assert "the pool holds 206.16 GB" in said


# -- files that are not what they should be --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{broken", "own.json is not JSON: "),
        ("", "own.json is not JSON: "),
        ("[]", "own.json holds []; it must hold an object with keys and values"),
        ("{}", "own.json: model_type is missing"),
        ('{"model_type": "gpt2"}', 'own.json: model_type is "gpt2"'),
        (
            '{"model_type": "mixtral"}',
            "own.json: hidden_size is missing; it must be a whole number",
        ),
        ('{"model_type": "mixtral", "hidden_size": -1}', "own.json: hidden_size is -1"),
        ('{"model_type": "mixtral", "hidden_size": NaN}', "own.json: hidden_size is NaN"),
        ('{"model_type": "mixtral", "hidden_size": "big"}', 'own.json: hidden_size is "big"'),
        (b"\xff\xfe", "own.json cannot be read as UTF-8 text"),
    ],
)
def test_broken_configs(cli, tmp_path, text, said):
    write(tmp_path / "own.json", text)
    end = cli("simulate", "cgopipe", *QUESTION.split(), "-m", "own.json", "--json", "r.json")
    assert said in sentence(end)


T4 = 'based_on = "gcp-t4-24c"\nname = "own"\ndescription = "own"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "own.toml is not TOML: "),
        ("", "own.toml: name is missing"),
        ('name = "own"', "own.toml: description is missing"),
        (T4.replace("gcp-t4-24c", "gcp-t4"), "based_on is 'gcp-t4', which is no preset, did you "),
        (
            T4 + '[gpu.memory]\nvalue = -1\nsource = "x"',
            "gpu.memory.value is -1; it must be greater",
        ),
        (
            T4 + '[gpu.memory]\nvalue = nan\nsource = "x"',
            "gpu.memory.value is nan; it must be a fin",
        ),
        (T4 + "[gpu.memory]\nvalue = 1e9", "gpu.memory.source is missing"),
        (
            T4 + "[gpu]\nmemmory = 1",
            "own.toml: gpu: 'memmory' is not a key here, did you mean 'memory'",
        ),
        (b"\xff", "own.toml cannot be read as UTF-8 text"),
    ],
)
def test_broken_machines(cli, tmp_path, text, said):
    write(tmp_path / "own.toml", text)
    end = cli("simulate", "cgopipe", *QUESTION.split(), "-H", "own.toml", "--json", "r.json")
    assert said in sentence(end)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("own.csv", "", "own.csv holds no prompt lengths"),
        ("own.csv", "prompt_len\n", "own.csv holds no prompt lengths"),
        ("own.csv", "a,b\n1,2\n", "own.csv, line 1: no column is named prompt_len or"),
        ("own.csv", "prompt_len\nlong\n", "own.csv, line 2: the prompt length is 'long'"),
        ("own.csv", "prompt_len\n5\n0\n", "own.csv, line 3: the prompt length is 0"),
        ("own.csv", "prompt_len\n-5\n", "own.csv, line 2: the prompt length is -5"),
        ("own.csv", "prompt_len\nnan\n", "own.csv, line 2: the prompt length is 'nan'"),
        ("own.csv", "prompt_len\n1.5\n", "own.csv, line 2: the prompt length is '1.5'"),
        ("own.csv", b"\xff\xfe\x00", "own.csv cannot be read as UTF-8 text"),
        ("own.jsonl", "{", "own.jsonl, line 1: not JSON"),
        ("own.jsonl", '{"words": 3}', "own.jsonl, line 1: the object has none of prompt_len"),
        ("own.toml", "name = 1", "own.toml"),
    ],
)
def test_broken_lengths(cli, tmp_path, name, text, said):
    write(tmp_path / name, text)
    assert said in sentence(cli("simulate", "cgopipe", *QUESTION.split(), "-w", name))


HEADER = "id,source,metric,value,model,hardware"
ROW = "a,paper,op_s:moe_ffn,1.0,mixtral-8x7b,gcp-t4-24c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'own.csv' has no rows"),
        (HEADER, "'own.csv' has no rows"),
        ("id,source,value\na,b,1", "'own.csv' lacks the columns hardware, metric, model"),
        (f"{HEADER}\n{ROW}\n{ROW}", "'own.csv', line 3: id 'a' stands there twice"),
        (f"{HEADER},id\n{ROW},b", "'own.csv' has the columns id more than once"),
        (f"{HEADER}\na,paper", "'own.csv', line 2: 2 cells, but the header has 6"),
        (f"{HEADER}\n{ROW},more", "'own.csv', line 2: 7 cells, but the header has 6"),
        (f"{HEADER}\n{ROW.replace('1.0', 'fast')}", "'own.csv', line 2: value = 'fast': input"),
        (f"{HEADER}\n{ROW.replace('1.0', 'nan')}", "line 2: value = 'nan': input should be a fin"),
        (f"{HEADER}\n{ROW.replace('1.0', 'inf')}", "line 2: value = 'inf': input should be a fin"),
        (f"{HEADER}\n{ROW.replace('1.0', '0')}", "line 2: value = '0': input should be greater"),
        (f"{HEADER}\n{ROW.replace('1.0', '-3')}", "line 2: value = '-3': input should be greater"),
        (f"{HEADER}\n{ROW.replace('1.0', '')}", "line 2: value = '': input should be a valid num"),
        (f"{HEADER}\n{ROW.replace('a,', ',')}", "'own.csv', line 2: id = ''"),
        (f"{HEADER},batch_size\n{ROW},0", "line 2: batch_size = '0': input should be greater"),
        (f"{HEADER},weights_on_gpu\n{ROW},nan", "'own.csv', line 2: weights_on_gpu = 'nan'"),
        (f"{HEADER},weights_on_gpu\n{ROW},1.5", "'own.csv', line 2: weights_on_gpu = '1.5'"),
        (f"{HEADER},padded\n{ROW},perhaps", "'own.csv', line 2: padded = 'perhaps'"),
        (f"{HEADER},n_gpus\n{ROW},0", "'own.csv', line 2: n_gpus = '0'"),
        (f"{HEADER},note\n{ROW},{'x' * 200_000}", "'own.csv' is not CSV: field larger than"),
        (b"\xff\xfe", "own.csv cannot be read as UTF-8 text"),
    ],
)
@pytest.mark.parametrize("json", [[], ["--json", "-"], ["--json", "r.json"]])
def test_broken_figures(cli, tmp_path, text, said, json):
    write(tmp_path / "own.csv", text)
    assert said in sentence(cli("validate", "--published", "own.csv", *json))


@pytest.mark.parametrize(
    ("path", "said"),
    [("none.csv", "none.csv: there is no such file"), (".", ". cannot be read as UTF-8 text")],
)
def test_no_figures(cli, path, said):
    assert said in sentence(cli("validate", "--published", path))


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


# -- targets ---------------------------------------------------------------------------------------


def forbidden(*_, **__):
    raise AssertionError("work was done although its result cannot be written")


@pytest.fixture
def idle(monkeypatch):
    """No simulation may start."""
    for module, function in (("simulate", "simulate"), ("simulate", "compare"), ("validate",) * 2):
        monkeypatch.setattr(import_module(f"sim.{module}"), function, forbidden)


COMMANDS = {
    "list": "list models",
    "simulate": f"simulate cgopipe {QUESTION}",
    "compare": f"compare cgopipe {QUESTION}",
    "validate": "validate",
}
TARGETS = {
    "missing/out.SUFFIX": "cannot write 'missing/out.SUFFIX': the folder 'missing' does not exist",
    "folder.SUFFIX": "cannot write 'folder.SUFFIX': it is a folder, a file name is needed",
    "file/out.SUFFIX": "the folder 'file' does not exist",
    f"{'x' * 250}.SUFFIX": "its name has more than 200 bytes",
}


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("command", "option", "suffix"),
    [(name, "--json", "json") for name in COMMANDS]
    + [("simulate", "--timeline", suffix) for suffix in ("html", "parquet", "json")]
    + [("compare", "--report", "html")],
)
def test_targets_are_checked_before_any_work(cli, tmp_path, command, option, suffix, target):
    (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / "file").touch()
    end = cli(*COMMANDS[command].split(), option, target.replace("SUFFIX", suffix))
    assert TARGETS[target].replace("SUFFIX", suffix) in sentence(end)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", ["t.png", "t", "t.htm", "t.HTML", "t.parquet.gz", "-", ".html"])
def test_wrong_suffixes(cli, name):
    end = cli(*COMMANDS["simulate"].split(), "--timeline", name)
    assert f"cannot write '{name}': its name must end in .html, .parquet, .json" in sentence(end)
    end = cli(*COMMANDS["compare"].split(), "--report", name)
    assert f"cannot write '{name}': its name must end in .html" in sentence(end)


@pytest.mark.usefixtures("idle")
def test_one_file_for_two_results(cli):
    end = cli(*COMMANDS["simulate"].split(), "--timeline", "r.json", "--json", "./r.json")
    assert sentence(end) == "'r.json' was asked for twice; two results need two files"
    end = cli(*COMMANDS["compare"].split(), "--report", "r.html", "--json", "r.html")
    assert sentence(end) == "'r.html' was asked for twice; two results need two files"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("prefill", "'prefill' is not a step like 3, a range like 1-3, or all"),
        ("", "'' is not a step like 3"),
        ("-1", "'-1' is not a step like 3"),
        ("1.5", "'1.5' is not a step like 3"),
        ("2", "'2' is outside 0-1 (0 is prefill)"),
        ("1-0", "'1-0' is outside 0-1 (0 is prefill)"),
        ("0,1-9", "'1-9' is outside 0-1 (0 is prefill)"),
    ],
)
def test_steps_that_there_are_not(cli, steps, said):
    options = ["--timeline", "t.html", "--json", "r.json", "--steps", steps]
    found = sentence(cli(*COMMANDS["simulate"].split(), *options))
    assert found.startswith(f"--steps: {said}")


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("steps", ["1", "all", "nonsense"])
def test_steps_of_no_timeline(cli, steps):
    said = sentence(cli(*COMMANDS["simulate"].split(), "--steps", steps))
    assert said == "--steps chooses what a timeline shows; give --timeline FILE as well"


# -- failures --------------------------------------------------------------------------------------


def test_a_run_that_fails_has_another_exit_code(cli, monkeypatch):
    def failing(*_):
        raise MoelabError("the run broke")

    monkeypatch.setattr(import_module("sim.simulate"), "simulate", failing)
    end = cli(*COMMANDS["simulate"].split(), "--json", "-")
    assert (end.code, end.out, end.err) == (1, "", "moelab: the run broke\n")


def test_old_results_survive_a_mistake(cli, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"old": 1}))
    end = cli("simulate", "cgopip", *QUESTION.split(), "--json", "r.json")
    assert "unknown schedule" in sentence(end)
    assert end.after == {"r.json": b'{"old": 1}'}
