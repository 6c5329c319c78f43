"""The runtime on a CUDA device: exact, without hidden waits, within its memory, in order.

Tolerances: float32 as in `test_functions_gpu.py`; half precision is that of the CPU's test, against
transformers on the same device.
"""

import json
import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.checkpoint import Checkpoint
from runtime.device import CUDA_RESERVE_BYTES, REGISTERED_BYTES, CudaDevice, DeviceOptions
from runtime.functions import experts, grouped
from runtime.plain import plain_generate
from runtime.random_weights import RandomWeights
from runtime.sampling import Greedy
from runtime.session import Session
from runtime.weights import layer_weights
from runtime.workspace import Workspace
from schedules.errors import MoelabError
from schedules.model_presets import load_model
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from tests.runtime.checkpoints import FAMILIES, random_prompts, reference, save_checkpoint
from tests.runtime.parallel_worker import CASES as PARALLEL_CASES
from tests.runtime.parallel_worker import GEN_LEN as PARALLEL_GEN_LEN
from tests.runtime.parallel_worker import PROMPTS
from tests.runtime.runs import run

ROOT = Path(__file__).parents[2]

CUDA = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="needs a CUDA device")]

DEVICE = "cuda"
BUDGET = CUDA_RESERVE_BYTES + (256 << 20)
OPTIONS = DeviceOptions(DEVICE, BUDGET, 4 << 30)
LENGTHS, GEN_LEN = [3, 9, 1, 7, 9], 4
ONE, MANY = {"N": 5, "mu": 5}, {"N": 5, "mu": 2}
CASES = {
    "cgopipe": ("cgopipe", MANY),
    "cgopipe, page-locked": ("cgopipe", MANY | {"r_w": 0.4, "pinned": True}),
    "cgopipe, cache travels": ("cgopipe", MANY | {"A_g": 1}),
    "cgopipe, cache shared": ("cgopipe", MANY | {"A_g": 1, "r_c": 0.4, "pinned": True}),
    "fastdecode": ("fastdecode", MANY | {"r_w": 0.3}),
    "flexgen": ("flexgen", MANY | {"pinned": False}),
    "flexgen, all shared": ("flexgen", MANY | {"r_w": 0.6, "r_c": 0.4, "r_h": 0.5}),
    "flexgen-cpu": ("flexgen-cpu", MANY | {"pinned": True}),
    "zero-inference": ("zero-inference", ONE | {"pinned": False}),
    "zero-inference, page-locked": ("zero-inference", ONE | {"pinned": True}),
    "accelerate": ("accelerate", ONE),
    "gpu-only": ("gpu-only", MANY),
    "on-demand": ("on-demand", ONE),
    "fiddler": ("fiddler", ONE | {"experts_on_gpu": 0.4, "cpu_tokens": 2}),
    "fiddler, page-locked": (
        "fiddler",
        ONE | {"experts_on_gpu": 0.4, "cpu_tokens": 2, "pinned": True},
    ),
    "fiddler, all on the CPU": ("fiddler", ONE | {"experts_on_gpu": 0.0, "cpu_tokens": 99}),
    "ktransformers": ("ktransformers", ONE),
}
NO_WAITS = ("cgopipe", "cgopipe, cache travels", "fastdecode", "flexgen", "flexgen-cpu")
NO_WAITS += ("zero-inference", "gpu-only", "on-demand", "fiddler", "fiddler, page-locked")
NO_WAITS += ("ktransformers",)
HALVES = {"float16": 0.01, "bfloat16": 0.08}


class Kept:
    """A greedy sampler that keeps copies of the logits on the device, by position."""

    def __init__(self):
        self.seen = {}

    def __call__(self, logits, requests, position):
        for row, request in zip(logits.float().unbind(), requests.unbind(), strict=True):
            self.seen.setdefault(position, []).append((request.clone(), row.clone()))
        return logits.argmax(dim=-1)

    def of(self, request):
        """(positions, vocabulary) of one prompt."""
        rows = [
            row.cpu()
            for position in sorted(self.seen)
            for number, row in self.seen[position]
            if int(number) == request
        ]
        return torch.stack(rows)


def generate(name, source, prompts=None, gen_len=GEN_LEN):
    """Tokens by prompt, and the logits that they were chosen from."""
    kind, values = CASES[name]
    prompts = random_prompts(LENGTHS) if prompts is None else prompts
    policy, kept = make_policy(values | {"N": len(prompts)}), Kept()
    if find_schedule(kind).one_batch:
        policy = policy.model_copy(update={"mu": len(prompts)})
    with Session(find_schedule(kind), source, policy, prompts, gen_len, OPTIONS, kept) as session:
        steps = [session.prefill(), *(session.decode_step() for _ in range(gen_len - 1))]
    return np.stack(steps, axis=1).tolist(), kept


