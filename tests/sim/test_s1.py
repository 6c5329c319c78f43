"""S1 of MoE-Lightning by hand: Mixtral 8x7B on one T4, 504 x 418 prompt tokens, mu = 36.

Every figure is worked out here from widths and preset rates, and again by the simulator; the same
figures stand in docs/physics-s1.md. They agree to 1 %.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from schedules.batch import CGOPipe, FastDecode
from schedules.kernels import Kernels
from schedules.policy import make_policy
from sim import simulate
from sim.api import Question
from sim.cost import Roofline
from sim.generation import simulate_phase
from sim.hardware import load_hardware
from sim.scenario import place

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench", 128)
LAYERS, BATCHES, MU, HIDDEN, KV, WIDTH, EXPERTS = 32, 14, 36, 4096, 2048, 14336, 8
STEP = 64  # the middle one
ONE_LAYER = EXPERTS * 3 * HIDDEN * WIDTH * 2  # bytes of expert weights
SLOTS = LAYERS * BATCHES
DOC = Path(__file__).parents[2] / "docs" / "physics-s1.md"


@pytest.fixture(scope="module")
def t4():
    return load_hardware("gcp-t4-24c")


@pytest.fixture(scope="module")
def result():
    return simulate("cgopipe", *S1, batch=504, micro_batch=36)


@pytest.fixture(scope="module")
def step(result):
    return result.generation.step(STEP)


def busy(phase):
    return dict(zip(phase.graph.streams, phase.totals[1:], strict=True))


def test_bytes_and_flops_of_a_step(step):
    graph = step.graph
    works = [graph.works[w] for w in graph.work]
    link = {k: sum(w.link_bytes.get(k, 0) for w in works) for k in ("pin", "h2d", "d2h")}
    assert link["pin"] == LAYERS * ONE_LAYER == 90_194_313_216
    hidden = 504 * HIDDEN * 2 * LAYERS  # attention outputs, back to the GPU
    assert link["h2d"] == LAYERS * ONE_LAYER + hidden
    assert link["d2h"] == 504 * (HIDDEN + KV) * 2 * LAYERS  # queries, keys, values
    tile = 64 * EXPERTS * (1 - 0.75**36)  # rows: nine tokens an expert, padded to one tile
    expert_flops = SLOTS * 2 * tile * 3 * HIDDEN * WIDTH
    flops = sum(w.flops.get("experts", 0) for w in works)
    assert flops == pytest.approx(expert_flops, rel=1e-9)
    assert sum(w.bytes["cpu"] for w in works if w.device == "cpu") == cpu_bytes()


def cpu_bytes():
    """The cache of 482 tokens a sequence; queries, keys and values in, outputs out."""
    return 504 * LAYERS * 2 * ((418 + STEP) * KV + (HIDDEN + KV) + HIDDEN)


def test_seconds_of_each_stream(step, t4):
    rate, call = {k: v.sustained for k, v in t4.links.items()}, t4.link_call_s.value
    by_hand = {
        "pin": LAYERS * ONE_LAYER / rate["pin"] + SLOTS * call,
        "h2d": (LAYERS * ONE_LAYER + 504 * HIDDEN * 2 * LAYERS) / rate["h2d"] + 2 * SLOTS * call,
        "cpu": cpu_bytes() / t4.cpu.memory_bandwidth.sustained + SLOTS * t4.cpu.call_s.value,
        "gpu": gpu_seconds(t4),
    }
    assert {k: busy(step)[k] for k in by_hand} == pytest.approx(by_hand, rel=0.01)
    assert step.run.makespan_s == pytest.approx(by_hand["pin"], rel=0.01)


def gpu_seconds(t4):
    """PreAttn is bound by its weights, PostAttn by the arithmetic of its padded tiles."""
    flops, bandwidth = t4.gpu.compute["float16"], t4.gpu.memory_bandwidth.sustained
    pre = HIDDEN * (HIDDEN + KV) * 2 / bandwidth + 7 * t4.gpu.call_s.value
    experts = 2 * 64 * EXPERTS * 3 * HIDDEN * WIDTH / flops["experts"].sustained
    out = 2 * MU * HIDDEN * HIDDEN / flops["gemm"].sustained
    post = experts + out + 12 * t4.gpu.call_s.value
    return SLOTS * (pre + post)


def test_prefill(result, t4):
    """210,672 tokens: experts, dense matrices and attention one after the other on the GPU."""
    tokens, flops = 504 * 418, t4.gpu.compute["float16"]
    experts = tokens * 2 * 2 * 3 * HIDDEN * WIDTH * LAYERS / flops["experts"].sustained
    dense = tokens * 2 * HIDDEN * (2 * HIDDEN + KV) * LAYERS / flops["gemm"].sustained
    attention = 504 * 418**2 / 2 * 4 * HIDDEN * LAYERS / flops["attention"].sustained
    assert result.prefill_s == pytest.approx(experts + dense + attention, rel=0.01)


class Ideal(CGOPipe):
    """Expert kernels without padding: bound by the weights they read."""

    kernels = Kernels(tile_rows=1, small_tile_rows=1)


class IdealBlock(FastDecode):
    kernels = Ideal.kernels


def middle_step(kind):
    scenario = Question(*S1).scenario()
    schedule = place(scenario, kind, make_policy({"N": 504, "mu": 36}))
    return simulate_phase(schedule, STEP, Roofline(scenario.hardware))


def test_the_independent_estimate_with_ideal_kernels():
    """10.7 s a step, pin 100 %, h2d 69 %, gpu 56 %; 17.9 s with the weights as one block."""
    paged, block = middle_step(Ideal), middle_step(IdealBlock)
    assert len(paged.graph) == 3136
    assert paged.run.makespan_s == pytest.approx(10.7, rel=0.01)
    share = {name: seconds / paged.run.makespan_s for name, seconds in busy(paged).items()}
    assert share["pin"] == pytest.approx(1, abs=0.01)
    assert share["h2d"] == pytest.approx(0.69, abs=0.01)
    assert share["gpu"] == pytest.approx(0.56, abs=0.01)
    assert block.run.makespan_s == pytest.approx(17.9, rel=0.02)


def test_the_page_says_the_same(result, step):
    shown = dict(
        re.findall(
            r"^\| ([^|]+?) +\| [^|]+ \| ([\d.,]+) (?:s|GB|TFLOP|) *\|$", DOC.read_text(), re.M
        )
    )
    says = {name: float(value.replace(",", "")) for name, value in shown.items()}
    works = [step.graph.works[w] for w in step.graph.work]
    now = {
        "expert weights pinned and copied": sum(w.link_bytes.get("pin", 0) for w in works) / 1e9,
        "KV cache read by the CPU": sum(w.bytes["cpu"] for w in works if w.device == "cpu") / 1e9,
        "expert arithmetic, tiles padded": sum(w.flops.get("experts", 0) for w in works) / 1e12,
        "`pin` busy": busy(step)["pin"],
        "`h2d` busy": busy(step)["h2d"],
        "`gpu` busy": busy(step)["gpu"],
        "`cpu` busy": busy(step)["cpu"],
        "decode step": step.run.makespan_s,
        "prefill": result.prefill_s,
        "tasks in a step": len(step.graph),
    }
    assert says == pytest.approx(now, rel=0.005)
    assert np.ptp(result.step_s) < 1e-9  # the pinning thread does not see the context grow
