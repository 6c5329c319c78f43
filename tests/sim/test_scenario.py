"""What is asked, and the node that results: GPUs, pools, micro-batches, pinning, context."""

import pytest

from schedules.errors import BadInput, Infeasible
from schedules.lengths import Fixed, Listed
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from schedules.workload import Workload
from sim.hardware import load_hardware
from sim.scenario import Scenario, place
from tests.strategies import toy_hardware


def workload(tokens=100, gen_len=8, padded=False) -> Workload:
    lengths = Fixed(tokens=tokens) if isinstance(tokens, int) else Listed(lengths=tokens)
    return Workload(name="w", prompt_lengths=lengths, gen_len=gen_len, padded=padded, source="-")


def scenario(model="mixtral-8x7b", machine="gcp-t4-24c", layers=2, gpus=None, **asked) -> Scenario:
    spec = load_model(model).with_layers(layers)
    hardware = load_hardware(machine) if isinstance(machine, str) else machine
    return Scenario(spec, hardware, workload(**asked), gpus)


def placed(schedule="cgopipe", policy=None, **asked):
    values = {"N": 8, "mu": 4} | (policy or {})
    return place(scenario(**asked), find_schedule(schedule), make_policy(values))


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "machine", "asked", "used"),
    [
        ("cgopipe", "gcp-t4x2-32c", None, 2),
        ("cgopipe", "gcp-t4x2-32c", 1, 1),
        ("flexgen", "gcp-t4x4-32c", None, 4),
        ("flexgen", "gcp-t4x4-32c", 3, 3),
        ("accelerate", "gcp-t4x2-32c", None, 1),  # it cannot use the second
        ("cgopipe", "gcp-t4-24c", None, 1),
    ],
)
def test_as_many_gpus_as_the_schedule_can_use(schedule, machine, asked, used):
    found = scenario(machine=machine, gpus=asked)
    assert found.gpus_for(find_schedule(schedule)) == used


@pytest.mark.parametrize("gpus", [0, 3, -1])
def test_no_more_gpus_than_there_are(gpus):
    message = rf"{gpus} GPUs were asked for; hardware 'gcp-t4x2-32c' has 2"
    with pytest.raises(BadInput, match=message):
        placed(machine="gcp-t4x2-32c", gpus=gpus)


def test_two_gpus_for_a_schedule_of_one():
    with pytest.raises(BadInput, match="'accelerate' uses one GPU, but 2 were asked for"):
        placed("accelerate", {"mu": 8}, machine="gcp-t4x2-32c", gpus=2)


def test_each_gpu_has_its_streams_and_its_pool():
    node = placed(machine="gcp-t4x2-32c").node
    assert node.issuer.hosts == 2
    assert node.issuer.streams == (
        *("host0", "host1", "disk", "pin"),
        *("h2d0", "h2d1", "gpu0", "gpu1", "d2h0", "d2h1", "cpu", "peer"),
    )
    pools = {name: pool.capacity_bytes for name, pool in node.issuer.pools.items()}
    machine = load_hardware("gcp-t4x2-32c").capacities()
    assert pools == {
        "gpu0": machine["gpu"],
        "gpu1": machine["gpu"],
        "cpu": machine["cpu"],
        "pinned": machine["pinned"],
        "disk": machine["disk"],
    }


def test_one_gpu_has_plain_names():
    issuer = placed().node.issuer
    assert issuer.streams == ("host", "disk", "pin", "h2d", "gpu", "d2h", "cpu")
    assert set(issuer.pools) == {"gpu", "cpu", "pinned", "disk"}


def test_pipeline_processes_have_a_cpu_lane_each_and_share_the_cores():
    node = placed("flexgen-cpu", machine="gcp-t4x2-32c").node
    assert {"cpu0", "cpu1"} <= set(node.issuer.streams)
    assert (node.work.gpus, node.work.cpu_share) == (1, 0.5)  # whole layers, half of the cores
    tensor = placed("cgopipe", machine="gcp-t4x2-32c").node
    assert (tensor.work.gpus, tensor.work.cpu_share) == (2, 1.0)


def test_a_pipeline_needs_a_layer_for_each_gpu():
    with pytest.raises(BadInput, match=r"layer for each of 2 GPUs; model .* has 1"):
        placed("flexgen", machine="gcp-t4x2-32c", layers=1)


@pytest.mark.parametrize("batch", [4, 5, 6, 7, 9])
def test_data_parallel_gpus_divide_any_batch_that_has_a_sequence_for_each(batch):
    """Five sequences on four GPUs: two for one of them, one for each other."""
    found = placed("zero-inference", {"N": batch, "mu": batch}, machine="gcp-t4x4-32c")
    sizes = [part.size for part in found.node.batches]
    assert len(sizes) == 4
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) <= 1