@torch.no_grad()
def expected_logits(model, prompt, tokens):
    """Of the positions that yield `tokens`, by transformers on the same device."""
    ids = torch.tensor([[*prompt, *tokens[:-1]]], device=DEVICE)
    return model(ids, use_cache=False).logits[0, len(prompt) - 1 :].float().cpu()


def errors(name, source, model):
    """Of each logit row, relative to the largest logit of its prompt; whether tokens are equal."""
    tokens, kept = generate(name, source)
    found, equal = [], []
    for number, prompt in enumerate(random_prompts(LENGTHS)):
        wanted = expected_logits(model, prompt, tokens[number])
        worst = (kept.of(number) - wanted).abs().amax(dim=1) / wanted.abs().max()
        found += worst.tolist()
        equal.append(tokens[number] == wanted.argmax(dim=1).tolist())
    return np.array(found), all(equal)


@pytest.fixture(autouse=True)
def whole_device():
    """Sessions limit what this process may allocate; the reference may have all of it."""
    torch.cuda.set_per_process_memory_fraction(1.0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("models") / request.param, request.param)
    return Checkpoint(folder), reference(folder).to(DEVICE)


@pytest.fixture(scope="module", params=HALVES)
def half(request, tmp_path_factory):
    if request.param == "bfloat16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no bfloat16 before Ampere")
    dtype = getattr(torch, request.param)
    folder = save_checkpoint(tmp_path_factory.mktemp("half") / "model", "mixtral", dtype=dtype)
    return Checkpoint(folder), reference(folder, dtype).to(DEVICE), HALVES[request.param]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny Mixtral in float16, as a T4 would run it."""
    folder = tmp_path_factory.mktemp("model")
    return Checkpoint(save_checkpoint(folder, "mixtral", dtype=torch.float16))


# -- exactness --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_logits_and_tokens_of_the_reference(family, name):
    found, equal = errors(name, *family)
    assert found.max() <= 1e-3
    assert equal


@pytest.mark.parametrize("name", CASES)
def test_half_precision(half, name):
    """Where two experts are equally probable, rounding decides, and what follows differs."""
    source, model, relative = half
    found, _ = errors(name, source, model)
    assert np.quantile(found, 0.75) <= relative


@pytest.mark.parametrize("name", ["gpu-only", "flexgen, all shared", "cgopipe, cache shared"])
def test_many_unequal_prompts(name, tmp_path):
    """Indices of one micro-batch must outlive the kernels that read them."""
    source = Checkpoint(save_checkpoint(tmp_path / "model", "mixtral"))
    prompts = random_prompts([1 + 7 * i % 23 for i in range(40)])
    tokens, _ = generate(name, source, prompts)
    kind, values = CASES[name]
    policy = make_policy(values | {"N": len(prompts)})
    assert tokens == run(kind, source, policy, prompts, GEN_LEN).tokens


# -- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_no_memory_is_asked_of_the_device_in_the_steady_state(source, name):
    """Neither from the GPU nor from the host's page-locked memory, from the third step on.

    Tensors are still made: results of attention, sorting, gathering and sampling, which PyTorch
    takes from memory that it has, as many in each step, and gives back.
    """
    counts, live = [], []
    kind, values = CASES[name]
    policy = make_policy(values)
    prompts = random_prompts([8] * 5)
    with Session(find_schedule(kind), source, policy, prompts, 9, OPTIONS, Greedy()) as session:
        session.prefill()
        for _ in range(8):
            session.decode_step()
            stats, host = torch.cuda.memory_stats(), torch.cuda.host_memory_stats()
            counts.append((stats["num_device_alloc"], host["num_host_alloc"]))
            live.append(stats["allocation.all.current"])
    assert len({device for device, _ in counts[2:]}) == 1
    assert (
        counts[-1][1] - counts[2][1] <= 2
    )  # a block whose last copy has just ended is passed over
    assert len(set(live[2:])) == 1


def test_memory_of_earlier_sessions_counts_as_free(source):
    free, _ = torch.cuda.mem_get_info()
    cached = torch.empty(free // 2, dtype=torch.uint8, device=DEVICE)
    del cached
    options = DeviceOptions(DEVICE, int(free * 0.8), 4 << 30)
    for _ in range(2):
        CudaDevice(options)


def test_the_budget_is_enforced(source):
    with Session(
        find_schedule("gpu-only"), source, make_policy(MANY), random_prompts(LENGTHS), 4, OPTIONS,
        Greedy(),
    ) as session:  # fmt: skip
        session.prefill()
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(BUDGET, dtype=torch.uint8, device=DEVICE)
        session.decode_step()
        assert torch.cuda.max_memory_reserved() <= BUDGET
        assert session.peak_bytes["gpu"] <= BUDGET


def test_page_locked_memory_is_as_large_as_asked():
    device = CudaDevice(OPTIONS)
    for size in (1000, REGISTERED_BYTES, REGISTERED_BYTES + 12345):
        made = device.empty(size, "pinned")
        assert made.is_pinned()
        assert made[size // 2 :].is_pinned()
        assert made.untyped_storage().nbytes() == size
        made.fill_(7)
        there = made.to(DEVICE, non_blocking=True)
        torch.cuda.synchronize()
        assert bool((there == 7).all())
        del made


# -- waits and errors -------------------------------------------------------------------------


@pytest.fixture
def waits_are_errors():
    """A switch of the whole process: operations that wait for the device fail in every thread."""
    yield lambda on: torch.cuda.set_sync_debug_mode("error" if on else "default")
    torch.cuda.set_sync_debug_mode("default")


def test_the_switch_reaches_other_threads(waits_are_errors):
    found, x = [], torch.ones(3, device=DEVICE)

    def wait():
        try:
            x.sum().item()
        except RuntimeError as error:
            found.append(str(error))

    waits_are_errors(True)
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert "synchronizing" in found[0]


@pytest.mark.parametrize("name", NO_WAITS)
def test_nothing_waits_for_the_device_behind_the_schedules_back(source, name, waits_are_errors):
    """The schedule's own waits are events; what else would stop a lane, or the issuer, fails."""
    kind, values = CASES[name]
    prompts = random_prompts([8] * 5)
    with Session(
        find_schedule(kind), source, make_policy(values), prompts, 7, OPTIONS, Greedy()
    ) as session:
        session.prefill()
        session.decode_step()
        session.decode_step()
        run_step = session.schedule.run_decode_step

        def strict(step):
            waits_are_errors(True)
            try:
                run_step(step)
            finally:
                waits_are_errors(False)

        session.schedule.run_decode_step = strict
        for _ in range(4):
            session.decode_step()


