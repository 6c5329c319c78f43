"""Broken files and impossible targets: one sentence, exit code 2, nothing written."""

import pytest

QUESTION = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 2 -N 8 -u 2"


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
    assert said in end.mistake


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
    assert said in end.mistake


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
    assert said in cli("simulate", "cgopipe", *QUESTION.split(), "-w", name).mistake


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
    assert said in cli("validate", "--published", "own.csv", *json).mistake


@pytest.mark.parametrize(
    ("path", "said"),
    [("none.csv", "none.csv: there is no such file"), (".", ". cannot be read as UTF-8 text")],
)
def test_no_figures(cli, path, said):
    assert said in cli("validate", "--published", path).mistake


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


# -- targets ---------------------------------------------------------------------------------------


def forbidden(*_, **__):
    raise AssertionError("work was done although its result cannot be written")


@pytest.fixture
def idle(monkeypatch):
    """No simulation may start."""
    for name in ("sim.api.simulate", "sim.api.compare", "sim.validate.validate"):
        monkeypatch.setattr(name, forbidden)


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
    assert TARGETS[target].replace("SUFFIX", suffix) in end.mistake


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", ["t.png", "t", "t.htm", "t.HTML", "t.parquet.gz", "-", ".html"])
def test_wrong_suffixes(cli, name):
    end = cli(*COMMANDS["simulate"].split(), "--timeline", name)
    assert f"cannot write '{name}': its name must end in .html, .parquet, .json" in end.mistake
    end = cli(*COMMANDS["compare"].split(), "--report", name)
    assert f"cannot write '{name}': its name must end in .html" in end.mistake


@pytest.mark.usefixtures("idle")
def test_one_file_for_two_results(cli):
    end = cli(*COMMANDS["simulate"].split(), "--timeline", "r.json", "--json", "./r.json")
    assert end.mistake == "'r.json' was asked for twice; two results need two files"
    end = cli(*COMMANDS["compare"].split(), "--report", "r.html", "--json", "r.html")
    assert end.mistake == "'r.html' was asked for twice; two results need two files"


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
    found = cli(*COMMANDS["simulate"].split(), *options).mistake
    assert found.startswith(f"--steps: {said}")


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("steps", ["1", "all", "nonsense"])
def test_steps_of_no_timeline(cli, steps):
    said = cli(*COMMANDS["simulate"].split(), "--steps", steps).mistake
    assert said == "--steps chooses what a timeline shows; give --timeline FILE as well"
