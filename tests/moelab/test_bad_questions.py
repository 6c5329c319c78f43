"""Whatever is wrong ends in one sentence: exit code 2, nothing on standard output, no file."""

import json

import pytest

from schedules.errors import MoelabError

SCENARIO = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench"
QUESTION = f"{SCENARIO} --gen-len 2 -N 8 -u 2"


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
    assert said in cli("simulate", *arguments, *json).mistake
    assert said in cli("compare", "flexgen", *arguments, *json).mistake


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
    found = cli("simulate", name, *SCENARIO.split(), *words).mistake
    assert said in found
    assert found.startswith(("policy: ", "schedule "))


def test_a_value_that_no_schedule_has_a_use_for(cli):
    end = cli("compare", "zero-inference", "flexgen", *QUESTION.split(), "-p", "A_g=1")
    assert end.mistake == "policy: none of the schedules has a use for A_g"


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
    assert said in cli(*command, *SCENARIO.split(), *words.split()).mistake


def test_micro_batch_alone_is_named_as_what_was_given(cli):
    end = cli("simulate", "cgopipe", *SCENARIO.split(), "--micro-batch", -3)
    assert end.mistake.startswith("policy: mu = -3")


def test_more_positions_than_the_model_has(cli):
    words = [*QUESTION.split(), "-m", "opt-6.7b", "-w", "fixed-4096"]
    said = cli("simulate", "cgopipe", *words).mistake
    assert "needs 4098 positions (longest prompt 4096 + 2 generated)" in said
    assert "model 'opt-6.7b' has 2048" in said


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", ["", "-N 4 -u 4"])
def test_a_model_that_does_not_fit(cli, numbers):
    """The pool, what was needed, what there is, who holds most."""
    words = f"{SCENARIO} --gen-len 2 {numbers}"
    said = cli("simulate", "gpu-only", *words.split()).mistake
    assert said.startswith("pool 'gpu' is too small: 'expert weights' needs 90.19 GB")
    assert "the pool holds 15.50 GB" in said
    assert "largest holders:" in said


def test_a_cache_that_does_not_fit(cli):
    words = f"{SCENARIO} --gen-len 2 -N 5000 -u 50"
    said = cli("simulate", "cgopipe", *words.split()).mistake
    assert said.startswith("pool 'cpu' is too small: 'KV")
    assert "largest holders: KV " in said or "largest holders: expert weights " in said
    assert "the pool holds 206.16 GB" in said


# -- failures --------------------------------------------------------------------------------------


def test_a_run_that_fails_has_another_exit_code(cli, monkeypatch):
    def failing(*_):
        raise MoelabError("the run broke")

    monkeypatch.setattr("sim.api.run", failing)
    end = cli("simulate", "cgopipe", *QUESTION.split(), "--json", "-")
    assert (end.code, end.out, end.err) == (1, "", "moelab: the run broke\n")


def test_old_results_survive_a_mistake(cli, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"old": 1}))
    end = cli("simulate", "cgopip", *QUESTION.split(), "--json", "r.json")
    assert "unknown schedule" in end.mistake
    assert end.after == {"r.json": b'{"old": 1}'}