def test_an_error_in_a_lane_ends_the_run_and_not_the_next_one(source):
    def broken(logits, requests, position):
        if position == 2:
            raise ValueError("no such token")
        return logits.argmax(dim=-1)

    arguments = (find_schedule("cgopipe"), source, make_policy(MANY), random_prompts(LENGTHS), 4)
    with Session(*arguments, OPTIONS, broken) as session:
        session.prefill()
        session.decode_step()
        with pytest.raises(MoelabError, match="no such token"):
            session.decode_step()
    with Session(*arguments, OPTIONS, Greedy()) as session:
        session.prefill()
        assert (session.decode_step() >= 0).all()


# -- the timeline, and a model of some size ---------------------------------------------------

CLOCK_S = 5e-5  # between the device's clock and the host's
ROUNDING_S = 2e-6  # of times that CUDA gives in milliseconds, as float32


@pytest.mark.parametrize("name", CASES)
def test_the_timeline_obeys_the_laws(source, name):
    kind, values = CASES[name]
    found = run(kind, source, make_policy(values), random_prompts(LENGTHS), 4, OPTIONS)
    frame = found.timeline.frame
    start = dict(zip(frame["task"], frame["start_s"], strict=True))
    end = dict(zip(frame["task"], frame["end_s"], strict=True))
    assert len(frame) == sum(map(len, found.graphs))
    assert (frame["end_s"] >= frame["start_s"]).all()
    for _, lane in frame.groupby("stream"):
        lane = lane.sort_values("task")
        gaps = lane["start_s"].to_numpy()[1:] - lane["end_s"].to_numpy()[:-1]
        assert (gaps >= -ROUNDING_S).all()
    first = 0
    for graph in found.graphs:
        for i in range(len(graph)):
            for j in graph.dependencies_of(i):
                assert start[first + i] >= end[first + int(j)] - CLOCK_S
        first += len(graph)


