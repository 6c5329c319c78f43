"""The node that a schedule finds: the same whoever opens the issuer."""

import pytest

from schedules.batching import MicroBatch
from schedules.errors import BadInput, Infeasible
from schedules.graph import RecordingIssuer
from schedules.kernels import Kernels
from schedules.lengths import Listed
from schedules.model_presets import load_model
from schedules.modifiers import make_modifiers
from schedules.placing import Placement, make_node, place
from schedules.policy import make_policy
from schedules.routing import Routing
from schedules.schedule import find_schedule, schedules
from schedules.workload import Workload
from sim.hardware import load_hardware
from sim.scenario import Scenario
from sim.scenario import place as place_simulated

GIB = 2**30
ROOMY = {"gpu": 100 * GIB, "cpu": 400 * GIB, "pinned": 200 * GIB, "disk": 0}
LENGTHS = (30, 50, 7, 100)
MIXTRAL = load_model("mixtral-8x7b").with_layers(2)
EXPERTS = 2 * 8 * 3 * 4_096 * 14_336 * 2  # bytes in two layers


class Opened:
    """Opens issuers, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, streams, capacities, hosts, batches):
        self.asked.append((streams, dict(capacities), hosts, batches))
        return RecordingIssuer(streams, capacities, hosts, self.routing)

    def routing(self, gate):
        """As the simulator answers a gate."""
        (_, _, _, batches) = self.asked[-1]
        batch = batches[gate.micro_batch]
        tokens = batch.prompt_tokens if gate.step == 0 else batch.size
        return Routing().trace(tokens, 8, 2, gate)


def given(policy=None, **changes) -> Placement:
    fields = {
        "model": MIXTRAL,
        "policy": make_policy({"N": 4, "mu": 2} | (policy or {})),
        "lengths": LENGTHS,
        "gen_len": 5,
        "capacities": ROOMY,
        "open_issuer": Opened(),
    }
    return Placement(**(fields | changes))


ONE = {"N": 4, "mu": 4}


# -- the same for everyone -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(schedules()))
@pytest.mark.parametrize("pinned", [None, False, True])
def test_every_schedule_issues_what_the_simulator_sees(name, pinned):
    """Tasks, streams, dependencies, works and memory, from prefill to the second decode step."""
    kind = find_schedule(name)
    policy = {"N": 4, "mu": 4 if kind.one_batch else 2}
    if "pinned" in kind.knobs:
        policy["pinned"] = pinned
    workload = Workload(
        name="w",
        prompt_lengths=Listed(lengths=LENGTHS),
        gen_len=5,
        padded=False,
        source="made up",
    )
    machine = load_hardware("gcp-t4-24c").with_rate("gpu.memory", 10)
    simulated = place_simulated(
        Scenario(MIXTRAL, machine, workload, gpus=1), kind, make_policy(policy)
    )
    placed = place(kind, given(policy, capacities=machine.capacities()))
    for schedule in (simulated, placed):
        schedule.run_prefill()
        schedule.run_decode_step(1)
        schedule.run_decode_step(2)
    one, two = (s.node.issuer.take() for s in (simulated, placed))
    assert one.same_structure(two)
    assert [one.works[i] for i in one.work] == [two.works[i] for i in two.work]
    assert simulated.node.issuer.peak_bytes == placed.node.issuer.peak_bytes


# -- what the issuer is opened with ----------------------------------------------------------------


def test_streams_pools_threads_and_micro_batches_of_one_gpu():
    asked = given()
    place(find_schedule("cgopipe"), asked)
    ((streams, capacities, hosts, batches),) = asked.open_issuer.asked
    assert streams == ("host", "disk", "pin", "h2d", "gpu", "d2h", "cpu")
    assert capacities == ROOMY
    assert hosts == 1
    assert batches == (MicroBatch(0, (100, 7)), MicroBatch(1, (50, 30)))
    assert [batch.requests for batch in batches] == [(3, 2), (1, 0)]


def test_every_gpu_has_the_whole_capacity_and_a_thread():
    asked = given(gpus=2)
    node = make_node(find_schedule("cgopipe"), asked, pinned=False)
    ((_, capacities, hosts, _),) = asked.open_issuer.asked
    assert capacities == {"gpu0": 100 * GIB, "gpu1": 100 * GIB} | {
        pool: ROOMY[pool] for pool in ("cpu", "pinned", "disk")
    }
    assert hosts == 2
    assert (node.work.gpus, node.work.cpu_share, len(node.gpus)) == (2, 1.0, 2)
    assert ROOMY["gpu"] == 100 * GIB  # what was given is left as it was


def test_processes_of_a_pipeline_divide_the_cores_and_hold_a_sequence_for_each_turn():
    asked = given({"N": 4, "mu": 1}, gpus=2)
    node = make_node(find_schedule("flexgen"), asked, pinned=False)
    assert (node.work.gpus, node.work.cpu_share) == (1, 0.5)
    assert {"cpu0", "cpu1", "peer"} <= set(node.issuer.streams)
    assert [batch.size for batch in node.batches] == [2, 2]


def test_data_parallel_gpus_get_a_micro_batch_each():
    node = make_node(find_schedule("zero-inference"), given(ONE, gpus=3), pinned=False)
    assert [batch.prompt_lengths for batch in node.batches] == [(100,), (50,), (30, 7)]
    with pytest.raises(BadInput, match="needs N >= 5, a sequence for each GPU"):
        make_node(find_schedule("zero-inference"), given(ONE, gpus=5), pinned=False)


def test_kernels_are_those_of_the_schedule_unless_others_are_given():
    kind = find_schedule("flexgen")
    assert place(kind, given()).node.work.kernels == kind.kernels
    own = Kernels(experts="loop", tile_rows=8)
    assert place(kind, given(kernels=own)).node.work.kernels == own


# -- page-locked or not ----------------------------------------------------------------------------


def pinned(name, policy=None, **capacities) -> bool:
    kind = find_schedule(name)
    split = ONE if kind.one_batch else {}
    return place(kind, given(split | (policy or {}), capacities=ROOMY | capacities)).node.pinned


def test_weights_are_page_locked_if_they_fit_where_the_schedule_says_so():
    assert pinned("on-demand", pinned=EXPERTS)
    assert not pinned("on-demand", pinned=EXPERTS - 1)
    assert not pinned("cgopipe")  # never by itself
    assert pinned("flexgen")
    assert not pinned("flexgen", pinned=5 * GIB)  # enough for staging, not for 5.8e9 bytes


def test_the_policy_decides_where_it_says_something():
    assert pinned("cgopipe", {"pinned": True})
    assert not pinned("on-demand", {"pinned": False})
    with pytest.raises(Infeasible, match="pool 'pinned' is too small: 'host weights"):
        pinned("on-demand", {"pinned": True}, pinned=EXPERTS - 1)


def test_a_failed_attempt_leaves_nothing_behind():
    """Pageable memory is tried on a node of its own, so nothing is counted twice."""
    asked = given(ONE, capacities=ROOMY | {"pinned": EXPERTS - 1})
    node = place(find_schedule("on-demand"), asked).node
    assert len(asked.open_issuer.asked) == 2
    assert node.issuer.peak_bytes["cpu"] == EXPERTS
    assert node.issuer.peak_bytes["pinned"] == 0


def test_what_fits_in_no_way_names_the_pool_of_the_last_attempt():
    with pytest.raises(Infeasible, match="pool 'cpu' is too small"):
        pinned("on-demand", pinned=0, cpu=EXPERTS - 1)


# -- what is refused -------------------------------------------------------------------------------


def test_the_policy_is_checked_before_a_node_is_made():
    asked = given({"N": 4, "mu": 4, "r_w": 0.5})
    with pytest.raises(BadInput, match=r"'on-demand' has no use for r_w = 0\.5"):
        place(find_schedule("on-demand"), asked)
    with pytest.raises(BadInput, match="'on-demand' uses one GPU, but 2 were asked for"):
        place(find_schedule("on-demand"), given(ONE, gpus=2))
    assert asked.open_issuer.asked == []


def test_the_longest_sequence_must_fit_into_the_model_s_context():
    """Mixtral has 32768 positions."""
    place(find_schedule("cgopipe"), given(lengths=(30, 32_763, 1, 1)))
    message = r"32769 positions are needed \(longest prompt 32764 \+ 5 generated\); model .* 32768"
    with pytest.raises(BadInput, match=message):
        place(find_schedule("cgopipe"), given(lengths=(30, 32_764, 1, 1)))


def test_relative_positions_have_no_limit():
    switch = load_model("switch-base-8").with_layers(2)
    assert place(find_schedule("cgopipe"), given(model=switch, lengths=(100_000,) * 4))


@pytest.mark.parametrize(
    ("name", "modifiers", "said"),
    [
        ("hobbit", {"experts": "int4"}, "in how many bits experts are; leave the modifier 'exp"),
        ("edgemoe", {"weights": "int8"}, "in how many bits experts are; leave the modifier 'wei"),
        ("hobbit", {"skip": 0.5}, "which choices count; leave the modifier 'skip' out"),
        ("edgemoe", {"ssd": "serial"}, "where weights lie; leave the modifier 'ssd' out"),
    ],
)
def test_what_a_schedule_decides_by_itself_cannot_be_asked_for(name, modifiers, said):
    made = make_modifiers(modifiers)
    asked = given({"N": 4, "mu": 4}, model=made.applied(MIXTRAL), ssd=made.ssd)
    with pytest.raises(BadInput, match=rf"^schedule '{name}' decides by itself {said}"):
        place(find_schedule(name), asked)
    assert asked.open_issuer.asked == []


def test_a_cache_in_fewer_bits_is_nobody_s_own_matter():
    made = make_modifiers({"kv": "int8"}).applied(MIXTRAL)
    assert place(find_schedule("hobbit"), given({"N": 4, "mu": 4}, model=made))
