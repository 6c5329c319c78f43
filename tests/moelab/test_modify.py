"""`--modify`: what is changed of a question, in every command that takes it."""

import json
from pathlib import Path

import pytest

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate
from runtime.quantised import modified
from schedules.modifiers import make_modifiers
from sim import simulate
from tests.moelab.runs import GEN_LEN, HERE, PROMPTS, result, tokens, write_prompts
from tests.moelab.test_crossover import BATCH

SCENARIO = "-m mixtral-8x7b -H gcp-t4-24c -w mtbench --gen-len 3"
PACKED = ["--modify", "experts=int4", "--modify", "group=16"]
SKIPPING = ["--modify", "skip=0.5"]


# -- simulate, compare, crossover ------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"experts": "int4"},
        {"weights": "int8", "group": 128, "fused": True},
        {"kv": "int8", "keep": 6, "skip": 0.5},
    ],
)
def test_a_modified_question_as_in_python(cli, small, values):
    words = [word for key, value in values.items() for word in ("--modify", f"{key}={value}")]
    end = cli("simulate", "cgopipe", *small, *words, "--json", "-")
    assert (end.code, end.err) == (0, "")
    asked = ("mixtral-8x7b", "gcp-t4-24c", "mtbench", 3, 8, 2)
    found = simulate("cgopipe", *asked, modifiers=values)
    assert end.json == json.loads(json.dumps(found.to_dict()))
    assert end.json["provenance"]["presets"]["modifiers"] == values
    plain = cli("simulate", "cgopipe", *small, "--json", "-").json
    assert plain["provenance"]["presets"]["modifiers"] == {}
    assert plain["throughput_tok_s"] != end.json["throughput_tok_s"]


def test_experts_in_four_bits_travel_in_a_quarter_of_the_bytes(cli, small):
    """17 / 64 of those of float16; the rest is the attention's part, which stays."""
    runs = [
        cli("simulate", "zero-inference", *small, "-u", 8, *words, "--json", "-").json
        for words in ([], ["--modify", "experts=int4"])
    ]
    before, after = (run["moved_bytes_per_token"]["load_weights"] for run in runs)
    assert 17 / 64 < after / before < 0.3


def test_compare_says_who_decides_the_same_by_itself(cli, small):
    words = [*small, "--modify", "experts=int4", "--json", "-"]
    cgopipe, hobbit = cli("compare", "cgopipe", "hobbit", *words).json["results"]
    assert cgopipe["provenance"]["presets"]["modifiers"] == {"experts": "int4"}
    assert hobbit["feasible"] is False
    said = "schedule 'hobbit' decides by itself in how many bits experts are; leave the modifier "
    assert hobbit["reason"] == f"{said}'experts' out"
    assert cli("compare", "hobbit", *words).mistake == f"{said}'experts' out"


def test_crossover_of_modified_questions(cli):
    """Each point is what compare says, with the same modifiers."""
    found = cli("crossover", *BATCH, *SKIPPING, "--json", "-").json
    for point in (found["points"][0], found["points"][-1]):
        words = [*found["schedules"], *SCENARIO.split()[:6], "--gen-len", 2, "-N", point["value"]]
        alone = cli("compare", *words, *SKIPPING, "--json", "-").json
        assert point["results"] == alone["results"]
        for one in point["results"]:
            assert one["provenance"]["presets"]["modifiers"] == {"skip": 0.5}


@pytest.mark.parametrize(
    "command", [["simulate", "cgopipe"], ["compare", "cgopipe", "flexgen"], ["crossover", *BATCH]]
)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("exprts=int4", "modifiers: unknown key 'exprts', did you mean 'experts'?"),
        ("experts=int3", "modifiers: experts: 'int3' is neither int8 nor int4"),
        ("experts", "modifier 'experts' is not of the form KEY=VALUE, as in experts=int4"),
        ("skip=0.5 skip=0.6", "modifier 'skip' is given twice"),
        ("skip=2", "modifiers: skip is '2'; it should be less than or equal to 1"),
        ("group=64", "modifiers: group is given, but nothing is quantised"),
        ("keep=1", "modifier keep = 1: 'mixtral-8x7b' has 8 experts in a layer, of which a token"),
        ("keep=9", "takes 2; keep 2 to 8"),
        ("ssd=fast", "modifiers: ssd is 'fast'; it should be 'serial' or 'overlapped'"),
    ],
)
def test_modifiers_that_make_no_sense(cli, command, words, said):
    asked = [word for item in words.split() for word in ("--modify", item)]
    scenario = [] if command[0] == "crossover" else [*SCENARIO.split(), "-N", 8, "-u", 8]
    assert said in cli(*command, *scenario, *asked).mistake


