"""The budget: what is allocated, what the schedule predicts, and what is refused."""

import pytest
import torch

from runtime.architecture import Architecture
from runtime.device import DeviceOptions, HostDevice
from runtime.kv import KVLayout
from runtime.memory import Memory
from runtime.quantised import modified
from runtime.random_weights import RandomWeights
from runtime.session import Session
from schedules.batching import balance
from schedules.errors import Infeasible, MoelabError
from schedules.model import ModelSpec
from schedules.modifiers import make_modifiers
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from schedules.task import Buffer
from tests.runtime.checkpoints import random_prompts
from tests.runtime.runs import OPTIONS, SCHEDULES, run

SPEC = ModelSpec(
    name="mini-mixtral",
    family="mixtral",
    dtype="float32",
    n_layers=2,
    hidden_size=256,
    vocab_size=1000,
    n_heads=8,
    n_kv_heads=4,
    head_dim=32,
    n_experts=8,
    top_k=2,
    expert_ffn_size=512,
    ffn_matrices=3,
    tied_embeddings=False,
    max_context=512,
    source="this test",
)
LENGTHS = [50, 31, 44, 60, 27, 38, 41, 55] * 2


@pytest.fixture(scope="module")
def source():
    """Random weights: 12.6 MB of experts a layer."""
    return RandomWeights(Architecture.from_spec(SPEC))


CASES = [(name, {}) for name in SCHEDULES] + [
    ("cgopipe", {"r_w": 0.3}),
    ("cgopipe", {"A_g": 1, "r_c": 0.4}),
    ("flexgen", {"r_w": 0.5, "r_c": 0.5, "r_h": 0.5}),
    ("flexgen-cpu", {"r_w": 0.6, "pinned": False}),
]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_what_is_allocated_is_what_the_schedule_predicts(source, name, values):
    """To 2 %: cuts between rows and between sequences, and alignment, are all that differs."""
    n = len(LENGTHS)
    mu = n if find_schedule(name).one_batch else n // 4
    policy = make_policy({"N": n, "mu": mu, **values})
    found = run(name, source, policy, random_prompts(LENGTHS), 3)
    predicted = found.predicted_bytes["gpu"]
    assert abs(found.peak_bytes["gpu"] - predicted) <= 0.02 * predicted


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "changes", [{"experts": "int4"}, {"weights": "int8"}, {"weights": "int8", "skip": 0.5}]
)
def test_what_is_allocated_for_a_modified_model(source, name, changes):
    """Packed weights, and the room in which a matrix is written out."""
    spec = make_modifiers(changes).applied(SPEC)
    n = len(LENGTHS)
    policy = make_policy({"N": n, "mu": n if find_schedule(name).one_batch else n // 4})
    found = run(name, modified(source, spec), policy, random_prompts(LENGTHS), 2)
    predicted = found.predicted_bytes["gpu"]
    assert abs(found.peak_bytes["gpu"] - predicted) <= 0.02 * predicted


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_budget_is_kept(source, name):
    """With what a run used it runs again; with a tenth less it is refused, before any work."""
    n = len(LENGTHS)
    mu = n if find_schedule(name).one_batch else n // 4
    fixed = {"experts_on_gpu": 0.5} if name == "fiddler" else {}  # or it takes as many as fit
    policy, prompts = make_policy({"N": n, "mu": mu} | fixed), random_prompts(LENGTHS)
    first = run(name, source, policy, prompts, 2)
    used = first.peak_bytes["gpu"]
    enough = DeviceOptions("cpu", used, 1 << 30, gpu_threads=1, cpu_threads=1)
    assert run(name, source, policy, prompts, 2, enough).tokens == first.tokens
    less = DeviceOptions("cpu", int(0.9 * used), 1 << 30, gpu_threads=1, cpu_threads=1)
    with pytest.raises(Infeasible, match="pool 'gpu' is too small"):
        Session(find_schedule(name), source, policy, prompts, 2, less, lambda *_: None)


def test_memory_of_the_host_is_limited_too(source):
    tight = DeviceOptions("cpu", 1 << 27, 1 << 20)
    with pytest.raises(Infeasible, match="pool 'cpu' is too small"):
        run("cgopipe", source, make_policy({"N": 1, "mu": 1}), random_prompts([4]), 2, tight)


def memory(capacity=1 << 20):
    """An empty memory for one micro-batch of two sequences."""
    layout = KVLayout(balance([3, 5], 2), 4, 2, 16, 4)
    return Memory(HostDevice(OPTIONS), SPEC, 1, layout, capacity)


def test_a_view_must_fit_its_buffer():
    buffer = Buffer("qkv[0]", "gpu", 1024)
    own = memory()
    own.commit([buffer])
    assert own.view(buffer, (16, 16), torch.float32).shape == (16, 16)
    with pytest.raises(MoelabError, match=r"'qkv\[0\]' has 1024 bytes, but .* \(16, 17\) needs"):
        own.view(buffer, (16, 17), torch.float32)
    with pytest.raises(MoelabError, match=r"'other' has 0 bytes"):
        own.view(Buffer("other", "gpu", 10), (1,), torch.float32)


def test_tables_count_too():
    own = memory(1_000_000)
    own.gpu_tensor("token ids", (100_000,), torch.int64)
    with pytest.raises(Infeasible, match=r"'more ids' needs 0\.240 MB beside 0\.800 MB"):
        own.gpu_tensor("more ids", (30_000,), torch.int64)