def test_data_parallel_gpus_need_a_sequence_each():
    with pytest.raises(BadInput, match="needs N >= 4, a sequence for each GPU"):
        placed("zero-inference", {"N": 3, "mu": 3}, machine="gcp-t4x4-32c")


# -- the batch -------------------------------------------------------------------------------------


def test_micro_batches_come_from_the_workload_balanced():
    batches = placed(policy={"N": 5, "mu": 2}, tokens=(3, 9, 4, 8)).node.batches
    assert [batch.prompt_lengths for batch in batches] == [(9,), (8, 3), (4, 3)]


def test_padded_prompts_are_all_the_longest():
    batches = placed(policy={"N": 2, "mu": 2}, tokens=(3, 9, 4), padded=True).node.batches
    assert [batch.prompt_lengths for batch in batches] == [(9, 9)]


def test_the_policy_is_checked_first():
    with pytest.raises(BadInput, match="has no use for r_h"):
        placed(policy={"r_h": 0.5})


# -- context ---------------------------------------------------------------------------------------


def test_learned_positions_end_somewhere():
    placed(model="opt-6.7b", tokens=2040, gen_len=8, policy={"N": 1, "mu": 1})
    with pytest.raises(BadInput, match=r"needs 2049 positions .*2041 \+ 8.*'opt-6.7b-2l' has 2048"):
        placed(model="opt-6.7b", tokens=2041, gen_len=8)


def test_rotary_positions_end_where_the_model_says():
    with pytest.raises(BadInput, match=r"needs 32769 positions .*'mixtral-8x7b-2l' has 32768"):
        placed(model="mixtral-8x7b", tokens=32761, gen_len=8)


def test_relative_positions_do_not_end():
    node = placed(model="switch-base-8", tokens=600, gen_len=600).node
    assert node.model.max_context < node.batches[0].longest + node.gen_len


# -- pinned memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False])
def test_the_policy_decides_whether_host_memory_is_pinned(given):
    assert placed("flexgen", {"pinned": given}).node.pinned is given


def test_weights_are_pinned_by_default_when_they_fit_in_what_can_be_locked():
    """Two layers of Mixtral are 5.8 GB; 103 GB can be locked on this machine, or 5 % of that."""
    machine = load_hardware("gcp-t4-24c")
    small = machine.with_rate("host.pinnable_fraction", 0.05)
    assert placed("flexgen", machine=machine).node.pinned is True
    assert placed("flexgen", machine=small).node.pinned is False
    assert placed("cgopipe", machine=machine).node.pinned is False  # its rule is: never


def test_pinning_by_default_never_makes_a_run_infeasible_that_fits_without():
    """Encoder and decoder of Switch are streamed: together they are too large to be locked."""
    asked = {"model": "switch-base-8", "layers": 4}
    spec = load_model("switch-base-8").with_layers(4)
    decoder = sum(layer.parameters for layer in spec.decoder_layers) * 4
    machine = load_hardware("gcp-t4-24c")
    lockable = 1.3 * decoder / machine.capacities()["pinned"]
    tight = machine.with_rate("host.pinnable_fraction", lockable)
    placed("flexgen", {"pinned": False}, machine=tight, **asked)  # it fits
    assert placed("flexgen", machine=tight, **asked).node.pinned is False


# -- memory ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_infeasible():
    with pytest.raises(
        Infeasible, match=r"pool 'gpu' is too small: 'expert weights' needs 11.27 GB"
    ):
        placed("gpu-only", layers=4, machine=toy_hardware(memory=11e9))


def test_peaks_are_sums_of_the_buffers_by_hand():
    """GPU-only, Mixtral of two layers, batch 2 x 1: weights, hidden states, KV and workspace.

    Per token and layer 4096 B of KV for 100 + 8 tokens; a workspace for 100 prompt tokens.
    """
    schedule = placed("gpu-only", {"N": 2, "mu": 1})
    work, layers = schedule.node.work, schedule.node.model.decoder_layers
    weights = schedule.node.model.parameters * 2
    kv = 2 * 2 * 108 * 4096
    hidden = 2 * 4096 * 2
    workspace = max(work.workspace_bytes(layer, 100, 1) for layer in layers)
    peak = schedule.node.issuer.peak_bytes
    assert peak["gpu"] == weights + kv + hidden + workspace
    assert (peak["cpu"], peak["pinned"]) == (0, 0)
