"""`--routing`: by name, formula and file; what is wrong ends in one sentence."""

import pytest

from schedules.errors import BadInput
from schedules.model_presets import load_model
from schedules.routing import Routing
from schedules.routing_presets import load_routing
from schedules.routing_statistics import draw_routing
from schedules.routing_table import write_routing
from sim import compare, simulate
from sim.api import Question

SWITCH = ["-m", "switch-base-8", "-H", "gcp-t4-24c", "-w", "random-12-4", "-N", "4"]
ASKED = ("switch-base-8", "gcp-t4-24c", "random-12-4")


def provenance(end):
    return end.json["provenance"]["presets"]["routing"]


def test_uniform_is_the_default(cli):
    default = cli("simulate", "on-demand", *SWITCH, "--json", "-")
    named = cli("simulate", "on-demand", *SWITCH, "--routing", "uniform", "--json", "-")
    assert default.json == named.json
    assert provenance(named) == {"kind": "uniform", "seed": 0}


def test_the_result_says_which_routing_it_was(cli):
    end = cli("simulate", "on-demand", *SWITCH, "--routing", "zipf:1.2", "--seed", 3, "--json", "-")
    assert provenance(end) == {"kind": "zipf", "seed": 3, "exponent": 1.2}


def test_skewed_routing_copies_fewer_experts(cli):
    """All tokens take the same expert: one copy in each layer and pass."""
    tasks = [
        cli("simulate", "on-demand", *SWITCH, "--routing", name, "--json", "-").json["tasks"]
        for name in ("zipf:0", "zipf:1.5", "zipf:10")
    ]
    assert tasks == sorted(tasks, reverse=True)
    assert len(set(tasks)) == 3


def test_expected_experts_of_batch_schedules_are_skewed_too():
    times = [
        simulate("gpu-only", *ASKED, batch=4, micro_batch=4, routing=f"zipf:{s}").decode_s
        for s in (0, 1, 3)
    ]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 3


def test_a_recorded_run_of_the_same_workload_is_the_run(cli, tmp_path):
    """Drawn, written, and read again: the same tasks at the same times."""
    model, routing = load_model("switch-base-8"), load_routing("zipf:1.2", 3)
    write_routing(draw_routing(routing, model, (12,) * 4, 4), tmp_path / "r.parquet", 8)
    drawn = cli(
        "simulate", "on-demand", *SWITCH, "--routing", "zipf:1.2", "--seed", 3, "--json", "-"
    )
    read = cli("simulate", "on-demand", *SWITCH, "--routing", "r.parquet", "--json", "-")
    assert read.json["makespan_s"] == drawn.json["makespan_s"]
    assert provenance(read)["kind"] == "recorded"
    assert len(provenance(read)["sha256"]) == 64


def test_compare_takes_it_too(cli, tmp_path):
    (tmp_path / "own.toml").write_text('kind = "zipf"\nexponent = 2.0\n')
    end = cli("compare", "on-demand", "gpu-only", *SWITCH, "--routing", "own.toml", "--json", "-")
    both = [r["provenance"]["presets"]["routing"]["exponent"] for r in end.json["results"]]
    assert both == [2.0, 2.0]


def test_a_routing_object_has_a_seed_of_its_own():
    scenario = Question(*ASKED, routing=Routing(seed=5)).scenario()
    assert scenario.routing.seed == 5
    assert compare(["on-demand"], *ASKED, batch=2, routing=Routing(seed=5)).feasible


@pytest.mark.parametrize("command", ["simulate", "compare"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unifrom", "no routing is named 'unifrom', did you mean 'uniform'?"),
        ("zipf:x", "'zipf:x' is no routing; write Zipf's law with its exponent as 'zipf:1.2'"),
        ("none.parquet", "the file 'none.parquet' with recorded routing does not exist"),
        ("none.toml", "the routing file 'none.toml' cannot be read: No such file or directory"),
        ("text.parquet", "'text.parquet' cannot be read as Parquet: "),
        ("short.parquet", "'short.parquet' lacks layer 11, which model 'switch-base-8' has"),
        ("many.parquet", "'many.parquet' is of a model with 16 experts in a layer; this one has 8"),
    ],
)
def test_mistakes(cli, tmp_path, command, name, said):
    table = draw_routing(Routing(), load_model("switch-base-8"), (3,), 2)
    (tmp_path / "text.parquet").write_text("x")
    write_routing(
        table[(table["step"] == 0) | (table["layer"] < 11)], tmp_path / "short.parquet", 8
    )
    write_routing(table, tmp_path / "many.parquet", 16)
    assert said in cli(command, "on-demand", *SWITCH, "--routing", name).mistake


def test_a_seed_beside_a_routing_object():
    with pytest.raises(BadInput, match="seed 2 is given with a routing that has its own, 0"):
        Question(*ASKED, seed=2, routing=Routing()).scenario()