@pytest.fixture(scope="module")
def large():
    """CGOPipe with page-locked weights on three layers of Mixtral 8x7B, which share their memory.

    Large enough for bandwidths to show: 2.8 GB travel for each layer.
    """
    free, _ = torch.cuda.mem_get_info() if CUDA else (0, 0)
    if free < 12 << 30:
        pytest.skip("needs 12 GiB of free device memory")
    spec = load_model("mixtral-8x7b").with_layers(3)
    weights = RandomWeights(spec, shared=True)
    options = DeviceOptions(DEVICE, 10 << 30, 64 << 30)
    prompts = random_prompts([32] * 64)
    policy = make_policy({"N": 64, "mu": 16, "pinned": True})
    return run("cgopipe", weights, policy, prompts, 4, options)


def test_the_peak_is_as_predicted(large):
    peak, predicted = large.peak_bytes["gpu"], large.predicted_bytes["gpu"]
    assert abs(peak - predicted) <= 0.02 * predicted


def test_weights_travel_while_the_gpu_computes(large):
    """Of the GPU's work in decode steps, most is done while the link is busy too."""
    frame = large.timeline.frame
    frame = frame[frame["step"] > 0]
    gpu = intervals(frame[frame["stream"] == "gpu"])
    h2d = intervals(frame[frame["op"] == "load_weights"])
    both = sum(max(0.0, min(b, d) - max(a, c)) for a, b in gpu for c, d in h2d if c < b and a < d)
    assert both >= 0.5 * min(sum(b - a for a, b in gpu), sum(b - a for a, b in h2d))


def intervals(rows):
    """Start and end of each task, which follow one another."""
    found = rows.sort_values("start_s")[["start_s", "end_s"]].to_numpy().tolist()
    assert all(a[1] <= b[0] + ROUNDING_S for a, b in pairwise(found))
    return found


def test_copies_reach_the_links_bandwidth(large):
    """Pages travel at least at half the speed of a plain copy from page-locked memory."""
    frame = large.timeline.frame
    rows = frame[(frame["op"] == "load_weights") & (frame["step"] > 0)]
    rate = rows["link_bytes"].sum() / (rows["end_s"] - rows["start_s"]).sum()
    here = torch.empty(1 << 30, dtype=torch.uint8).random_().pin_memory()
    there = torch.empty_like(here, device=DEVICE)
    seconds = []
    for _ in range(4):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        there.copy_(here, non_blocking=True)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) * 1e-3)
    assert rate >= 0.5 * len(here) / min(seconds)


# -- grouped products, several GPUs -----------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 7, 200])
def test_grouped_products_equal_the_loop(tokens, monkeypatch):
    spec = load_model("mixtral-8x7b").with_layers(1)
    spec = spec.model_copy(
        update={"dtype": "bfloat16", "hidden_size": 512, "expert_ffn_size": 768, "head_dim": 16}
    )
    weights = RandomWeights(spec, std=0.05)
    arch = weights.architecture
    if not grouped.has_grouped_gemm(torch.bfloat16, torch.device(DEVICE, 0)):
        pytest.skip("this device has no grouped GEMM")
    w = layer_weights(weights, 0, DEVICE)
    x = torch.randn(tokens, 512, device=DEVICE).bfloat16()
    ids = torch.rand(tokens, 8, device=DEVICE).argsort(dim=1)[:, :2].contiguous()
    gates = torch.rand(tokens, 2, device=DEVICE).to(arch.gate_dtype)
    outs = []
    for looped in (False, True):
        if looped:
            monkeypatch.setattr(sys.modules[experts.__module__], "stacks", lambda *_: None)
        out = torch.zeros_like(x)
        with torch.inference_mode():
            experts(arch, w, x, ids, gates, out, Workspace.of_size(1 << 26, DEVICE))
        outs.append(out.float())
    error = (outs[0] - outs[1]).norm() / outs[1].norm()
    assert error < 1e-2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs several CUDA devices")
def test_tensor_parallel_gpus_yield_the_tokens_of_one(tmp_path):
    """With NCCL, on two GPUs that torchrun's processes share out."""
    folder, out = save_checkpoint(tmp_path / "model", "mixtral"), tmp_path / "found"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(ROOT / "tests/runtime/cuda_worker.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    end = subprocess.run(
        [*command, str(folder), str(out), str(BUDGET)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert end.returncode == 0, end.stderr[-2000:]
    expected = plain_generate(Checkpoint(folder), PROMPTS, PARALLEL_GEN_LEN)
    for rank in range(2):
        found = json.loads(Path(f"{out}.{rank}").read_text())
        assert found == dict.fromkeys(PARALLEL_CASES, expected)
