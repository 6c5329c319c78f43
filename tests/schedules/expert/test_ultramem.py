"""Memory layers in the place of experts: order, time, traffic and memory, worked out by hand."""

import pytest

from schedules.errors import BadInput
from schedules.expert import OnDemand, UltraMem
from schedules.expert.memory_layer import MemoryLayer
from schedules.model_presets import load_model
from sim import simulate
from sim.hardware import load_hardware

OPS = {
    "a": "compute_attention",
    "k": "score_keys",
    "n": "send_ids",
    "p": "gather_values",
    "v": "load_values",
    "w": "weighted_sum",
    "f": "compute_ffn",
}
PREFILL = OPS | {"a": "prefill_attention"}
SECONDS = {"a": 2, "k": 1, "n": 1, "p": 3, "v": 2, "w": 1, "f": 1}
VALUE = 2_048 * 2  # bytes of one of Mixtral's
MIXTRAL = load_model("mixtral-8x7b")


def build(lab, n=1, **changes):
    return lab.build(UltraMem, n, mu=n, **{"prompts": (3,)} | changes)


# -- order and time --------------------------------------------------------------------------------


def test_decode_step(lab):
    """Each waits for the one before: the numbers must be on the host before values are gathered."""
    picture = """
        s   | 0   1   2   3   4   5   6   7   8   9   10  11  12  13  14  15  16  17  18  19
        pin | ... ... ... ... p0a --- --- ... ... ... ... ... ... ... p1a --- --- ... ... ...
        h2d | ... ... ... ... ... ... ... v0a --- ... ... ... ... ... ... ... ... v1a --- ...
        gpu | a0a --- k0a ... ... ... ... ... ... w0a a1a --- k1a ... ... ... ... ... ... w1a
        d2h | ... ... ... n0a ... ... ... ... ... ... ... ... ... n1a ... ... ... ... ... ...
    """
    graph = lab.decode(build(lab))
    lab.check_order(graph, OPS, "a0a k0a n0a p0a v0a w0a  a1a k1a n1a p1a v1a w1a")
    lab.check(graph, OPS, SECONDS, picture)


def test_prefill_is_the_same_with_more_tokens(lab):
    graph = lab.prefill(build(lab))
    lab.check_order(graph, PREFILL, "a0a k0a n0a p0a v0a w0a  a1a k1a n1a p1a v1a w1a")


def test_the_thread_waits_for_the_numbers(lab):
    """Learning that they are there takes 1 s in each layer, and the end of the step 1 s more."""
    graph = lab.decode(build(lab))
    assert [(wait.position, wait.tasks) for wait in graph.waits[:2]] == [(3, (2,)), (9, (8,))]
    _, run = lab.simulate(graph, OPS, SECONDS, sync_s=1.0)
    assert run.makespan_s == 20 + 3


def test_dense_layers_and_shared_experts_stay(lab):
    """DeepSeek-V2-Lite: layer 0 is dense; two experts of layer 1 are for all tokens."""
    schedule = build(lab, model="deepseek-v2-lite")
    graph = lab.decode(schedule)
    lab.check_order(graph, OPS, "a0a f0a a1a k1a n1a p1a v1a w1a")
    spec, node = schedule.node.model.decoder_layers[1], schedule.node
    shared = node.work.shared_experts(spec, 1)
    both = schedule.memory[spec].weighted_sum(1).total_flops + shared.total_flops
    assert graph.works[graph.work[-1]].total_flops == both + node.work.head(1).total_flops


def test_an_encoder_s_layers_are_replaced_too(lab):
    order = "a0a f0a a1a k1a n1a p1a v1a w1a"
    lab.check_order(lab.prefill(build(lab, model="switch-base-8")), PREFILL, order)
    lab.check_order(lab.decode(build(lab, model="switch-base-8")), OPS, order)


def test_without_experts_everything_is_resident(lab):
    graph = lab.decode(build(lab, 3, model="opt-6.7b"))
    lab.check_order(graph, OPS, "a0a f0a a1a f1a")
    assert lab.moved(graph) == {}


# -- what moves ------------------------------------------------------------------------------------


def test_bytes_of_a_step(lab):
    """One token: 84 values of 4096 B and their numbers, in each of 32 layers."""
    for values, policy in ((84, {}), (16, {"values": 16})):
        graph = lab.decode(build(lab, layers=32, **policy))
        assert lab.sizes(graph, "load_values") == [values * VALUE] * 32
        assert lab.moved(graph) == {
            "d2h": 32 * values * 8,
            "pin": 32 * values * VALUE,
            "h2d": 32 * values * VALUE,
        }


