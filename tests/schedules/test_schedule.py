"""The base of all schedules: phases, checks of the policy, and how schedules are found."""

from importlib.metadata import EntryPoint

import pytest

from schedules import batch, expert
from schedules import schedule as module
from schedules.errors import BadInput
from schedules.model_presets import load_model
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule, find_schedule, schedules
from schedules.workload_presets import load_workload
from sim.hardware import load_hardware
from sim.scenario import Scenario, place

BUILT_IN = (*batch.BUILT_IN, *expert.BUILT_IN)


class Toy(Schedule):
    """One task a step."""

    name = "toy"
    title = "one task a step"
    paper = "none"
    knobs = frozenset({"r_w"})

    def prefill(self) -> None:
        self.node.issuer.task("prefill", "gpu")

    def decode_step(self) -> None:
        self.node.issuer.task("decode", "gpu")


def toy() -> Schedule:
    scenario = Scenario(
        load_model("switch-base-8").with_layers(1),
        load_hardware("gcp-t4-24c"),
        load_workload("mtbench", gen_len=4),
    )
    return place(scenario, Toy, make_policy({"N": 2, "mu": 1}))


# -- phases ----------------------------------------------------------------------------------------


def test_each_phase_is_numbered_and_ends_with_a_barrier():
    schedule = toy()
    issuer = schedule.node.issuer
    schedule.run_prefill()
    first = issuer.take()  # only right after a barrier of all streams
    schedule.run_decode_step(1)
    schedule.run_decode_step(2)
    rest = issuer.take()
    assert (first.ops, first.step.tolist()) == (("prefill",), [0])
    assert (rest.ops, rest.step.tolist()) == (("decode",), [1, 2])
    assert [wait.position for wait in rest.waits] == [1, 2]


def test_the_first_token_comes_from_prefill_unless_there_is_an_encoder():
    assert Schedule.n_decode_steps(is_encoder_decoder=False, gen_len=32) == 31
    assert Schedule.n_decode_steps(is_encoder_decoder=True, gen_len=32) == 32
    assert Schedule.n_decode_steps(is_encoder_decoder=False, gen_len=1) == 0


# -- checks of the policy --------------------------------------------------------------------------

OTHER = {"A_g": 1, "F_g": 0, "r_w": 0.5, "r_c": 0.5, "r_h": 0.5, "pinned": True}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
@pytest.mark.parametrize("key", OTHER)
def test_a_value_without_meaning_is_refused(kind, key):
    policy = Policy(N=8, mu=8, **{key: OTHER[key]})
    if key not in kind.knobs:
        message = rf"'{kind.name}' has no use for {key} = {OTHER[key]}; it takes N, mu"
        with pytest.raises(BadInput, match=message):
            kind.check(policy)
    else:
        more = {"A_g": 1} if key == "r_c" and "A_g" in kind.knobs else {}  # KV on the GPU
        kind.check(policy.model_copy(update=more))


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_a_default_is_always_allowed(kind):
    kind.check(Policy(N=8, mu=8))


def test_what_a_schedule_takes_is_listed():
    with pytest.raises(BadInput, match=r"it takes N, mu, r_w$"):
        Toy.check(Policy(N=1, mu=1, r_c=0.5))


def test_a_schedule_of_one_batch_is_not_split():
    kind = find_schedule("accelerate")
    assert kind.one_batch
    with pytest.raises(BadInput, match=r"runs the batch as one: mu = 4 must equal N = 8"):
        kind.check(Policy(N=8, mu=4))


def test_a_schedule_of_one_gpu_is_not_given_two():
    with pytest.raises(BadInput, match="'toy' uses one GPU, but 2 were asked for"):
        Toy.check(Policy(N=1, mu=1), n_gpus=2)
    find_schedule("cgopipe").check(Policy(N=1, mu=1), n_gpus=2)


def test_cgopipe_keeps_the_cache_where_its_attention_is():
    kind = find_schedule("cgopipe")
    with pytest.raises(BadInput, match=r"r_c = 0.5 needs A_g = 1"):
        kind.check(Policy(N=8, mu=8, r_c=0.5))
    with pytest.raises(BadInput, match=r"on one GPU, not 2"):
        kind.check(Policy(N=8, mu=8, A_g=1), n_gpus=2)


# -- where schedules are found ---------------------------------------------------------------------


def test_every_built_in_schedule_is_found_by_its_name():
    assert set(schedules()) >= {kind.name for kind in BUILT_IN}
    assert len({kind.name for kind in BUILT_IN}) == len(BUILT_IN)
    assert all(find_schedule(kind.name) is kind for kind in BUILT_IN)


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_every_schedule_says_what_it_is_and_where_it_comes_from(kind):
    assert kind.title
    assert kind.paper
    assert kind.__doc__
    assert kind.knobs <= set(Policy.model_fields) - {"N", "mu"}


def test_an_unknown_schedule_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="unknown schedule 'cgopip', did you mean 'cgopipe'"):
        find_schedule("cgopip")


@pytest.fixture
def installed(monkeypatch):
    """Entry points of another package, as if it were installed."""

    def install(*points):
        monkeypatch.setattr(module, "entry_points", lambda group: points)
        schedules.cache_clear()

    yield install
    schedules.cache_clear()


def test_another_package_adds_a_schedule(installed):
    point = EntryPoint("toy", "tests.schedules.test_schedule:Toy", "moelab.schedules")
    installed(point)
    assert find_schedule("toy").title == Toy.title
    assert find_schedule("cgopipe") in BUILT_IN


@pytest.mark.parametrize("value", ["schedules.policy:Policy", "schedules.schedule:find_schedule"])
def test_an_entry_point_must_be_a_schedule(installed, value):
    installed(EntryPoint("wrong", value, "moelab.schedules"))
    with pytest.raises(BadInput, match=rf"entry point 'wrong' \({value}\) is not a Schedule"):
        schedules()


def test_an_entry_point_that_cannot_be_loaded_is_named(installed):
    installed(EntryPoint("gone", "no_such_package:Toy", "moelab.schedules"))
    with pytest.raises(BadInput, match=r"entry point 'gone'"):
        schedules()
