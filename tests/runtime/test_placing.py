"""What is refused before anything is read or allocated."""

import pytest

from runtime.device import CUDA_RESERVE_BYTES, DeviceOptions
from runtime.placing import budget_bytes, check_memory, check_schedule
from runtime.random_weights import RandomWeights
from runtime.session import Session
from schedules.errors import BadInput, Infeasible, MoelabError
from schedules.policy import make_policy
from schedules.schedule import find_schedule
from tests.runtime.checkpoints import random_prompts
from tests.runtime.runs import SCHEDULES, Logits
from tests.runtime.test_real_runs import MODEL

LENGTHS = [3, 9, 1, 7, 5]


def options(gpu_memory_bytes, device="cpu"):
    return DeviceOptions(device, gpu_memory_bytes, 1 << 28, gpu_threads=1, cpu_threads=1)


def test_the_budget():
    assert budget_bytes(options(1000)) == 1000
    assert budget_bytes(options(CUDA_RESERVE_BYTES + 1, "cuda")) == 1
    said = f"--gpu-memory must be more than {CUDA_RESERVE_BYTES >> 20} MiB on a CUDA device"
    with pytest.raises(BadInput, match=said):
        budget_bytes(options(CUDA_RESERVE_BYTES, "cuda"))


@pytest.mark.parametrize(
    ("name", "mu", "gpus", "said"),
    [
        ("flexgen", 2, 2, "'flexgen' runs on one GPU; on several only tensor-parallel ones run"),
        ("on-demand", 4, 2, "schedule 'on-demand' uses one GPU, but 2 were asked for"),
        (
            "accelerate",
            2,
            1,
            "schedule 'accelerate' runs the batch as one: mu = 2 must equal N = 4",
        ),
    ],
)
def test_schedules_that_cannot_run(name, mu, gpus, said):
    with pytest.raises(BadInput, match=said):
        check_schedule(find_schedule(name), make_policy({"N": 4, "mu": mu}), gpus)


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_refuses_no_session_that_can_open_and_almost_all_that_cannot(name):
    """The runtime's own tables come on top: rounding, and a row more where rows are cut."""
    kind = find_schedule(name)
    stay = {"experts_on_gpu": 0.25} if "experts_on_gpu" in kind.knobs else {}  # not all that fit
    policy = make_policy({"N": 5, "mu": 5 if kind.one_batch else 2} | stay)
    source, prompts = RandomWeights(MODEL), random_prompts(LENGTHS)

    def opens(size_bytes):
        try:
            Session(
                kind, source, policy, prompts, 3, options(size_bytes), Logits(), record=False
            ).close()
        except Infeasible:
            return False
        return True

    def passes(size_bytes):
        try:
            check_memory(kind, MODEL, policy, LENGTHS, 3, options(size_bytes))
        except Infeasible:
            return False
        return True

    least = {check: smallest(check) for check in (opens, passes)}
    assert 0.7 * least[opens] < least[passes] <= least[opens]


def smallest(fits):
    """The fewest bytes, to 1 kB."""
    low, high = 0, 1 << 21
    assert fits(high)
    while high - low > 1000:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def test_a_mistake_of_a_schedule_is_a_sentence():
    class Mistaken(find_schedule("cgopipe")):
        def __init__(self, node):
            raise IndexError("list index out of range\nand so on")

    policy = make_policy({"N": 5, "mu": 2})
    with pytest.raises(MoelabError) as error:
        check_memory(Mistaken, MODEL, policy, LENGTHS, 3, options(1 << 20))
    assert str(error.value) == (
        "schedule 'cgopipe' cannot take its memory: IndexError: list index out of range"
    )