@pytest.mark.parametrize("factor", [10, 100])
@pytest.mark.parametrize("n", [1, 32])
def test_law_bytes_of_a_token_are_flat_in_the_size_of_the_table(lab, n, factor):
    """Ten and a hundred times the parameters: one token moves exactly the same. Of many tokens a
    few take the same value in the small table; in the large one fewer do. On-demand moves more
    experts until no two tokens take the same one.
    """
    larger = MIXTRAL.model_copy(update={"n_experts": 8 * factor})
    small, large = (
        lab.moved(lab.decode(build(lab, n, model=model)))["h2d"] for model in (MIXTRAL, larger)
    )
    assert small <= large == pytest.approx(small, rel=0 if n == 1 else 2e-3)
    assert large <= 2 * n * 84 * VALUE
    if n > 1:
        experts = [
            lab.moved(lab.decode(lab.build(OnDemand, n, mu=n, model=model)))["h2d"]
            for model in (MIXTRAL, larger)
        ]
        assert experts[1] > 4 * experts[0]


def test_law_a_hundred_times_the_parameters_take_a_few_percent_more_time():
    """The whole model would need nine terabytes of host memory; a layer has 282 GB."""
    machine = load_hardware("gcp-t4-24c").with_rate("cpu.memory", 100)
    question = (machine, "mtbench", 8, 4, 4)
    small, large = (
        simulate("ultramem", MIXTRAL.model_copy(update={"n_experts": n}), *question)
        for n in (8, 800)
    )
    moved = [r.moved_bytes_per_token["load_values"] for r in (small, large)]
    assert moved[1] == pytest.approx(moved[0], rel=0.11)  # prompts share values of the small table
    assert small.tpot_s < large.tpot_s < 1.1 * small.tpot_s


def test_a_token_in_seconds():
    """Mixtral on a T4, four sequences, each of 32 layers, ms; rates of the preset, GB/s:

    attention weights 83.9 MB / 220 = 0.38, keys 3.0 MB / 220 = 0.01, expansion 67.1 / 220 = 0.31,
    336 values of 4096 B: gathered at 8.5, 0.16, copied at 12.35, 0.11; 1.0 in all, and launches: 12
    of attention, 8 and 6 of the memory layer, 3 us each, 0.08; four waits and issuing, 0.1.
    """
    question = ("mixtral-8x7b", "gcp-t4-24c", "mtbench", 8, 4, 4)
    by_hand = 32 * (0.38 + 0.01 + 0.31 + 0.16 + 0.11 + 0.08 + 0.1) * 1e-3
    assert simulate("ultramem", *question).tpot_s == pytest.approx(by_hand, rel=0.1)
    assert simulate("on-demand", *question).tpot_s > 100 * by_hand


# -- memory and limits -----------------------------------------------------------------------------


def test_memory_peaks(lab):
    """Two layers, one prompt of three tokens: the same table as the experts, but on the host alone.

    On the GPU beside what on-demand has without its six places for experts: keys, scores, numbers
    with scores, and the values of three tokens.
    """
    peaks = build(lab).node.issuer.peak_bytes
    layer = MemoryLayer(build(lab).node.work, MIXTRAL.with_layers(2).decoder_layers[0], 84)
    other = lab.build(OnDemand, 1, mu=1, prompts=(3,)).node.issuer.peak_bytes["gpu"]
    rest = other - 6 * 2 * 3 * 4_096 * 14_336
    values = int(layer.distinct(3) * VALUE)
    own = 2 * 70_055_936 + 3 * (2 * 830 + 84 * 84) * 2 + 3 * 84 * 10 + values
    assert layer.resident_bytes == 70_055_936
    assert peaks["gpu"] == rest + own
    assert peaks["pinned"] == values + 3 * 84 * 8
    assert peaks["cpu"] == 2 * 2_818_572_288 + peaks["pinned"]


def test_limits(lab):
    with pytest.raises(BadInput, match="values = 700000: a table of this model has 688128"):
        build(lab, values=700_000)
    with pytest.raises(BadInput, match="has no use for values = 3"):
        lab.build(OnDemand, values=3)
    with pytest.raises(BadInput, match="uses one GPU, but 2 were asked for"):
        build(lab, gpus=2)
