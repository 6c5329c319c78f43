"""Policy values under any of their names, and values that no search could make sense of."""

import pytest

from schedules.errors import BadInput
from sim import compare, simulate
from sim.given import given_policy

S1 = ("mixtral-8x7b", "gcp-t4-24c", "mtbench")


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ((None, None, None), {}),
        ((8, None, None), {"N": 8}),
        ((8, 2, {"r_w": 0.1}), {"N": 8, "mu": 2, "r_w": 0.1}),
        ((None, None, {"batch": 8, "micro_batch": 2}), {"N": 8, "mu": 2}),
        ((None, 2, {"batch_size": 8}), {"N": 8, "mu": 2}),
        ((None, None, {"micro_batch_size": "4"}), {"mu": "4"}),
        ((8, None, {"weights_on_gpu": 0.1, "attention_on_gpu": 1}), {"N": 8, "r_w": 0.1, "A_g": 1}),
        ((None, None, {"cache_on_gpu": 1, "activations_on_gpu": 0}), {"r_c": 1, "r_h": 0}),
    ],
)
def test_standard_names(given, values):
    assert given_policy(*given) == values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((8, None, {"N": 4}), "N is given twice, as 4 and as 8"),
        ((None, 2, {"mu": 2}), "mu is given twice"),
        ((None, None, {"r_w": 0.1, "weights_on_gpu": 0.2}), "r_w is given twice"),
        ((8, 16, None), "mu = 16 is larger than the batch N = 8"),
        ((0, None, None), "N = 0"),
        ((8.5, None, None), r"N = 8\.5: input should be a valid integer"),
        ((float("nan"), None, None), "N = nan"),
        ((None, -3, None), "^policy: mu = -3"),
        ((None, None, {"r_w": None}), "r_w = None"),
        ((None, None, {"r_w": float("nan")}), "r_w = nan: input should be a finite number"),
        ((None, None, {"r_w": 1.5}), "r_w = 1.5"),
        ((None, None, {"A_g": 2}), "A_g = 2"),
        ((None, None, {"pool": "gpu"}), "unknown key 'pool'"),
        ((100_001, None, None), "N = 100001; a batch has at most 100,000 sequences"),
        ((100_000, 9, None), "make 11,112 micro-batches; a batch has at most 10,000"),
    ],
)
def test_impossible_policies(given, message):
    with pytest.raises(BadInput, match=message):
        given_policy(*given)
    with pytest.raises(BadInput, match=message):
        simulate("cgopipe", *S1, 3, *given)
    with pytest.raises(BadInput, match=message):
        compare(["cgopipe", "flexgen"], *S1, 3, *given)


def test_the_largest_batch_can_be_asked_for():
    assert given_policy(100_000, 10, None) == {"N": 100_000, "mu": 10}