def test_a_model_that_takes_one_expert_skips_none(cli):
    words = "-m switch-base-8 -H gcp-t4-24c -w fixed-64 --gen-len 2 -N 4 -u 4 --modify skip=0.5"
    said = cli("simulate", "on-demand", *words.split()).mistake
    assert said.startswith("modifier skip = 0.5: a token of 'switch-base-8' takes one expert")


# -- run and replay --------------------------------------------------------------------------------


@pytest.fixture
def run(cli, model, tmp_path):
    """`moelab run SCHEDULE` on the tiny Mixtral."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")

    def run(schedule, *more, out="out"):
        asked = ["--checkpoint", model, "--prompts", prompts, "--gen-len", GEN_LEN, "--ignore-eos"]
        return cli("run", schedule, *asked, *HERE.split(), "--out", out, *more)

    return run


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (PACKED, {"experts": "int4", "group": 16}),
        (SKIPPING, {"skip": 0.5}),
        ([*PACKED, *SKIPPING], {"experts": "int4", "group": 16, "skip": 0.5}),
    ],
)
def test_a_modified_run(run, model, words, values):
    """The tokens of the modified model, which are not the original's; verified against it."""
    end = run("cgopipe", *words, "--verify")
    assert (end.code, end.err) == (0, "")
    source = Checkpoint(model)
    changed = modified(source, make_modifiers(values).applied(source.architecture.spec))
    assert tokens("out") == plain_generate(changed, PROMPTS, GEN_LEN)
    assert tokens("out") != plain_generate(source, PROMPTS, GEN_LEN)
    where = result("out")["provenance"]
    assert where["presets"]["modifiers"] == values
    assert where["question"]["modifiers"] == values
    verified = json.loads(Path("out/verification.json").read_text())
    assert verified["reference"].startswith("the plain model changed alike")


@pytest.mark.parametrize("name", ["cgopipe", "on-demand"])
@pytest.mark.parametrize(
    ("words", "values"), [(PACKED, {"experts": "int4", "group": 16}), (SKIPPING, {"skip": 0.5})]
)
def test_the_replay_of_a_modified_run(cli, run, name, words, values):
    """The simulator finds the same tasks; it is an error of the replay if it does not."""
    run(name, *words)
    end = cli("replay", "out", "--json", "-")
    assert (end.code, end.err) == (0, "")
    (replay,) = end.json["replays"]
    assert replay["tasks"] == result("out")["tasks"]
    assert replay["provenance"]["presets"]["modifiers"] == values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("kv=int8", "the runtime keeps the cache as it is; modifier 'kv' is simulated only"),
        ("keep=3", "the runtime runs all experts of a model; modifier 'keep' is simulated only"),
        ("experts=int4 fused=true", "the runtime has no fused kernels for packed weights; 'fused'"),
        ("ssd=serial", "the runtime keeps weights in host memory; 'ssd' is simulated only"),
        ("experts=int4", "rows of 64 elements cannot be packed in 4 bits with groups of 64; take "),
        ("experts=int5", "modifiers: experts: 'int5' is neither int8 nor int4"),
        ("skip=1.5", "modifiers: skip is '1.5'; it should be less than or equal to 1"),
        ("keep=5", "has 4 experts in a layer, of which a token takes 2; keep 2 to 4"),
    ],
)
def test_what_cannot_be_run(run, words, said):
    asked = [word for item in words.split() for word in ("--modify", item)]
    assert said in run("cgopipe", *asked).mistake


def test_a_schedule_that_decides_by_itself_is_refused_before_weights_are_read(run):
    assert "decides by itself which choices count" in run("hobbit", *SKIPPING).mistake
